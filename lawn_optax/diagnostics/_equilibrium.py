# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Spherical motion: how fast scale-invariant weights turn once decay balances growth.

A gradient that is orthogonal to the weights lengthens them, weight decay shortens them.
Where both cancel, the angle of a step depends on rate and decay alone, whatever the
size of the gradient. Everything here is to first order in learning rate times decay.

With Delta the angle of a step and Delta* that of the equilibrium, x = (Delta*/Delta)^2
is ``|w|^4`` in units of its equilibrium for SGD, ``|w|^2`` for Adam, and

    dx/dt = K (1 - x)        so        x(t) = 1 + (x(0) - 1) exp(-K t)
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax import _geometry as geometry
from lawn_optax._guards import quotient, root
from lawn_optax._types import AxisName, Groups, PyTree, as_float
from lawn_optax.groups._resolve import resolve


def effective_learning_rate(
    params: PyTree,
    learning_rate: ArrayLike,
    *,
    groups: Groups = "layer",
    power: int = 2,
    axis_name: AxisName = None,
) -> jax.Array:
    """Learning rate of each group's direction, ``learning_rate / |w|^power``.

    The direction of scale-invariant weights moves as weights of norm 1 would move at
    this rate. It has no meaning for groups that are not scale invariant.

    Args:
      params: Parameters.
      learning_rate: Rate per update. With momentum, give ``learning_rate / (1 -
        momentum)`` for the rate over many updates.
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      power: Exponent: 2 for SGD, whose gradient shrinks as ``1/|w|``; 1 for updates
        that do not depend on the size of the gradient, such as Adam's.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      float32[num_norms] (float64 if a leaf is); 0 where the weights are zero, which
      have no direction.

    Raises:
      ValueError: If `power` is neither 1 nor 2.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> w = jnp.array([3.0, 4.0])
      >>> print(lawn.diagnostics.effective_learning_rate(w, 0.1))
      [0.004]

    References:
      Van Laarhoven 2017, arXiv:1706.05350, section 3; Noisy Rayleigh Quotient, eq. 10.
    """
    if power not in (1, 2):
        raise ValueError(
            f"`power` must be 2 (SGD) or 1 (updates like Adam's), got {power!r}."
        )
    grouping, ws = resolve(groups, params), jax.tree.leaves(params)
    axes = geometry.reduction_axes(axis_name, params, ws)
    ww = geometry.inner_products(grouping, ws, ws, axes)
    square = geometry.join(ww, grouping.dtype)
    length = square if power == 2 else root(square)
    rate = jnp.asarray(learning_rate, grouping.dtype)
    return quotient(rate, length, length > 0)


def sgd_equilibrium_angle(
    learning_rate: ArrayLike, weight_decay: ArrayLike, momentum: ArrayLike = 0.0
) -> jax.Array:
    """Angle by which SGD turns scale-invariant weights per update, in equilibrium.

    It is ``sqrt(2 learning_rate weight_decay / (1 + momentum))``, the root mean square
    over updates. The decay is added to the gradient, before the momentum:
    ``optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(...))``. With
    momentum the gradients of successive updates must be nearly uncorrelated.

    Args:
      learning_rate: Rate per update, 0 or more; may be traced, or an array.
      weight_decay: Coefficient of the decay, 0 or more.
      momentum: Decay of the momentum, in [0, 1).

    Returns:
      Radians, in JAX's default float type. The value is correct to first order in
      ``learning_rate * weight_decay``: without momentum the exact angle is
      ``arccos(1 - learning_rate * weight_decay)``.

    Raises:
      ValueError: If a number is out of its range.

    Examples:
      >>> import lawn_optax as lawn
      >>> print(lawn.diagnostics.sgd_equilibrium_angle(0.1, 0.0005))
      0.01

    References:
      Wan et al. 2021, "Spherical Motion Dynamics", arXiv:2006.08419; with momentum Li
      and Arora 2020, arXiv:1910.07454, Theorem B.2.
    """
    _check(learning_rate, weight_decay)
    gamma = _decay("momentum", momentum)
    return jnp.sqrt(2 * as_float(learning_rate) * as_float(weight_decay) / (1 + gamma))


def adamw_equilibrium_angle(
    learning_rate: ArrayLike, weight_decay: ArrayLike, b1: ArrayLike = 0.9
) -> jax.Array:
    """Angle by which AdamW turns scale-invariant weights per update, in equilibrium.

    It is ``sqrt(2 learning_rate weight_decay (1 - b1) / (1 + b1))``, the root mean
    square over updates, for gradients that are nearly uncorrelated from one update to
    the next and much larger than Adam's `eps`. As in `optax.adamw`, the decay is
    decoupled and multiplied by the learning rate.

    It is also for updates that are orthogonal to the weights on average. Adam divides
    each element of a gradient by a number of its own, so that its updates need not be
    orthogonal where the gradient is. In a transformer of one block of width 32 (rate
    0.01, decay 0.5, six seeds), queries and keys, which QK norm makes scale invariant,
    turned by 1.3 to 2.2 times this angle; with one second moment for each matrix
    instead, by 0.98 to 1.02 times. The other matrices of the block, which are not scale
    invariant, turned by 0.8 to 1.1 times the angle, and the head by 0.45 times.

    Args:
      learning_rate: Rate per update, 0 or more; may be traced, or an array.
      weight_decay: Coefficient of the decoupled decay, 0 or more.
      b1: Decay of the first moment, in [0, 1).

    Returns:
      Radians, in JAX's default float type.

    Raises:
      ValueError: If a number is out of its range.

    Examples:
      >>> import lawn_optax as lawn
      >>> print(round(float(lawn.diagnostics.adamw_equilibrium_angle(1e-3, 0.1)), 6))
      0.003244

    References:
      Kosson et al. 2024, "Rotational Equilibrium", arXiv:2305.17212, Table 1.
    """
    _check(learning_rate, weight_decay)
    b1 = _decay("b1", b1)
    product = as_float(learning_rate) * as_float(weight_decay)
    return jnp.sqrt(2 * product * (1 - b1) / (1 + b1))


