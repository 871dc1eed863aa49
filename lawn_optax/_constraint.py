# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The constraint of one update: its groups, and the norms that they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._types import Groups
from lawn_optax.groups._resolve import Grouping, absent, resolve

# (<u,u>, <u,w>, <w,w>, whether constrained) -> what multiplies a group's update u
Scale = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


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

    def now(self, value: Any) -> jax.Array:
        """A number, or what a schedule gives for this update."""
        value = value(self.count) if callable(value) else value
        return jnp.asarray(value, self.grouping.dtype)


def init_sphere(groups: Groups, params: optax.Params) -> tuple[jax.Array, jax.Array]:
    grouping = resolve(groups, params)
    return (
        jnp.zeros((grouping.num_norms,), grouping.dtype),
        jnp.asarray(grouping.fingerprint, jnp.uint32),
    )
