# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Weights as a function of what is trained: w = r v / |v|, r a radius per group.

    gradient of w --> [chain rule] --> inner optimizer of v --> [w = r v / |v|]

The functions at the end also serve bounded weight norm, in `baselines`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import init_sphere
from lawn_optax._reset import Reset, check_reset, reset_state
from lawn_optax._switch import PhaseState, Step, advance, as_trigger, begin, init_phase
from lawn_optax._types import AxisName, Groups, check_params
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import Grouping, absent, resolve


class Polar(NamedTuple):
    """What weight normalisation trains."""

    v: Any  # like the parameters
    g: Any  # float32[num_norms] (float64 with x64 leaves); lengths, one a group


class ReparametrizedState(NamedTuple):
    """State of the transformation returned by `reparametrize`."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 is free
    fingerprint: jax.Array  # uint32[]; identifies the groups
    trained: Any  # v, like the parameters: what `inner` trains; from the switch on
    inner_state: optax.OptState


class WeightNormalizationState(NamedTuple):
    """State of the transformation returned by `weight_normalization`.

    A type of its own, because its norms are no constraint to report on.
    """

    phase: PhaseState
    norms: jax.Array  # float32[num_norms], g before the first update; 0 is free
    fingerprint: jax.Array  # uint32[]; identifies the groups
    trained: Polar  # what `inner` trains; from the first update on
    inner_state: optax.OptState


def reparametrize(
    inner: optax.GradientTransformation,
    switch_step: Step = 0,
    *,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAWN by reparametrisation: ``inner`` trains v, the weights are a function of it.

    From the switch on ``w = c v / |v|``, where v begins as w and c is its norm: the
    other implementation that the LAWN paper names. Unlike in `lawn_optax.wrap` nothing
    brings v back to its sphere: each step of gradient descent lengthens it, and the
    gradient of v, ``c / |v|`` times the projected one, shrinks as it grows. For
    gradient descent the two agree to first order in the step.

    Args:
      inner: The whole optimizer, learning rate included; after the switch it sees v as
        ``params``, and its weight decay shortens v, not w. One with a line search would
        evaluate its function at v, which is wrong.
      switch_step: See `lawn_optax.wrap`.
      groups: See `lawn_optax.wrap`.
      reset: See `lawn_optax.wrap`.
      axis_name: See `lawn_optax.wrap`.

    Returns:
      A transformation whose ``update`` needs ``params``. Extra arguments reach
      ``inner``. Put nothing behind it that changes updates: the weights are a function
      of v.

    Raises:
      ValueError: For a negative step or an unknown reset; in ``init``, if no leaf is
        constrained or labels do not fit.
      TypeError: If ``groups`` is traced or the step is no number.

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
    return _reparametrized(
        "reparametrize", inner, switch_step, groups, reset, axis_name, trains_g=False
    )


def weight_normalization(
    inner: optax.GradientTransformation,
    *,
    groups: Groups | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weight normalisation around any optimizer: ``w = g v / |v|``, with v, g trained.

    The model sees w; ``inner`` gets the gradients::

        dL/dg = <dL/dw, v> / |v|        dL/dv = (g / |v|) (dL/dw - (dL/dg / |v|) v)

    and trains ``Polar(v, g)`` in place of the parameters, g being one vector with an
    entry per norm (a single leaf for optimizers that look at whole leaves, such as
    LAMB). At the first update v is w and g its norm. g is free, so norms are not fixed.

    Args:
      inner: The whole optimizer, learning rate included. Its weight decay acts on v and
        g; masks must have the structure of ``Polar``. One with a line search would
        evaluate its function at ``Polar``, which is wrong.
      groups: What shares one g. By default each output unit of each leaf of two axes or
        more, ``only_matrices("neuron")``; other leaves are trained as they are.
      axis_name: See `lawn_optax.project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``. Extra arguments reach
      ``inner``. A group that is zero or not finite at the first update is trained as it
      is. Put nothing behind it that changes updates.

    Raises:
      ValueError: In ``init``, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.baselines.weight_normalization(optax.sgd(1.0))
      >>> w = jnp.array([[3.0], [4.0]])
      >>> updates, state = tx.update(jnp.array([[-6.25], [0.0]]), tx.init(w), w)
      >>> print(state.trained.v.ravel(), state.trained.g)  # g: 5 + 6.25 * 3 / 5
      [7. 1.] [8.75]

    References:
      Salimans and Kingma 2016, "Weight Normalization", arXiv:1602.07868, eqs. 2 and 3.
    """
    return _reparametrized(
        "weight_normalization",
        inner,
        0,
        only_matrices("neuron") if groups is None else groups,
        "restart",
        axis_name,
        trains_g=True,
    )


