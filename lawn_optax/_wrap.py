# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Fixed norms around any optimizer: start reading here.

    gradients --> [tangent projection] --> inner optimizer --> [tangent projection]
                        |                        |              --> [retraction]
                 `project_tangent`           `reset_at`           `renormalize`

The bracketed parts act from the switch on (`switch_at`). At the switch the norms are
captured and the moments of the inner optimizer are reset. `_constraint` has what
happens to the groups in one update; `_transforms` offers each part by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from lawn_optax._constraint import ScaleFn, Sphere, init_norms
from lawn_optax._radius import Radius, check_radius
from lawn_optax._reset import Reset, check_reset, forget_point, reset_state
from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import (
    AxisName,
    Groups,
    Projections,
    as_transformation,
    check_params,
    check_static,
)
from lawn_optax.groups._resolve import resolve


class LawnState(NamedTuple):
    """State of the transformation returned by `wrap` and by the algorithms.

    `captured_norms` gives its norms by the names of their groups.
    """

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups
    inner_state: optax.OptState


def wrap(
    inner: optax.GradientTransformation,
    switch_step: Step = 0,
    *,
    groups: Groups = "layer",
    reset: Reset = "restart",
    projections: Projections = 2,
    radius: Radius = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAWN around any optimizer: free training first, then fixed weight norms.

    The first `switch_step` updates are those of `inner`. Then each group's norm
    ``c = |w|`` is captured, the moments of `inner` are reset, and later updates do::

        g <- g - (<w, g> / <w, w>) w           gradient to the tangent space
        u <- inner(g)                          learning rate and schedules included
        u <- u - (<w, u> / <w, w>) w           update to the tangent space
        w <- c (w + u) / |w + u|               retraction

    It equals ``optax.chain(switch_at(n, project_tangent()), reset_at(n, inner),
    switch_at(n, renormalize()))``. Compile the training step (`jax.jit`): without it,
    every update finds the groups and calls `inner.init` anew.

    Args:
      inner: The whole optimizer, learning rate included.
      switch_step: Number of free updates, possibly traced, or a `switch_when` trigger;
        0 constrains from the first update.
      groups: Weights that share one norm: "layer" (all leaves of one module), "leaf",
        "neuron", "all", or a callable; see `lawn_optax.groups` and `describe`.
      reset: Treatment of the moments at the switch: "restart", "moments" or None;
        see `reset_at`.
      projections: 2 projects gradient and update, 1 the gradient only.
      radius: Norm of each group from the switch on, instead of the captured one: a
        number, or a callable from a `Group` (its norm at the switch, number of
        elements, shape) to a number. The first constrained update moves the weights
        there. Updates narrower than float32 at most halve a norm, since the difference
        to much shorter weights does not fit into one of them: `to_norms` before
        training does it at once. Under `optax.inject_hyperparams` list a callable in
        `static_args`, or it is taken for a schedule. Groups of norm zero stay free.
      axis_name: Mesh axes over which parameters are sharded, where they cannot be
        inferred; see `project_tangent`.

    Returns:
      A transformation with a `LawnState`, whose `update` needs `params`. Extra
      arguments reach `inner`.

    Raises:
      ValueError: For a negative step, an unknown reset or number of projections; in
        `init`, if no leaf is constrained or labels do not fit.
      TypeError: If `projections`, `reset` or `groups` is traced, or the step is not a
        number.

    .. warning::
      In a chain, a transformation behind it must not change updates, or the norms do
      not hold; `check` finds that. Put `optax.MultiSteps` and `optax.apply_if_finite`
      around it, `optax.apply_every` and `optax.contrib.reduce_on_plateau` inside.

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
        "wrap",
        inner,
        switch_step,
        groups=groups,
        reset=reset,
        projections=projections,
        radius=radius,
        axis_name=axis_name,
    )


def constrain(
    name: str,
    inner: optax.GradientTransformation,
    switch_step: Step,
    *,
    groups: Groups,
    reset: Reset,
    projections: Projections,
    axis_name: AxisName,
    radius: Radius = None,
    scale: Callable[[jax.Array], ScaleFn] | None = None,
    has_trust_ratio: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """`wrap`, with a factor per group between the inner optimizer and the retraction.

    A learning rate or trust ratio given as `scale(count)` costs nothing there. Inside
    `inner` it would cost a pass over the parameters.
    """
    check_reset(reset)
    check_static("projections", projections, "1 or 2", values=(1, 2))
    check_radius(radius)
    trigger = as_trigger(switch_step)
    inner = as_transformation(inner, "inner")
    project = projections == 2

    def init_fn(params):
        return LawnState(
            init_phase(trigger), *init_norms(groups, params), inner.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, name)
        constrained, first = phase_now(trigger, state)
        grouping = resolve(groups, params)
        sphere, gradients = Sphere.capture(
            grouping, axis_name, params, updates, state, constrained, first, radius
        )
        inner_state = reset_state(inner, state.inner_state, params, first, reset)
        updates, inner_state = inner.update(
            grouping.treedef.unflatten(sphere.project(gradients)),
            inner_state,
            params,
            **extra_args,
        )
        leaves = grouping.flatten(updates, "updates of the inner optimizer")
        if has_trust_ratio and project:
            leaves = sphere.project_small_groups(leaves)
        if scale is None:
            leaves = sphere.retract(leaves, project=project)
        else:
            factor = scale(state.phase.count)
            leaves = sphere.retract(leaves, project=project, scale=factor)
            leaves = sphere.scale_free_leaves(leaves, factor)
        phase = next_phase(trigger, state.phase, first, extra_args)
        return grouping.treedef.unflatten(leaves), LawnState(
            phase,
            sphere.norm_vector(),
            state.fingerprint,
            forget_point(inner_state, constrained),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
