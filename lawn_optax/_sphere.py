# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Norm spheres: the groups of one update, and the transformations that use them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._geometry import AxisName
from lawn_optax._switch import (
    ALWAYS,
    PhaseState,
    advance,
    begin,
    check_params,
    init_phase,
)
from lawn_optax.groups._resolve import (
    Grouping,
    Groups,
    absent,
    resolve,
)

# (<u,u>, <u,w>, <w,w>, whether constrained) -> what multiplies a group's update u
Scale = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class SphereState(NamedTuple):
    """State of the transformations returned by `project_tangent`, `renormalize`."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 is free
    fingerprint: jax.Array  # uint32[]; identifies the groups


class Sphere(NamedTuple):
    """The blocks of one update and the norms they keep; lists have an entry a block."""

    grouping: Grouping
    count: jax.Array  # updates done so far
    ws: list[Any]  # parameters
    axes: list[tuple]
    ww: list[jax.Array]  # squared norms now
    norms: list[jax.Array]  # captured norms, 0 where free
    on: list[jax.Array]  # whether constrained in this update

    @classmethod
    def capture(cls, grouping, axis_name, params, updates, state, constrained, first):
        """Reads the norms at the first constrained update, keeps them from then on.

        Returns the sphere and the leaves of the updates.
        """
        held = state.norms
        size = sum(block.size for block in grouping.blocks if not block.free)
        if held.shape != (size,):
            raise ValueError(
                f"The optimizer state holds {held.shape} norms, these `groups` of the "
                f"parameters have {size}: the state was made for others."
            )
        us, ws = grouping.flatten(updates, "updates"), jax.tree.leaves(params)
        # A leaf without an update stands still and does not belong to the sphere.
        ws = [None if absent(u) else w for u, w in zip(us, ws, strict=True)]
        axes = geometry.reduction_axes(axis_name, params, ws)
        ww = geometry.inner_products(grouping, ws, ws, axes)
        norms = []
        for block, square, old in zip(
            grouping.blocks, ww, geometry.split(grouping, held), strict=True
        ):
            found = geometry.has_norm(square) & geometry.movable(block, grouping, us)
            new = jnp.where(found, jnp.sqrt(square), 0)
            norms.append(jnp.where(first, new, old))
        on = [constrained & (norm > 0) for norm in norms]
        return cls(grouping, state.phase.count, ws, axes, ww, norms, on), us

    def held(self) -> jax.Array:
        """The captured norms as the state keeps them."""
        pairs = zip(self.grouping.blocks, self.norms, strict=True)
        kept = [norm for block, norm in pairs if not block.free]
        return geometry.join(kept, self.grouping.dtype)

    def project(self, us: list[Any], at_most: float = np.inf) -> list[Any]:
        """Removes the component along the weights, in groups of `at_most` elements."""
        uw = geometry.inner_products(self.grouping, us, self.ws, self.axes)
        sizes = self.grouping.block_sizes
        on = [on & (n <= at_most) for on, n in zip(self.on, sizes, strict=True)]
        return geometry.tangent(self.grouping, us, self.ws, uw, self.ww, on)

    def retract(
        self, us: list[Any], *, project: bool, scale: Scale | None = None
    ) -> list[Any]:
        """Turns each group's update, times its scale, into one ending on its sphere."""
        us = list(us)
        if scale is not None and project:
            # A trust ratio magnifies what cancels in the sums below if u is nearly
            # radial, as happens in groups of a few elements. There it costs nothing to
            # project first.
            us = self.project(us, at_most=64)
        if scale is None:
            # XLA's CPU compiler drops the barrier below and repeats what is cheap, such
            # as the product with a learning rate, for the sums and for the result. It
            # repeats no division; that this one is by 1 it cannot know.
            one = jnp.where(self.count < 0, 2.0, 1.0)
            for i in (i for block in self.grouping.blocks for i in block.leaves):
                if not absent(us[i]):
                    us[i] = us[i] / one.astype(us[i].dtype)
        # Without the barrier XLA may compute the inner update twice on a GPU, too.
        # One per leaf: one for all would make each vary over the mesh axes of any.
        us = jax.tree.map(jax.lax.optimization_barrier, us)
        uu = geometry.inner_products(self.grouping, us, us, self.axes)
        uw = geometry.inner_products(self.grouping, us, self.ws, self.axes)
        factor = None
        if scale is not None:
            factor = [scale(*x) for x in zip(uu, uw, self.ww, self.on, strict=True)]
            uu = [f * f * x for f, x in zip(factor, uu, strict=True)]
            uw = [f * x for f, x in zip(factor, uw, strict=True)]
        p, q, on = [], [], []
        for k, norm in enumerate(self.norms):
            pk, qk = geometry.retraction(
                uu[k], uw[k], self.ww[k], norm, project=project
            )
            # Not finite from an update that is not: it passes as it is.
            on.append(self.on[k] & jnp.isfinite(pk) & jnp.isfinite(qk))
            p.append(pk)
            q.append(qk)
        return geometry.combine(self.grouping, us, self.ws, p, q, on, factor)


