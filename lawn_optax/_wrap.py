# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Fixed norms as Optax transformations: the parts, and `wrap` made of them.

    gradients --> [tangent projection] --> inner optimizer --> [tangent projection]
                        |                        |              --> [retraction]
                 `project_tangent`           `reset_at`           `renormalize`

The bracketed parts act from the switch on (`switch_at`, in `_phase`); at the switch the
norms are captured and the moments of the inner optimizer reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lawn_optax._constraint import Scale, Sphere, init_sphere
from lawn_optax._reset import Reset, check_reset, reset_state
from lawn_optax._switch import PhaseState, Step, advance, as_trigger, begin, init_phase
from lawn_optax._types import AxisName, Groups, check_params
from lawn_optax.groups._resolve import resolve


class WrapState(NamedTuple):
    """State of the transformation returned by `wrap` and by the algorithms."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 is free
    fingerprint: jax.Array  # uint32[]; identifies the groups
    inner_state: optax.OptState


def wrap(
    inner: optax.GradientTransformation,
    switch_step: Step = 0,
    *,
    groups: Groups = "layer",
    reset: Reset = "restart",
    projections: int = 2,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAWN around any optimizer: free training first, then fixed weight norms.

    The first ``switch_step`` updates are those of ``inner``. Then each group's norm
    c = ``|w|`` is captured, the moments of ``inner`` are reset, and later updates do::

        g <- g - (<w, g> / <w, w>) w           gradient to the tangent space
        u <- inner(g)                          learning rate and schedules included
        u <- u - (<w, u> / <w, w>) w           update to the tangent space
        w <- c (w + u) / |w + u|               retraction

    It equals ``optax.chain(switch_at(n, project_tangent()), reset_at(n, inner),
    switch_at(n, renormalize()))``.

    Args:
      inner: The whole optimizer, learning rate included.
      switch_step: Number of free updates; 0 constrains from the first. May be traced,
        or a `switch_when` trigger.
      groups: What shares one norm: "layer" (all leaves of one module), "leaf",
        "neuron", "all", or a callable; see `lawn_optax.groups` and `describe`.
      reset: What becomes of the moments at the switch; see `reset_at`.
      projections: 2 projects gradient and update; 1 the gradient only.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``. Extra arguments reach
      ``inner``.

    Raises:
      ValueError: For a negative step, an unknown reset or number of projections; in
        ``init`` if no leaf is constrained or labels do not fit.
      TypeError: If ``projections`` or ``groups`` is traced, or the step is no number.

    .. warning::
      Put nothing behind it in a chain that changes updates: the norms would not hold.
      ``optax.MultiSteps`` and ``optax.apply_if_finite`` go outside.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lawn.wrap(optax.adam(0.1)))
      >>> params = {"dense": {"kernel": jnp.array([3.0, 4.0])}}
      >>> state = tx.init(params)
      >>> updates, state = tx.update(params, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(round(float(jnp.linalg.norm(params["dense"]["kernel"])), 5))
      5.0

    References:
      Gupta et al. 2021, "Logit Attenuating Weight Normalization",
      https://arxiv.org/abs/2108.05839, Algorithm 1 and Appendix C; LAWN, ICLR
      submission, Algorithm 1.
    """
    return constrain(
        inner,
        switch_step,
        groups=groups,
        reset=reset,
        projections=projections,
        axis_name=axis_name,
    )


def constrain(
    inner: optax.GradientTransformation,
    switch_step: Step,
    *,
    groups: Groups,
    reset: Reset,
    projections: int,
    axis_name: AxisName,
    scale: Callable[[jax.Array], Scale] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`wrap`, with a factor per group between the inner optimizer and the retraction.

    A learning rate or trust ratio given as ``scale(count)`` costs nothing there, where
    inside ``inner`` it would cost a pass over the parameters.
    """
    check_reset(reset)
    check_projections(projections)
    trigger = as_trigger(switch_step)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return WrapState(
            init_phase(trigger), *init_sphere(groups, params), inner.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, "The LAWN update")
        constrained, first = begin(trigger, state.phase)
        grouping = resolve(groups, params)
        if scale is not None:  # free leaves are scaled, too
            grouping = grouping.with_free_leaves()
        sphere, gs = Sphere.capture(
            grouping, axis_name, params, updates, state, constrained, first
        )
        inner_state = reset_state(inner, state.inner_state, params, first, reset)
        updates, inner_state = inner.update(
            grouping.treedef.unflatten(sphere.project(gs)),
            inner_state,
            params,
            **extra_args,
        )
        us = sphere.retract(
            grouping.flatten(updates, "updates of the inner optimizer"),
            project=projections == 2,
            scale=None if scale is None else scale(state.phase.count),
        )
        phase = advance(trigger, state.phase, first, extra_args)
        return grouping.treedef.unflatten(us), WrapState(
            phase, sphere.held(), state.fingerprint, inner_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_projections(projections: Any) -> None:
    if isinstance(projections, jax.Array):
        raise TypeError(
            "`projections` must be static, got a JAX array: under "
            "`optax.inject_hyperparams` list it in `static_args`."
        )
    if projections not in (1, 2):
        raise ValueError(f"`projections` must be 1 or 2, got {projections!r}.")
