# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Weight-norm control: a pull of each group's norm to a target."""

from typing import Any

import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import Sphere
from lawn_optax._switch import Step
from lawn_optax._transforms import on_sphere
from lawn_optax._types import AxisName, Groups


def weight_norm_control(
    rate: optax.ScalarOrSchedule,
    target: optax.ScalarOrSchedule | None = None,
    *,
    groups: Groups = "layer",
    switch_step: Step = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Pulls each group's norm to a target, as weight decay pulls it to 0.

    An update u, learning rate included, becomes ``u - rate (1 - target / |w|) w``. With
    target 0 this is decoupled weight decay with the coefficient `rate`.

    Args:
      rate: Share, in [0, 1], of the distance to the target that one update removes, or
        a schedule of it, such as the learning rate's schedule times a coefficient.
      target: Norm of each group, or a schedule of it; None is the group's norm at the
        first update.
      groups: Weights that share one norm; see `project_tangent`.
      switch_step: Number of updates before it acts, or a `switch_when` trigger.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`, to be put behind the learning
      rate. A group without a norm is not pulled.

    Raises:
      ValueError: In `init`, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.baselines.weight_norm_control(0.5, target=1.0)
      >>> w = jnp.array([3.0, 4.0])
      >>> updates, _ = tx.update(jnp.zeros(2), tx.init(w), w)
      >>> print((w + updates).round(2))  # half way from norm 5 to norm 1
      [1.8 2.4]

    References:
      After Loshchilov 2023, "Weight Norm Control", arXiv:2311.11446 (AdamWN).
    """

    def change(sphere: Sphere, updates: list[Any]) -> list[Any]:
        share, of_update, of_weights, active = sphere.now(rate), [], [], []
        for weight_sq, norm, on in zip(
            sphere.weight_sq, sphere.norms, sphere.active, strict=True
        ):
            goal = norm if target is None else sphere.now(target)
            found = geometry.has_norm(weight_sq)
            # A free group has no norm of its own to return to.
            active.append(found & (on if target is None else sphere.constrained))
            of_update.append(jnp.ones_like(weight_sq))
            length = jnp.sqrt(jnp.where(found, weight_sq, 1))
            of_weights.append(share * (goal / length - 1))
        return geometry.combine(
            sphere.grouping, updates, sphere.weights, of_update, of_weights, active
        )

    return on_sphere(
        "weight_norm_control", groups, axis_name, change, switch_step=switch_step
    )