def init_sphere(groups: Groups, params: optax.Params) -> tuple[jax.Array, jax.Array]:
    grouping = resolve(groups, params)
    return (
        jnp.zeros((grouping.num_norms,), grouping.dtype),
        jnp.asarray(grouping.fingerprint, jnp.uint32),
    )


def project_tangent(
    groups: Groups = "layer", *, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Projects updates to the tangent space of each group's norm sphere.

    For each group of leaves with weights w and gradient (or update) g::

        g <- g - (<w, g> / <w, w>) w

    It acts from its first update on; `switch_at` delays it. Groups without a tangent
    direction then (norm zero or not finite, one element) are free for good.

    Args:
      groups: What shares one norm: "layer", "leaf", "neuron", "all", or a callable
        from the parameters to a tree of labels; see `lawn_optax.groups`.
      axis_name: Mesh axes over which parameters are sharded, where it cannot be
        inferred (``shard_map(check_vma=False)``, ``pmap``): names, or a callable from
        the parameters to a tree with names (or None) per leaf.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Raises:
      ValueError: In ``init``, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.project_tangent()
      >>> w = jnp.array([3.0, 4.0])
      >>> g, _ = tx.update(jnp.array([25.0, 0.0]), tx.init(w), w)
      >>> g.tolist()
      [16.0, -12.0]

    References:
      LAWN, ICLR submission, eq. 3; Gupta et al. 2021, arXiv:2108.05839, Algorithm 3.
    """
    return on_sphere("project_tangent", groups, axis_name, Sphere.project)


def renormalize(
    groups: Groups = "layer", project: bool = True, *, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Changes updates so that each group's norm after them is the captured one.

    The norm is captured at the first update and anchors all later ones: it is not read
    again, so it does not drift. The learning rate must have acted before; put nothing
    that changes updates behind it.

    Args:
      groups: See `project_tangent`.
      project: Whether to project the update to the tangent space first.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Raises:
      ValueError: In ``init``, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.renormalize()
      >>> w = jnp.array([3.0, 4.0])
      >>> u, _ = tx.update(jnp.array([1.0, 0.0]), tx.init(w), w)
      >>> print(round(float(jnp.linalg.norm(w + u)), 5))
      5.0

    References:
      LAWN, ICLR submission, Algorithm 1, lines 9-11; Gupta et al. 2021,
      arXiv:2108.05839, Algorithm 4.
    """
    retract = functools.partial(Sphere.retract, project=project)
    return on_sphere("renormalize", groups, axis_name, retract)


def on_sphere(
    name: str,
    groups: Groups,
    axis_name: AxisName,
    change: Callable[[Sphere, list[Any]], list[Any]],
) -> optax.GradientTransformationExtraArgs:
    """The transformation that changes all updates by ``change(sphere, updates)``."""

    def init_fn(params):
        return SphereState(init_phase(ALWAYS), *init_sphere(groups, params))

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, name)
        constrained, first = begin(ALWAYS, state.phase)
        grouping = resolve(groups, params)
        sphere, us = Sphere.capture(
            grouping, axis_name, params, updates, state, constrained, first
        )
        phase = advance(ALWAYS, state.phase, first, extra_args)
        updates = grouping.treedef.unflatten(change(sphere, us))
        return updates, SphereState(phase, sphere.held(), state.fingerprint)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