def sgd_equilibrium_time(
    angular_update: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    momentum: ArrayLike = 0.0,
    *,
    tolerance: float = 0.05,
) -> jax.Array:
    """Updates until the angle per update is within a tolerance of its equilibrium.

    It holds for scale-invariant weights under SGD, if the gradient at a given norm
    keeps its size. The fourth power of the norm relaxes at the rate ``K = 4
    learning_rate weight_decay / (1 - momentum)`` per update.

    Args:
      angular_update: Present angle per update in radians, of any shape, from
        `angular_update` or `observe` for example. With momentum, measure it some ``1 /
        (1 - momentum)`` updates after a change of the rate.
      learning_rate: Rate per update, 0 or more, of this and all later updates.
      weight_decay: Coefficient of the decay; see `sgd_equilibrium_angle`.
      momentum: Decay of the momentum, in [0, 1).
      tolerance: Relative distance from the equilibrium, in (0, 1).

    Returns:
      Number of updates, shaped like `angular_update`: 0 if the angle is there already,
      infinite if the weights do not turn or do not decay.

    Raises:
      ValueError: If a number is out of its range.

    Examples:
      >>> import lawn_optax as lawn
      >>> time = lawn.diagnostics.sgd_equilibrium_time
      >>> print(time(0.001, 0.1, 0.0005).round(), time(0.01, 0.1, 0.0005))
      34102.0 0.0

    References:
      Noisy Rayleigh Quotient, ICLR submission, eqs. 11 and 17, and Lemma 1, where M is
      the squared norm; Wan et al. 2021, arXiv:2006.08419, Theorem 1.
    """
    equilibrium = sgd_equilibrium_angle(learning_rate, weight_decay, momentum)
    product = as_float(learning_rate) * as_float(weight_decay)
    rate = 4 * product / (1 - as_float(momentum))
    return _time(angular_update, equilibrium, rate, tolerance)


def adamw_equilibrium_time(
    angular_update: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    b1: ArrayLike = 0.9,
    *,
    tolerance: float = 0.05,
) -> jax.Array:
    """Updates until the angle per update is within a tolerance of its equilibrium.

    It holds for scale-invariant weights under AdamW. The square of the norm relaxes at
    the rate ``K = 2 learning_rate weight_decay`` per update, whatever `b1` is, if the
    second moment follows the gradient, that is, if ``1 / (1 - b2)`` is small beside
    1/K. Otherwise the prediction is rough.

    Args:
      angular_update: Present angle per update in radians, of any shape, from
        `angular_update` or `observe` for example.
      learning_rate: Rate per update, 0 or more, of this and all later updates.
      weight_decay: Coefficient of the decay; see `adamw_equilibrium_angle`.
      b1: Decay of the first moment, in [0, 1).
      tolerance: Relative distance from the equilibrium, in (0, 1).

    Returns:
      Number of updates, shaped like `angular_update`: 0 if the angle is there already,
      infinite if the weights do not turn or do not decay.

    Raises:
      ValueError: If a number is out of its range.

    Examples:
      >>> import lawn_optax as lawn
      >>> print(lawn.diagnostics.adamw_equilibrium_time(0.001, 1e-3, 0.1).round())
      22397.0

    References:
      Kosson et al. 2024, "Rotational Equilibrium", arXiv:2305.17212, section 3.
    """
    equilibrium = adamw_equilibrium_angle(learning_rate, weight_decay, b1)
    rate = 2 * as_float(learning_rate) * as_float(weight_decay)
    return _time(angular_update, equilibrium, rate, tolerance)


def _time(
    angular_update: ArrayLike, equilibrium: jax.Array, rate: jax.Array, tolerance: float
) -> jax.Array:
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` must be in (0, 1), got {tolerance!r}.")
    angle = as_float(angular_update)
    start = quotient(equilibrium, angle, angle > 0) ** 2
    # If x is above 1, the angle is too small; if x is below 1, it is too large.
    end = jnp.where(start > 1, (1 - tolerance) ** -2, (1 + tolerance) ** -2)
    ratio = (start - 1) / (end - 1)
    settles = (angle > 0) & (rate > 0)
    logarithm = jnp.log(jnp.where(ratio > 1, ratio, 1))
    return jnp.where(settles, quotient(logarithm, rate, settles), jnp.inf)


def _check(learning_rate: ArrayLike, weight_decay: ArrayLike) -> None:
    numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    for name, x in numbers.items():
        if isinstance(x, int | float) and not 0 <= x < float("inf"):
            raise ValueError(
                f"`{name}` must be a finite number of at least 0, got {x!r}."
            )


def _decay(name: str, x: ArrayLike) -> jax.Array:
    if isinstance(x, int | float) and not 0 <= x < 1:
        raise ValueError(f"`{name}` must be in [0, 1), got {x!r}.")
    return as_float(x)
