# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The constraint of one update: its groups, and the norms that they keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from lawn_optax import _geometry as geometry
from lawn_optax._guards import root
from lawn_optax._radius import Radius, radii
from lawn_optax._switch import PhaseState
from lawn_optax._types import AxisName, Groups, PyTree
from lawn_optax.groups._doubts import warn_of_doubts
from lawn_optax.groups._resolve import Block, Grouping, absent, resolve

# (<u,u>, <u,w>, <w,w>, whether constrained) -> factor of a group's update u
ScaleFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


@runtime_checkable
class CapturedNorms(Protocol):
    """What every state with captured norms has; `describe` finds states by it."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups


def init_norms(groups: Groups, params: optax.Params) -> tuple[jax.Array, jax.Array]:
    """`norms` and `fingerprint` of a new state."""
    grouping = resolve(groups, params)
    warn_of_doubts(grouping)
    return (
        jnp.zeros((grouping.num_norms,), grouping.dtype),
        jnp.asarray(grouping.fingerprint, jnp.int32),
    )


def has_value(x: Any) -> bool:
    """Whether an array is there, and is not traced."""
    return x is not None and not isinstance(x, Tracer)


def check_state(
    grouping: Grouping, norms: jax.Array, fingerprint: jax.Array | None
) -> None:
    """Raises an error if norms of a state surely belong to another grouping.

    Under `jit` the fingerprint has no value yet: only `lawn_optax.check` sees it.
    """
    if jnp.shape(norms) != (grouping.num_norms,):
        raise ValueError(
            f"The optimizer state holds norms of the shape {jnp.shape(norms)}, but "
            f"these `groups` and parameters have {grouping.num_norms} norms: the state "
            "was made for others. Start with a new state. If state and parameters have "
            "a leading axis of replicas, `jax.vmap` the update too."
        )
    if has_value(fingerprint) and np.asarray(fingerprint) != grouping.fingerprint:
        raise ValueError(
            "The optimizer state was made for other groups than those of these "
            "parameters, so that its norms would go to the wrong leaves. Pass the "
            "parameters and `groups` that the optimizer was made with. If modules were "
            "renamed since, `lawn_optax.recapture(state, params)` reads the norms anew."
        )


class Sphere(NamedTuple):
    """The groups of one update and the norms that they keep.

    `weights` and `axes` have one entry per leaf, the other lists one per block.
    """

    grouping: Grouping
    count: jax.Array  # int32[]; updates done so far
    constrained: jax.Array  # bool[]; False in the free phase
    weights: list[Any]  # None for a leaf without an update: it is not on the sphere
    axes: list[tuple]  # mesh axes over which the sums of a leaf are completed
    weight_sq: list[jax.Array]  # squared norms now
    norms: list[jax.Array]  # captured norms, 0 where free
    active: list[jax.Array]  # bool; whether constrained in this update

    @classmethod
    def capture(
        cls,
        grouping: Grouping,
        axis_name: AxisName,
        params: PyTree,
        updates: PyTree,
        state: CapturedNorms,
        constrained: jax.Array,
        first: jax.Array,
        radius: Radius = None,
    ) -> tuple[Sphere, list[Any]]:
        """The sphere of this update, and the leaves of the updates.

        The norms are read, or given by `radius`, in the first constrained update;
        later they come from `state`.
        """
        check_state(grouping, state.norms, state.fingerprint)
        leaves, weights = grouping.flatten_moving(updates, params)
        axes = geometry.reduction_axes(axis_name, params, weights)
        weight_sq = geometry.inner_products(grouping, weights, weights, axes)
        norms = []
        for block, square, old in zip(
            grouping.blocks,
            weight_sq,
            geometry.split(grouping, state.norms),
            strict=True,
        ):
            found = geometry.has_norm(square) & geometry.movable(
                block, grouping, leaves
            )
            norm = jnp.sqrt(jnp.where(found, square, 1))
            new = jnp.where(found, radii(radius, grouping, block, norm), 0)
            norms.append(jnp.where(first, new, old))
        active = [constrained & (norm > 0) for norm in norms]
        count = state.phase.count
        return (
            cls(grouping, count, constrained, weights, axes, weight_sq, norms, active),
            leaves,
        )

    def norm_vector(self) -> jax.Array:
        """The captured norms as the state keeps them."""
        return geometry.join(self.norms, self.grouping.dtype)

    def now(self, value: Any) -> jax.Array:
        """The number itself, or the value of a schedule at this update."""
        value = value(self.count) if callable(value) else value
        return jnp.asarray(value, self.grouping.dtype)

    def products(self, updates: list[Any]) -> tuple[list[jax.Array], list[jax.Array]]:
        """<u,u> and <u,w> per block."""
        return (
            geometry.inner_products(self.grouping, updates, updates, self.axes),
            geometry.inner_products(self.grouping, updates, self.weights, self.axes),
        )

    def project(self, updates: list[Any]) -> list[Any]:
        """Removes the component along the weights."""
        dots = geometry.inner_products(self.grouping, updates, self.weights, self.axes)
        return geometry.tangent(
            self.grouping, updates, self.weights, dots, self.weight_sq, self.active
        )

    def project_small_groups(self, updates: list[Any]) -> list[Any]:
        """`project` for groups of at most 64 elements, ahead of a trust ratio.

        If u is nearly parallel to w, <u,u> - <u,w>^2 / <w,w> loses its digits, and a
        trust ratio, which divides by its root, amplifies the error. Groups of a few
        elements can be nearly parallel by chance. Measured for that length in float32,
        as the largest relative error of 200,000 random directions, without and with
        this projection: 38 and 7e-4 for 2 elements, 5e-3 and 8e-6 for 3, 9e-5 and 4e-7
        for 4, 2e-6 and 2e-7 for 8; from 16 elements on there is no difference. 64
        leaves room for directions that are not random, in leaves too small to cost
        time.
        """
        small = [k for k, size in enumerate(self.grouping.block_sizes) if size <= 64]
        if not small:
            return updates
        blocks = tuple(self.grouping.blocks[k] for k in small)
        part = self._replace(
            grouping=dataclasses.replace(self.grouping, blocks=blocks),
            weight_sq=[self.weight_sq[k] for k in small],
            active=[self.active[k] for k in small],
        )
        return part.project(updates)

    def retract(
        self,
        updates: list[Any],
        *,
        project: bool,
        scale: ScaleFn | None = None,
        soften: Callable[[jax.Array], jax.Array] = lambda r: r,
    ) -> list[Any]:
        """Scales each group's update and changes it so that it ends on the sphere.

        Or elsewhere, if `soften` changes the factor that takes the weights there.
        """
        if scale is None:
            updates = self._evaluate_once(updates)
        # Without a barrier, XLA may compute the inner update twice, for the sums and
        # for the result. One barrier per leaf: a shared one would mark every output as
        # varying over every mesh axis.
        updates = jax.tree.map(jax.lax.optimization_barrier, updates)
        update_sq, dots = self.products(updates)
        factors = None
        if scale is not None:
            sums = zip(update_sq, dots, self.weight_sq, self.active, strict=True)
            factors = [scale(*of_group) for of_group in sums]
            update_sq = [f * f * x for f, x in zip(factors, update_sq, strict=True)]
            dots = [f * x for f, x in zip(factors, dots, strict=True)]
        of_update, of_weights, active = [], [], []
        for k, block in enumerate(self.grouping.blocks):
            norm = self._within_reach(k, block, updates)
            p, q = geometry.retraction(
                update_sq[k],
                dots[k],
                self.weight_sq[k],
                norm,
                project=project,
                soften=soften,
            )
            # A non-finite update is returned unchanged.
            active.append(self.active[k] & jnp.isfinite(p) & jnp.isfinite(q))
            of_update.append(p)
            of_weights.append(q)
        return geometry.combine(
            self.grouping, updates, self.weights, of_update, of_weights, active, factors
        )

    def _within_reach(self, k: int, block: Block, updates: list[Any]) -> jax.Array:
        """The norm of a block after this update: the captured one, if it fits.

        An update narrower than float32 is a rounded difference of weights. If it made
        the weights many times shorter, as a `radius` may ask, its rounding would be
        longer than they are, and their direction would be lost. So weights with such
        updates become at most half as long at a time.
        """
        moving = [updates[i] for i in block.leaves if not absent(updates[i])]
        if all(jnp.finfo(u.dtype).bits >= 32 for u in moving):
            return self.norms[k]
        square = jnp.where(jnp.isfinite(self.weight_sq[k]), self.weight_sq[k], 0)
        nearest = jnp.maximum(self.norms[k], root(square) / 2)
        return jnp.where(self.norms[k] > 0, nearest, 0)

    def _evaluate_once(self, updates: list[Any]) -> list[Any]:
        """The same updates, such that a CPU computes each of them once.

        XLA's CPU compiler drops the barrier of `retract`. It then repeats cheap
        operations, such as the product with a learning rate, for the sums and for the
        result. It never repeats a division, so we divide by a value that is 1, which
        XLA cannot prove. Measured with jaxlib 0.10.2: a step of Adam makes 20 passes
        over the parameters instead of 22 (`benchmarks/results/README.md`). On other
        backends the barrier suffices. The bits are the same.
        """
        if jax.default_backend() != "cpu":
            return updates
        updates, one = list(updates), jnp.where(self.count < 0, 2.0, 1.0)
        for i in (i for block in self.grouping.blocks for i in block.leaves):
            if not absent(updates[i]):
                updates[i] = updates[i] / one.astype(updates[i].dtype)
        return updates

    def scale_free_leaves(self, updates: list[Any], scale: ScaleFn) -> list[Any]:
        """Multiplies each update of a leaf outside all groups by its own scale."""
        grouping = self.grouping.free_leaves()
        sphere = self._replace(grouping=grouping)
        update_sq, dots = sphere.products(updates)
        weight_sq = geometry.inner_products(
            grouping, self.weights, self.weights, self.axes
        )
        free = jnp.zeros([], bool)
        factors = [
            scale(*sums, free) for sums in zip(update_sq, dots, weight_sq, strict=True)
        ]
        return geometry.multiply(grouping, factors, updates)
