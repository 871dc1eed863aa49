# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The tangent projection and the retraction, each as a transformation by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax._constraint import Sphere, init_norms
from lawn_optax._radius import Radius, check_radius
from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import AxisName, Groups, check_params, check_static
from lawn_optax.groups._resolve import resolve


class SphereState(NamedTuple):
    """State of `renormalize` and of the constraints of `baselines`."""

    phase: PhaseState
    norms: jax.Array  # float32[num_norms] (float64 with x64 leaves); 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups


class TangentState(NamedTuple):
    """State of `project_tangent`, which keeps no norm, but knows the free groups."""

    phase: PhaseState
    captured: jax.Array  # float32[num_norms]; norms at its start, 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups

    @property
    def norms(self) -> jax.Array:
        """The same under the name that all states with captured norms share."""
        return self.captured


def project_tangent(
    groups: Groups = "layer", *, axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Projects updates to the tangent space of each group's norm sphere.

    For each group of leaves with weights w and gradient (or update) g::

        g <- g - (<w, g> / <w, w>) w

    It acts from its first update on; `switch_at` delays it. Groups without a tangent
    direction then (norm zero or not finite, one element) are free for good.

    Args:
      groups: Weights that share one norm: "layer", "leaf", "neuron", "all", or a
        callable from the parameters to a tree of labels; see `lawn_optax.groups`.
      axis_name: Mesh axes over which parameters are sharded, where they cannot be
        inferred (`shard_map(check_vma=False)`, `pmap`): names, or a callable from the
        parameters to a tree with names (or None) per leaf.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: In `init`, if no leaf is constrained or labels do not fit.

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
    return on_sphere(
        "project_tangent", groups, axis_name, Sphere.project, make_state=TangentState
    )


def renormalize(
    groups: Groups = "layer",
    *,
    project: bool = True,
    radius: Radius = None,
    every: int | jax.Array = 1,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Changes updates so that each group's norm after them is the captured one.

    The norm is captured at the first update and anchors all later ones: it is not read
    again, so it does not drift. Put the learning rate before it. A transformation
    behind it must not change updates.

    Args:
      groups: Weights that share one norm; see `project_tangent`.
      project: Whether to project the update to the tangent space first, the second
        of the two projections of `wrap`.
      radius: Norm of each group instead of the captured one; see `wrap`.
      every: Number of updates from one retraction to the next. The first update ends on
        the sphere, and those between are only projected. `check` and `monitor` see
        the distance: give them an `rtol`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      TypeError: If `project` is traced or not a bool, if `every` is no whole number, or
        for an invalid `radius`.
      ValueError: If `every` is less than 1; in `init`, if no leaf is constrained or
        labels do not fit.

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
    check_project(project)
    whole = isinstance(every, int | np.integer) and not isinstance(every, bool)
    if not whole and not isinstance(every, jax.Array | np.ndarray):
        raise TypeError(f"`every` must be a whole number of updates, got {every!r}.")
    if whole and every < 1:
        raise ValueError(f"`every` must be at least 1, got {every}.")
    always = whole and every == 1

    def retract(sphere: Sphere, updates: list[Any]) -> list[Any]:
        if always:
            return sphere.retract(updates, project=project)
        due = sphere.count % every == 0
        soften = lambda r: jnp.where(due, r, 1)  # noqa: E731
        return sphere.retract(updates, project=project, soften=soften)

    return on_sphere("renormalize", groups, axis_name, retract, radius=radius)


def check_project(project: Any) -> None:
    """Raises an error if the `project` of a retraction is traced or not a bool."""
    check_static("project", project, "True or False", types=bool)


def on_sphere(
    name: str,
    groups: Groups,
    axis_name: AxisName,
    change: Callable[[Sphere, list[Any]], list[Any]],
    *,
    radius: Radius = None,
    switch_step: Step = 0,
    make_state: Callable[..., Any] = SphereState,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that changes all updates by `change(sphere, updates)`.

    In the free phase no group of the sphere is active, so updates pass.
    """
    check_radius(radius)
    trigger = as_trigger(switch_step)

    def init_fn(params):
        return make_state(init_phase(trigger), *init_norms(groups, params))

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, name)
        constrained, first = phase_now(trigger, state)
        grouping = resolve(groups, params)
        sphere, leaves = Sphere.capture(
            grouping, axis_name, params, updates, state, constrained, first, radius
        )
        phase = next_phase(trigger, state.phase, first, extra_args)
        updates = grouping.treedef.unflatten(change(sphere, leaves))
        return updates, make_state(phase, sphere.norm_vector(), state.fingerprint)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
