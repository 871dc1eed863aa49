# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Norm control that needs no gradient: steps of a fixed angle, and a pull to a norm."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._geometry import AxisName
from lawn_optax._sphere import Sphere, on_sphere
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import Groups, absent


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
        rate = _now(learning_rate, sphere)
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


def weight_norm_control(
    rate: optax.ScalarOrSchedule,
    target: optax.ScalarOrSchedule | None = None,
    groups: Groups = "layer",
    *,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Pulls each group's norm to a target, as weight decay pulls it to 0.

    An update u, learning rate included, becomes ``u - rate (1 - target / |w|) w``. With
    target 0 this is decoupled weight decay with the coefficient ``rate``.

    Args:
      rate: Share of the distance to the target that one update removes, in [0, 1]; or
        a schedule, such as the learning rate's times a coefficient.
      target: Norm of each group, or a schedule of it; None is the group's norm at the
        first update.
      groups: See `project_tangent`.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``, to be put behind the learning
      rate. A group without a norm is not pulled.

    Raises:
      ValueError: In ``init``, if no leaf is constrained or labels do not fit.

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

    def change(sphere: Sphere, us: list[Any]) -> list[Any]:
        share, p, q, on = _now(rate, sphere), [], [], []
        for ww, norm in zip(sphere.ww, sphere.norms, strict=True):
            goal = norm if target is None else _now(target, sphere)
            found = geometry.has_norm(ww)
            # A free group has no norm of its own to return to.
            on.append(found & (norm > 0) if target is None else found)
            p.append(jnp.ones_like(ww))
            q.append(share * (goal / jnp.sqrt(jnp.where(found, ww, 1)) - 1))
        return geometry.combine(sphere.grouping, us, sphere.ws, p, q, on)

    return on_sphere("weight_norm_control", groups, axis_name, change)


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


def _now(value: Any, sphere: Sphere) -> jax.Array:
    value = value(sphere.count) if callable(value) else value
    return jnp.asarray(value, sphere.grouping.dtype)
