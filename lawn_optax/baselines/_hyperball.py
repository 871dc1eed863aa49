# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Hyperball and Layca: steps of a fixed angle at a fixed norm."""

from typing import Any

import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import Sphere
from lawn_optax._transforms import on_sphere
from lawn_optax._types import AxisName, Groups
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import absent


def hyperball(
    learning_rate: optax.ScalarOrSchedule,
    groups: Groups | None = None,
    *,
    project: bool = False,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes each group's update as long as a share of its norm, and keeps that norm.

    With the norm c of the first update and an update u of any length::

        u <- learning_rate c u / |u|        w <- c (w + u) / |w + u|

    Only the direction of u counts, so the learning rate is the tangent of the angle by
    which the weights turn, as long as u is not radial. The optimizer before it decides
    the method; its learning rate acts on free leaves alone:

    - AdamH: ``optax.chain(optax.adam(1e-3), hyperball(0.01))``
    - MuonH: ``optax.chain(optax.contrib.muon(1e-3), hyperball(0.01))``
    - Layca: ``optax.chain(optax.sgd(1e-3, 0.9), hyperball(0.01, project=True))``

    The authors of Layca do not train vectors at all. Peers read c again at each step,
    which drifts; here it is captured once.

    Args:
      learning_rate: Length of a step in units of the norm, or a schedule of it; a
        length that does not decay does not converge.
      groups: What shares one norm. By default each leaf of two axes or more; biases
        and other vectors are free. Use `lawn_optax.groups.stacked` for scanned layers.
      project: Whether to project u to the tangent space before it is scaled (Layca).
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``, to be put last in a chain. A
      group whose update is zero, or radial to rounding with ``project``, stands still.

    Raises:
      TypeError: If ``project`` is traced or no bool.
      ValueError: In ``init``, if no leaf is constrained or labels do not fit.

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
    if not isinstance(project, bool):
        raise TypeError(
            f"`project` must be True or False, got {project!r}. It is static: under "
            "`optax.inject_hyperparams` list it in `static_args`."
        )

    def change(sphere: Sphere, us: list[Any]) -> list[Any]:
        rate = sphere.now(learning_rate)
        if project:
            us = _tangent(sphere, us)

        def scale(uu, uw, ww, on):
            length = rate * jnp.sqrt(ww / jnp.where(geometry.has_norm(uu), uu, 1))
            # Not a number: it passes as it is.
            still = ~geometry.has_norm(uu) & ~jnp.isnan(uu)
            return jnp.where(on & ~jnp.isnan(uu), jnp.where(still, 0, length), 1)

        return sphere.retract(us, project=project, scale=scale)

    groups = only_matrices("leaf") if groups is None else groups
    return on_sphere("hyperball", groups, axis_name, change)


def _tangent(sphere: Sphere, us: list[Any]) -> list[Any]:
    """The updates projected; none where only rounding is left, no way to follow."""
    uu = geometry.inner_products(sphere.grouping, us, us, sphere.axes)
    us = sphere.project(us)
    tt = geometry.inner_products(sphere.grouping, us, us, sphere.axes)
    gone = [
        on & (t <= (8 * jnp.finfo(t.dtype).eps) ** 2 * u)
        for on, t, u in zip(sphere.on, tt, uu, strict=True)
    ]
    zeros = [None if absent(u) else jnp.zeros_like(u) for u in us]
    return geometry.choose(sphere.grouping, gone, zeros, us)
