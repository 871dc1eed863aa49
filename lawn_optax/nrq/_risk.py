# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Bounds of the risk of the noisy Rayleigh quotient, and where it must rise again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._guards import quotient, root
from lawn_optax._types import as_float
from lawn_optax.nrq._motion import angular_update, isotropic, norm


class EquilibriumBounds(NamedTuple):
    """Limits of the risk and rates of approach, from `equilibrium_bounds`."""

    low_risk: jax.Array
    high_risk: jax.Array
    low_rate: jax.Array  # per update
    high_rate: jax.Array  # per update


def risk_bounds(
    times: jax.Array,
    norm0: ArrayLike,
    alignment0: ArrayLike,
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    *,
    xi: float,
    tail: ArrayLike = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Bounds of the risk 1 - E[f], in equilibrium and on the way to it.

    They solve ``dr/dt = -g r + Delta^2 + c`` with Delta of the present norm and::

        low:   g = 2 (a_p - a_1) Delta / (sqrt(p-1) sigma) + p/(p-1) Delta^2,  c = 0
        high:  the same with xi (a_2 - a_1),  c = tail (g - p/(p-1) Delta^2)

    The paper prints both without the factor 2 and with one eta too many, and the high
    bound with a wrong sign in an exponent.

    Args:
      times: [n], numbers of updates, not falling. The error is of second order in the
        change of Delta between two times.
      norm0: Norm of x at time 0.
      alignment0: Alignment f at time 0.
      spectrum: [p], the eigenvalues of A in ascending order.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.
      xi: Alignment in (0, 1) at which the high bound splits the trials.
      tail: Probability that f is below xi, one number or [n], for the interval that
        ends at each time.

    Returns:
      Low and high, [n] each.

    Raises:
      ValueError: If `xi` is not in (0, 1) or `sigma` not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> low, high = lawn.nrq.risk_bounds(
      ...     jnp.array([0.0, 10.0]), 1.0, 0.5, jnp.arange(3.0), 0.1, 0.1, 1e-3, xi=0.5
      ... )
      >>> print(low.round(4), high.round(4))
      [0.5    0.0096] [0.5    0.1847]

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 1, eqs. 18 to 21.
    """
    dim = spectrum.shape[0]
    noise = jnp.sqrt(as_float(dim - 1)) * isotropic(sigma)
    grid = jnp.concatenate([jnp.zeros(1), as_float(times)])
    middle, lengths = (grid[1:] + grid[:-1]) / 2, jnp.diff(grid)
    sizes = norm(middle, norm0, sigma, learning_rate, weight_decay, dim)
    delta = angular_update(sizes, sigma, learning_rate, dim)
    tails = jnp.broadcast_to(as_float(tail), delta.shape)

    def solve(pull, tails):
        pulls = 2 * pull * delta / noise
        rates = pulls + dim / (dim - 1) * delta**2
        limits = (delta**2 + pulls * tails) / rates

        def step(risk, now):
            rate, limit, length = now
            risk = limit + (risk - limit) * jnp.exp(-rate * length)
            return risk, risk

        start = 1 - as_float(alignment0)
        return jax.lax.scan(step, start, (rates, limits, lengths))[1]

    low = solve(spectrum[-1] - spectrum[0], jnp.zeros_like(tails))
    return low, solve(_inside(xi) * (spectrum[1] - spectrum[0]), tails)


def equilibrium_bounds(
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    *,
    xi: float,
) -> EquilibriumBounds:
    """Bounds of the limiting risk, and of the rates at which it is approached.

    From the `equilibrium_norm` on, with f_0 at time 0 and a tail of at most e below
    `xi`, the risk is between ``low_risk + (1 - f_0 - low_risk) exp(-low_rate t)`` and
    ``high_risk + e + C exp(-high_rate t)``. To first order in the angle D = sqrt(2
    lambda eta) the risks are ``sqrt(p-1) sigma D / (2 (a_p - a_1))`` and ``sqrt(p-1)
    sigma D / (2 xi (a_2 - a_1))``, half of what the paper prints, and the rates are D^2
    divided by them. (The result also has the second order.)

    Args:
      spectrum: [p], the eigenvalues of A in ascending order.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.
      xi: Alignment in (0, 1); see `risk_bounds`.

    Returns:
      An `EquilibriumBounds`: low_risk, high_risk, low_rate and high_rate.

    Raises:
      ValueError: If `xi` is not in (0, 1) or `sigma` not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> bounds = lawn.nrq.equilibrium_bounds(jnp.arange(5.0), 0.1, 0.1, 1e-3, xi=0.8)
      >>> print(bounds.low_risk.round(6), bounds.high_risk.round(6))
      0.000353 0.001764

    References:
      Noisy Rayleigh Quotient, ICLR submission, Corollary 1. The paper's eq. 23 has a_p
      for a_2 in the second rate.
    """
    dim = spectrum.shape[0]
    noise = jnp.sqrt(as_float(dim - 1)) * isotropic(sigma)
    square = 2 * as_float(learning_rate) * as_float(weight_decay)
    low, high = (
        2 * pull * jnp.sqrt(square) / noise + dim / (dim - 1) * square
        for pull in (
            spectrum[-1] - spectrum[0],
            _inside(xi) * (spectrum[1] - spectrum[0]),
        )
    )
    return EquilibriumBounds(square / low, square / high, low, high)


def escape_norm(
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    *,
    xi: float,
    tail: ArrayLike = 0.0,
) -> jax.Array:
    """Norm above which x, started at the lower limit of the risk, improves and escapes.

    Trials that begin at the risk `low_risk` of `equilibrium_bounds` with more than
    this norm first fall below that risk, since they turn more slowly than in
    equilibrium, and end above it. The square of the norm is ``(p-1) sigma^2 eta / (2
    (low_risk - tail) (a_2 - a_1) xi)``.

    The paper requires twice this square at the same risk, and trials that begin at
    twice `low_risk`; those need not end above the risk at which they begin.

    Args:
      spectrum: [p], the eigenvalues of A in ascending order.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.
      xi: Alignment in (0, 1); see `risk_bounds`.
      tail: Largest probability that f is below xi, less than `low_risk`; 0 if all
        trials begin at the same f above xi.

    Returns:
      The norm of x; infinite where `tail` is not below `low_risk`.

    Raises:
      ValueError: If `xi` is not in (0, 1) or `sigma` not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> least = lawn.nrq.escape_norm(spectrum, 0.1, 0.1, 1e-3, xi=0.9)
      >>> print(least.round(4), lawn.nrq.equilibrium_norm(0.1, 0.1, 1e-3, 3).round(4))
      1.0549 1.0

    References:
      Noisy Rayleigh Quotient, ICLR submission, Corollary 2, where M is the squared
      norm.
    """
    bounds = equilibrium_bounds(spectrum, sigma, learning_rate, weight_decay, xi=xi)
    room = bounds.low_risk - as_float(tail)
    noise = (spectrum.shape[0] - 1) * isotropic(sigma) ** 2
    pull = 2 * room * (spectrum[1] - spectrum[0]) * xi
    squared = quotient(noise * as_float(learning_rate), pull, room > 0)
    return jnp.where(room > 0, root(squared), jnp.inf)


def _inside(xi: float) -> float:
    if isinstance(xi, int | float) and not 0 < xi < 1:
        raise ValueError(f"`xi` must be in (0, 1), got {xi!r}.")
    return xi
