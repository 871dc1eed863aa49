# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Weights as a function of a trained vector v: w = r v / |v|, one radius r per group.

    gradient of w --> [chain rule] --> inner optimizer of v --> [w = r v / |v|]

A `Radius` says what r is. `reparametrize` keeps each group's own norm,
`weight_normalization` trains it, and bounded weight norm keeps one for all channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import check_state, init_norms
from lawn_optax._guards import quotient, root
from lawn_optax._reset import Reset, check_reset, reset_state
from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import AxisName, Groups, as_transformation, check_params
from lawn_optax.groups._resolve import Grouping, absent, resolve


class Polar(NamedTuple):
    """What weight normalisation trains."""

    v: Any  # like the parameters
    g: Any  # float32[num_norms] (float64 with x64 leaves); lengths, one per group


class ReparametrizedState(NamedTuple):
    """State of the transformation returned by `reparametrize`."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups
    trained: Any  # v, like the parameters, which `inner` trains; from the switch on
    inner_state: optax.OptState


class Radius(NamedTuple):
    """The length r of the weights, and whether `inner` trains it beside v."""

    read: Callable[[jax.Array], jax.Array]  # squared norms of one block -> radii
    is_trained: bool = False

    def at_start(self, grouping: Grouping, squares: Sequence[jax.Array], gradients):
        """The radii of the first constrained update; 0 if a group has no direction."""
        radii = []
        for block, square in zip(grouping.blocks, squares, strict=True):
            found = geometry.has_norm(square)
            found &= geometry.movable(block, grouping, gradients)
            new = self.read(square)
            radii.append(jnp.where(found & jnp.isfinite(new), new, 0))
        return radii

    def pack(
        self, grouping: Grouping, v: Sequence[Any], lengths: Sequence[jax.Array]
    ) -> Any:
        """What `inner` sees in place of the parameters or of the gradient."""
        tree = grouping.treedef.unflatten(v)
        if not self.is_trained:
            return tree
        return Polar(tree, geometry.join(lengths, grouping.dtype))

    def unpack(self, grouping: Grouping, packed: Any, name: str):
        """The leaves of v, and the lengths or None."""
        if not self.is_trained:
            return grouping.flatten(packed, name), None
        lengths = geometry.split(grouping, packed.g)
        return grouping.flatten(packed.v, name), lengths


def reparametrize(
    inner: optax.GradientTransformation,
    switch_step: Step = 0,
    *,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAWN by reparametrisation: `inner` trains v, the weights are a function of it.

    From the switch on ``w = c v / |v|``, where v begins as w and c is its norm. The
    LAWN paper names this as its other implementation. Unlike the weights of
    `lawn_optax.wrap`, v does not return to its sphere: each step of gradient descent
    lengthens it, and the gradient of v, ``c / |v|`` times the projected one, shrinks as
    v grows. For gradient descent the two agree to first order in the step.

    Args:
      inner: The whole optimizer, learning rate included. After the switch it sees v as
        `params`, and its weight decay shortens v, not w. An optimizer with a line
        search would evaluate its function at v, which is wrong.
      switch_step: Number of free updates, or a trigger; see `lawn_optax.wrap`.
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      reset: Treatment of the moments at the switch; see `lawn_optax.reset_at`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`. Extra arguments reach
      `inner`. A transformation behind it must not change updates, because the weights
      are a function of v.

    Raises:
      ValueError: For a negative step or an unknown reset; in `init`, if no leaf is
        constrained or labels do not fit.
      TypeError: If `groups` or `reset` is traced, or the step is not a number.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.baselines.reparametrize(optax.sgd(1.0))
      >>> w = jnp.array([3.0, 4.0])
      >>> updates, state = tx.update(jnp.array([-6.25, 0.0]), tx.init(w), w)
      >>> print(
      ...     state.trained, *(f"{x:.3f}" for x in w + updates)
      ... )  # [7, 1] 5 / sqrt(50)
      [7. 1.] 4.950 0.707

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3, "An alternative implementation".
    """
    check_reset(reset)
    return reparametrized(
        "reparametrize",
        inner,
        switch_step,
        Radius(root),
        ReparametrizedState,
        groups=groups,
        reset=reset,
        axis_name=axis_name,
    )