def _reparametrized(
    name: str,
    inner: optax.GradientTransformation,
    switch_step: Step,
    groups: Groups,
    reset: Reset,
    axis_name: AxisName,
    trains_g: bool,
) -> optax.GradientTransformationExtraArgs:
    trigger, inner = as_trigger(switch_step), optax.with_extra_args_support(inner)
    make_state = WeightNormalizationState if trains_g else ReparametrizedState

    def pack(grouping: Grouping, vs: Sequence[Any], radii: Sequence[jax.Array]) -> Any:
        v = grouping.treedef.unflatten(vs)
        return Polar(v, geometry.join(radii, grouping.dtype)) if trains_g else v

    def init_fn(params):
        norms, fingerprint = init_sphere(groups, params)
        # Its arrays alone: the first constrained update fills it.
        zeros = jax.tree.map(jnp.zeros_like, params)
        before = Polar(params, norms) if trains_g else params
        trained = Polar(zeros, norms) if trains_g else zeros
        phase = init_phase(trigger)
        return make_state(phase, norms, fingerprint, trained, inner.init(before))

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, name)
        constrained, first = begin(trigger, state.phase)
        grouping = resolve(groups, params)
        gs, ws = grouping.flatten(updates, "updates"), jax.tree.leaves(params)
        axes = geometry.reduction_axes(axis_name, params, ws)
        bound = bound_leaves(grouping)
        held = jax.tree.leaves(state.trained.v if trains_g else state.trained)
        # Leaves outside all groups are the parameters, whoever else changes them.
        vs = [
            jnp.where(constrained & ~first, v, w) if i in bound else w
            for i, (w, v) in enumerate(zip(ws, held, strict=True))
        ]
        vv = geometry.inner_products(grouping, vs, vs, axes)
        norms = [
            jnp.where(first, _norm(square, geometry.movable(block, grouping, gs)), old)
            for block, square, old in zip(
                grouping.blocks, vv, geometry.split(grouping, state.norms), strict=True
            )
        ]
        on = [constrained & (norm > 0) for norm in norms]
        radii = norms
        if trains_g:
            lengths = geometry.split(grouping, state.trained.g)
            pairs = zip(norms, lengths, strict=True)
            radii = [jnp.where(constrained & ~first, g, norm) for norm, g in pairs]

        trained = pack(grouping, vs, radii)
        inner_state = reset_state(inner, state.inner_state, trained, first, reset)
        gv = geometry.inner_products(grouping, gs, vs, axes)
        slopes = [
            jnp.where(o, x / jnp.sqrt(positive(square)), 0)
            for o, x, square in zip(on, gv, vv, strict=True)
        ]
        steps: Any
        steps, inner_state = inner.update(
            pack(grouping, chain_rule(grouping, gs, vs, gv, vv, radii, on), slopes),
            inner_state,
            trained,
            **extra_args,
        )
        if trains_g:
            moves = geometry.split(grouping, steps.g)
            radii = [r + u for r, u in zip(radii, moves, strict=True)]
            steps = steps.v
        us = grouping.flatten(steps, "updates of the inner optimizer")
        vs = [v if absent(u) else applied(v, u) for v, u in zip(vs, us, strict=True)]
        moved = to_spheres(grouping, vs, ws, radii, on, axes)
        us = geometry.choose(grouping, on, moved, us)
        return grouping.treedef.unflatten(us), make_state(
            advance(trigger, state.phase, first, extra_args),
            geometry.join(norms, grouping.dtype),
            state.fingerprint,
            pack(grouping, vs, radii),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _norm(square: jax.Array, movable: bool) -> jax.Array:
    return jnp.where(geometry.has_norm(square) & movable, jnp.sqrt(square), 0)


# --- w = r v / |v| and its gradient ---------------------------------------------------


def bound_leaves(grouping: Grouping) -> set[int]:
    """The leaves that belong to a group."""
    return {i for block in grouping.blocks for i in block.leaves}


def applied(v: Any, u: Any) -> jax.Array:
    """Adds u to v with the rounding that the state has, so that weights and v agree."""
    new, dtype = jnp.asarray(v + u), jnp.result_type(v)
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits < 32:
        # A cast alone would leave XLA its excess precision.
        info = jnp.finfo(dtype)
        new = jax.lax.reduce_precision(new, info.nexp, info.nmant)
    return new.astype(dtype)


def positive(square: jax.Array) -> jax.Array:
    """So that a v that has decayed to 0 gives finite weights; NaN stays NaN."""
    return jnp.maximum(square, jnp.finfo(square.dtype).tiny)


def _scales(
    radii: Sequence[jax.Array], vv: Sequence[jax.Array], on: Sequence[jax.Array]
) -> list[jax.Array]:
    """What v is multiplied by, 1 in a group that is not `on`."""
    return [
        jnp.where(o, radius / jnp.sqrt(positive(square)), 1)
        for radius, square, o in zip(radii, vv, on, strict=True)
    ]


def chain_rule(grouping, gs, vs, gv, vv, radii, on) -> list[Any]:
    """The gradient of v: (r / |v|) (g - (<g, v> / <v, v>) v), and g where not `on`."""
    p = _scales(radii, vv, on)
    q = [
        jnp.where(o, -scale * inner / positive(square), 0)
        for o, scale, inner, square in zip(on, p, gv, vv, strict=True)
    ]
    out = list(gs)
    for i in bound_leaves(grouping):
        if not absent(gs[i]):
            # Wide, because `combine` rounds narrow ones in the way of updates.
            wide = jnp.promote_types(gs[i].dtype, grouping.dtype)
            out[i] = gs[i].astype(wide)
    out = geometry.combine(grouping, out, vs, p, q, _all(p))
    for i in bound_leaves(grouping):
        if not absent(gs[i]):
            out[i] = out[i].astype(gs[i].dtype)
    return out


def to_spheres(grouping, vs, ws, radii, on, axes) -> list[Any]:
    """Updates that take the weights w to r v / |v|, to v where not `on`.

    For leaves that belong to a group alone.
    """
    vv = geometry.inner_products(grouping, vs, vs, axes)
    p = _scales(radii, vv, on)
    q = [jnp.full_like(x, -1) for x in p]
    return geometry.combine(grouping, vs, ws, p, q, _all(p))


def _all(values: Sequence[jax.Array]) -> list[jax.Array]:
    return [jnp.ones_like(x, bool) for x in values]
