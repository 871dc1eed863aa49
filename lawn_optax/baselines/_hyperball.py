# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Hyperball and Layca: steps of a fixed angle at a fixed norm."""

from typing import Any

import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import Sphere
from lawn_optax._guards import root
from lawn_optax._radius import Radius
from lawn_optax._switch import Step
from lawn_optax._transforms import check_project, on_sphere
from lawn_optax._types import AxisName, Groups
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import absent


def hyperball(
    learning_rate: optax.ScalarOrSchedule,
    *,
    groups: Groups | None = None,
    project: bool = False,
    switch_step: Step = 0,
    radius: Radius = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes each group's update as long as a share of its norm, and keeps that norm.

    With the norm c of the first constrained update and an update u of any length::

        u <- learning_rate c u / |u|        w <- c (w + u) / |w + u|

    Only the direction of u counts, so the learning rate is the tangent of the angle by
    which the weights turn, as long as u is not radial. The optimizer before it decides
    the method; its learning rate acts on free leaves alone:

    - AdamH: ``optax.chain(optax.adam(1e-3), hyperball(0.01))``
    - MuonH: ``optax.chain(optax.contrib.muon(1e-3), hyperball(0.01))``
    - Layca: ``optax.chain(optax.sgd(1e-3, 0.9), hyperball(0.01, project=True))``

    The authors of Layca do not train vectors at all. Other implementations read c again
    at each step, so that it drifts; here it is captured once.

    Args:
      learning_rate: Length of a step in units of the norm, or a schedule of it. With a
        length that does not decay, training does not converge.
      groups: Weights that share one norm. By default each leaf of two axes or more;
        biases and other vectors are free. Use `lawn_optax.groups.stacked` for scanned
        layers.
      project: Whether to project u to the tangent space before it is scaled (Layca).
      switch_step: Number of free updates, whose length is that of the optimizer before
        it, or a `switch_when` trigger. Projections that start at zero have a norm only
        after some free updates; without these they stay free.
      radius: Norm of each group instead of the captured one; see `lawn_optax.wrap`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`, to be put last in a chain. A
      group whose update is zero, or radial to rounding with `project`, stands still.

    Raises:
      TypeError: If `project` is traced or not a bool.
      ValueError: In `init`, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(optax.adam(1e-3), lawn.baselines.hyperball(0.75))
      >>> w = jnp.array([[3.0, 4.0]])
      >>> updates, _ = tx.update(jnp.array([[0.0, -9.0]]), tx.init(w), w)
      >>> print(*(f"{x:.3f}" for x in (w + updates)[0]))  # 5 [3, 7.75] / |[3, 7.75]|
      1.805 4.663

    References:
      Wen et al. 2026, "Hyperball Optimization", arXiv:2606.16899 (AdamH, MuonH);
      Carbonnelle and De Vleeschouwer 2018, "Layer rotation", arXiv:1806.01603 (Layca).
    """
    check_project(project)

    def change(sphere: Sphere, updates: list[Any]) -> list[Any]:
        rate = sphere.now(learning_rate)
        if project:
            updates = sphere.project_small_groups(_tangent(sphere, updates))

        def scale(update_sq, dot, weight_sq, active):
            del dot
            found = geometry.has_norm(update_sq)
            length = rate * root(weight_sq / jnp.where(found, update_sq, 1))
            # A NaN is returned unchanged.
            is_nan = jnp.isnan(update_sq)
            still = ~found & ~is_nan
            return jnp.where(active & ~is_nan, jnp.where(still, 0, length), 1)

        return sphere.retract(updates, project=project, scale=scale)

    groups = only_matrices("leaf") if groups is None else groups
    return on_sphere(
        "hyperball", groups, axis_name, change, radius=radius, switch_step=switch_step
    )


def _tangent(sphere: Sphere, updates: list[Any]) -> list[Any]:
    """The projected updates; 0 if only rounding is left, whose direction is random."""
    before, _ = sphere.products(updates)
    updates = sphere.project(updates)
    after, _ = sphere.products(updates)
    gone = [
        active & (t <= (8 * jnp.finfo(t.dtype).eps) ** 2 * u)
        for active, t, u in zip(sphere.active, after, before, strict=True)
    ]
    zeros = [None if absent(u) else jnp.zeros_like(u) for u in updates]
    return geometry.choose(sphere.grouping, gone, zeros, updates)
