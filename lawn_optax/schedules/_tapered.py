# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The tapered-exponential schedule: growth at a constant rate in each phase.

Where the rate is constant, alpha_t of Theorem 2.5 converges geometrically to the larger
root z of x^2 - (1 + gamma - lambda eta) x + gamma. This schedule has z in its place.
"""

import math

import numpy as np
import optax

from lawn_optax.schedules._exponential import (
    ExponentialRates,
    first_step,
    rate_tables,
    summed,
)


def tapered_exponential(
    schedule: optax.ScalarOrSchedule,
    momentum: float,
    weight_decay: optax.ScalarOrSchedule,
    total_steps: int,
    *,
    instant_decay: bool = True,
) -> ExponentialRates:
    r"""The tapered-exponential schedule: one constant growth per phase of a step decay.

    In each phase the rate grows by the factor ``z^-2`` per update, where
    z is the larger root of ``x^2 - (1 + gamma - lambda eta) x + gamma``:

    .. math::
        \tilde\eta_0 = \eta_0, \qquad \tilde\eta_t =
          \tilde\eta_{t-1} \frac{\eta_t}{\eta_{t-1}} z(\lambda_t\eta_t)^{-2}

    It equals `exponential_equivalent` except in the first updates of each phase;
    `tapered_bound` bounds the difference. For rates that change all the time (cosine,
    warm-up) there is no such bound: use the equivalent.

    Args:
      schedule: Learning rate or schedule, as in `exponential_equivalent`, constant for
        long stretches.
      momentum: Momentum gamma, as in `exponential_equivalent`.
      weight_decay: Weight decay, as in `exponential_equivalent`.
      total_steps: Updates of the whole run, at least 1.
      instant_decay: Whether the rate itself drops where `schedule` does. False leaves
        out the factor ``eta_t / eta_(t-1)``, so that only the growth slows down:
        like a constant rate with less weight decay in each phase, which takes long to
        have an effect where the growth is slow.

    Returns:
      The rates. Their growth of the weights is that of the fixed point,
      ``prod 1/z``, and approximate.

    Raises:
      ValueError: In the cases of `exponential_equivalent`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> decay = optax.piecewise_constant_schedule(0.16, {2: 0.5})
      >>> rates = tapered_exponential(
      ...     decay, momentum=0.25, weight_decay=1.0, total_steps=4
      ... )
      >>> print(rates(jnp.arange(4)))  # times 0.762 ** -2, 0.889 ** -2 / 2, 0.889 ** -2
      [0.16 0.2757 0.1745 0.221]

    References:
      Li and Arora 2019, arXiv:1910.07454, Theorem 2.4 and eq. 5, whose drop as printed
      comes one update later than in Theorem 2.5; without instant decay eq. 7.
    """
    rates, decays = rate_tables(schedule, momentum, weight_decay, total_steps)
    growth = -_log_root(rates * decays, momentum)
    levels = rates if instant_decay else np.full_like(rates, rates[0])
    with np.errstate(divide="ignore"):  # the last rate may be 0
        log_rates = np.log(levels) + 2 * (np.cumsum(growth) - growth[0])
    return ExponentialRates(log_rates, summed(growth), float(momentum))


def tapered_bound(
    schedule: optax.ScalarOrSchedule,
    momentum: float,
    weight_decay: optax.ScalarOrSchedule,
    total_steps: int,
) -> np.ndarray:
    r"""Bound on the distance of the tapered schedule from the equivalent one.

    For a step decay whose phases begin at updates T_I, rates of
    `exponential_equivalent` (with a hat) and rates of `tapered_exponential` (with a
    tilde),

    .. math::
        \left| \frac{\hat\eta_{t-1}}{\hat\eta_t}
          - \frac{\tilde\eta_{t-1}}{\tilde\eta_t} \right|
        < \frac32 \left( \frac{\gamma}{z_1^2} \right)^{t - T_I}
        \quad T_I < t < T_{I+1}

    where z_1 is the larger root of the phase with the largest
    ``lambda eta`` so far. The difference itself is usually far smaller.

    Args:
      schedule: Step decay, whose rates never rise.
      momentum: Momentum gamma, as in `exponential_equivalent`.
      weight_decay: Number, or a schedule that never rises.
      total_steps: Updates of the whole run, at least 1.

    Returns:
      float64[total_steps]; entry t is the right-hand side. Infinite for the first
      update of each phase, about which the theorem says nothing.

    Raises:
      ValueError: In the cases of `exponential_equivalent`, and for a rate or a weight
        decay that rises.

    Examples:
      >>> bound = tapered_bound(0.16, momentum=0.25, weight_decay=1.0, total_steps=4)
      >>> print(bound[1:].round(4))  # 1.5 * (0.25 / 0.762 ** 2) ** t
      [0.6461 0.2783 0.1199]

    References:
      Li and Arora 2019, arXiv:1910.07454, Theorem 2.7.
    """
    rates, decays = rate_tables(schedule, momentum, weight_decay, total_steps)
    for name, table in (("schedule", rates), ("weight_decay", decays)):
        step = first_step(np.diff(table) > 0)
        if step is not None:
            raise ValueError(
                f"`{name}` must be a step decay, which never rises, for the bound to "
                f"hold; got {table[step]:.6g}, then {table[step + 1]:.6g} at step "
                f"{step + 1}. Use `exponential_equivalent`."
            )
    steps = np.arange(len(rates))
    begins = (np.diff(rates, prepend=0) != 0) | (np.diff(decays, prepend=-1) != 0)
    since = steps - np.maximum.accumulate(np.where(begins, steps, 0))
    # The first product is the largest one, because neither factor rises.
    ratio = momentum * np.exp(-2 * _log_root((rates * decays)[:1], momentum))
    return np.where(begins, np.inf, 1.5 * ratio**since)


def growth_exponent(
    learning_rate: float, momentum: float, weight_decay: float
) -> float:
    r"""Growth of the logarithm of the equivalent rate per update.

    It is ``-2 ln z``, where z is the larger root of
    ``x^2 - (1 + gamma - lambda eta) x + gamma``; the weights grow by half as
    much. For ``lambda eta`` small beside ``(1 - gamma)^2`` it is about
    ``2 lambda eta / (1 - gamma)``.

    Args:
      learning_rate: Constant rate eta, positive.
      momentum: Momentum gamma, 0 or more and below 1.
      weight_decay: Weight decay lambda, 0 or more.

    Returns:
      The exponent, 0 without weight decay.

    Raises:
      ValueError: In the cases of `exponential_equivalent`.

    Examples:
      >>> import jax.numpy as jnp
      >>> exponent = growth_exponent(0.1, momentum=0.9, weight_decay=5e-4)
      >>> print(f"{jnp.exp(exponent * 390):.2f} times per epoch of 390 updates")
      1.48 times per epoch of 390 updates

    References:
      Li and Arora 2019, arXiv:1910.07454, Theorem 1.1 and Figure 1 (1.481 per epoch).
    """
    rates, decays = rate_tables(learning_rate, momentum, weight_decay, 1)
    if rates[0] == 0:
        raise ValueError("`learning_rate` must be positive; got 0.")
    return float(-2 * _log_root(rates * decays, momentum)[0])


def _log_root(products: np.ndarray, momentum: float) -> np.ndarray:
    """Logarithm of the larger root of eq. 4, with its difference from 1 exact."""
    sqrt = math.sqrt(momentum)
    # The discriminant as a product; as printed, it is a difference of equal numbers.
    low, high = (1 - sqrt) ** 2 - products, (1 + sqrt) ** 2 - products
    discriminant = np.maximum(low, 0) * high
    below = 1 - momentum + products + np.sqrt(discriminant)
    return np.log1p(-2 * products / below)