def reparametrized(
    name: str,
    inner: optax.GradientTransformation,
    switch_step: Step,
    radius: Radius,
    make_state: Callable[..., Any],
    *,
    groups: Groups,
    reset: Reset,
    axis_name: AxisName,
) -> optax.GradientTransformationExtraArgs:
    """Trains v by `inner`, with w = r v / |v| from the switch on."""
    trigger, inner = as_trigger(switch_step), as_transformation(inner, "inner")

    def init_fn(params):
        grouping = resolve(groups, params)
        norms, fingerprint = init_norms(groups, params)
        # A placeholder with the right shapes; the first constrained update fills it.
        weights, zeros = jax.tree.leaves(params), geometry.split(grouping, norms)
        trained = radius.pack(grouping, [jnp.zeros_like(w) for w in weights], zeros)
        inner_state = inner.init(radius.pack(grouping, weights, zeros))
        phase = init_phase(trigger)
        return make_state(phase, norms, fingerprint, trained, inner_state)

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, name)
        constrained, first = phase_now(trigger, state)
        grouping = resolve(groups, params)
        check_state(grouping, state.norms, getattr(state, "fingerprint", None))
        gradients, _ = grouping.flatten_moving(updates, params)
        weights = jax.tree.leaves(params)
        axes = geometry.reduction_axes(axis_name, params, weights)
        bound = bound_leaves(grouping)
        old_v, old_lengths = radius.unpack(grouping, state.trained, "state")
        # Read leaves outside all groups from the parameters: another transformation
        # may have changed them.
        v = [
            jnp.where(constrained & ~first, old, w) if i in bound else w
            for i, (w, old) in enumerate(zip(weights, old_v, strict=True))
        ]
        v_sq = geometry.inner_products(grouping, v, v, axes)
        norms = [
            jnp.where(first, new, old)
            for new, old in zip(
                radius.at_start(grouping, v_sq, gradients),
                geometry.split(grouping, state.norms),
                strict=True,
            )
        ]
        active = [constrained & (norm > 0) for norm in norms]
        lengths = norms
        if old_lengths is not None:
            lengths = [
                jnp.where(constrained & ~first, old, norm)
                for norm, old in zip(norms, old_lengths, strict=True)
            ]
        trained = radius.pack(grouping, v, lengths)
        inner_state = reset_state(inner, state.inner_state, trained, first, reset)
        dots = geometry.inner_products(grouping, gradients, v, axes)
        slopes = [
            quotient(dot, jnp.sqrt(positive(square, on)), on)
            for on, dot, square in zip(active, dots, v_sq, strict=True)
        ]
        steps, inner_state = inner.update(
            radius.pack(
                grouping,
                chain_rule(grouping, gradients, v, dots, v_sq, lengths, active),
                slopes,
            ),
            inner_state,
            trained,
            **extra_args,
        )
        leaves, moves = radius.unpack(grouping, steps, "updates of the inner optimizer")
        if moves is not None:
            lengths = [r + u for r, u in zip(lengths, moves, strict=True)]
        v = [x if absent(u) else applied(x, u) for x, u in zip(v, leaves, strict=True)]
        moved = to_spheres(grouping, v, weights, lengths, active, axes)
        leaves = geometry.choose(grouping, active, moved, leaves)
        return grouping.treedef.unflatten(leaves), state._replace(
            phase=next_phase(trigger, state.phase, first, extra_args),
            norms=geometry.join(norms, grouping.dtype),
            trained=radius.pack(grouping, v, lengths),
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# --- w = r v / |v| and its gradient ---------------------------------------------------


def bound_leaves(grouping: Grouping) -> set[int]:
    """The leaves that belong to a group."""
    return {i for block in grouping.blocks for i in block.leaves}


def applied(v: Any, u: Any) -> jax.Array:
    """The sum v + u, rounded as the state keeps it: the weights must agree with v."""
    new, dtype = jnp.asarray(v + u), jnp.result_type(v)
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits < 32:
        new = geometry.rounded(new, dtype)
    return new.astype(dtype)


def positive(square: jax.Array, on: jax.Array) -> jax.Array:
    """At least the smallest normal number: with it, v = 0 gives finite weights.

    NaN stays NaN. Where a group is not active, it is 1.
    """
    return jnp.where(on, jnp.maximum(square, jnp.finfo(square.dtype).tiny), 1)


def _scales(
    radii: Sequence[jax.Array], v_sq: Sequence[jax.Array], active: Sequence[jax.Array]
) -> list[jax.Array]:
    """The factors r / |v|, or 1 in groups that are not active."""
    return [
        jnp.where(on, radius / jnp.sqrt(positive(square, on)), 1)
        for radius, square, on in zip(radii, v_sq, active, strict=True)
    ]


def chain_rule(grouping, gradients, v, dots, v_sq, radii, active) -> list[Any]:
    """The gradient of v, (r / |v|) (g - (<g,v> / <v,v>) v); g where not active."""
    of_gradient = _scales(radii, v_sq, active)
    of_v = [
        quotient(-scale * dot, positive(square, on), on)
        for on, scale, dot, square in zip(active, of_gradient, dots, v_sq, strict=True)
    ]
    wide = list(gradients)
    present = [i for i in bound_leaves(grouping) if not absent(gradients[i])]
    for i in present:
        # `combine` rounds narrow types as if they were updates, which is wrong here.
        dtype = jnp.promote_types(gradients[i].dtype, grouping.dtype)
        wide[i] = gradients[i].astype(dtype)
    out = geometry.combine(grouping, wide, v, of_gradient, of_v, _all(of_v))
    for i in present:
        out[i] = out[i].astype(gradients[i].dtype)
    return out


def to_spheres(grouping, v, weights, radii, active, axes) -> list[Any]:
    """Updates that take the weights to r v / |v|, or to v where not active.

    They hold for leaves that belong to a group; other leaves are returned as in v.
    """
    v_sq = geometry.inner_products(grouping, v, v, axes)
    of_v = _scales(radii, v_sq, active)
    of_weights = [jnp.full_like(x, -1) for x in of_v]
    return geometry.combine(grouping, v, weights, of_v, of_weights, _all(of_v))


def _all(values: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.ones_like(x, bool) for x in values]
