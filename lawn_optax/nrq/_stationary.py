# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The law of the alignment in equilibrium, for an A with two distinct eigenvalues.

With k as in `stationary_log_density` and s = 2 eta lambda / (p - 1), the alignment f of
a trial in equilibrium has the generator (eq. 16 of the paper, corrected)::

    s [2 f (1 - f) d^2/df^2 + (1 - p f + 2 k f (1 - f)) d/df]
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from lawn_optax._types import as_float
from lawn_optax.nrq._motion import isotropic

_POLYNOMIALS = 64  # of `relaxation_rate`


def stationary_log_density(
    alignment: ArrayLike,
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """Logarithm of the stationary density of the alignment f.

    For a spectrum ``a_l < a_h = ... = a_h``, the density is, up to its integral::

        exp(k f) f^(-1/2) (1 - f)^((p-3)/2)
        k = (a_h - a_l) sqrt(p-1) / (sigma sqrt(2 eta lambda))

    The paper's k, printed as 2 kappa, lacks the factor ``a_h - a_l``. For large k,
    1 - f has the gamma distribution of shape (p-1)/2 and rate k.

    Args:
      alignment: Alignment f, of any shape, in (0, 1).
      spectrum: [p], p at least 2, the eigenvalues of A: the first below the others,
        which are equal.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.

    Returns:
      Shaped like `alignment`; the integral of its exponential from 0 to 1 is 1.

    Raises:
      ValueError: If `sigma` is not one number, or the spectrum does not have two levels
        (not checked where it is traced).

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> law = 0.1, 0.1, 1e-3
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> print(lawn.nrq.stationary_log_density(0.99, spectrum, *law).round(3))
      -3.088

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 2, eq. 25.
    """
    k, dim = _rate(spectrum, sigma, learning_rate, weight_decay), spectrum.shape[0]
    f = as_float(alignment)
    # With f = cos^2 and s = sin^2 of an angle, df is 2 sin cos d(angle).
    total = _log_integral(0.0, k, dim)[0] + jnp.log(2.0)
    shape = -jnp.log(f) / 2 + (dim - 3) / 2 * jnp.log1p(-f)
    return k * (f - 1) + shape - total


def stationary_risk(
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """The limiting risk, the mean of 1 - f under the stationary law.

    To first order in ``sqrt(2 lambda eta)`` it is ``sqrt(p-1) sigma sqrt(2 lambda eta)
    / (2 (a_h - a_l))``; the paper prints 1 minus twice that. This function returns the
    integral.

    Args:
      spectrum: [p], eigenvalues of two levels; see `stationary_log_density`.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.

    Returns:
      The risk, in JAX's default float type.

    Raises:
      ValueError: In the cases of `stationary_log_density`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> print(lawn.nrq.stationary_risk(spectrum, 0.1, 0.1, 1e-3).round(6))
      0.001001

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 2, eq. 26.
    """
    k, dim = _rate(spectrum, sigma, learning_rate, weight_decay), spectrum.shape[0]
    total, first = _log_integral(0.0, k, dim)
    return jnp.exp(first - total)


def stationary_mode(
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """The risk 1 - f at which the stationary density has its peak.

    It is below the mean, `stationary_risk`: near ``(p-3) sigma sqrt(2 lambda eta) / (2
    sqrt(p-1) (a_h - a_l))``.

    Args:
      spectrum: [p], p at least 4, with two levels; see `stationary_log_density`.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.

    Returns:
      1 - f at the peak. It is NaN where there is no peak: below p = 4, and where the
      noise is so large that the density falls all the way from f = 0.

    Raises:
      ValueError: In the cases of `stationary_log_density`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> spectrum = jnp.array([0.0, 1.0, 1.0, 1.0, 1.0])
      >>> print(lawn.nrq.stationary_mode(spectrum, 0.1, 0.1, 1e-3).round(6))
      0.000707

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 2, from eq. 25.
    """
    k, dim = _rate(spectrum, sigma, learning_rate, weight_decay), spectrum.shape[0]
    # The derivative of the logarithm, times 2 f (1 - f), is quadratic in r = 1 - f:
    # 2 k r^2 - (2 k + p - 4) r + p - 3. This is its smaller root, without cancellation.
    half = k + dim / 2 - 2
    root = jnp.sqrt(half**2 - 2 * k * (dim - 3))
    return jnp.where(dim > 3, (dim - 3) / (half + root), jnp.nan)


def stationary_tail(
    xi: ArrayLike,
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """Probability that f is below xi under the stationary law.

    Args:
      xi: Alignment, one number in (0, 1).
      spectrum: [p], eigenvalues of two levels; see `stationary_log_density`.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.

    Returns:
      The probability, in JAX's default float type.

    Raises:
      ValueError: In the cases of `stationary_log_density`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> print(lawn.nrq.stationary_tail(0.998, spectrum, 0.1, 0.1, 1e-3).round(4))
      0.1355

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 2, after eq. 27.
    """
    k, dim = _rate(spectrum, sigma, learning_rate, weight_decay), spectrum.shape[0]
    whole, part = (_log_integral(start, k, dim)[0] for start in (0.0, 1 - as_float(xi)))
    return jnp.exp(part - whole)


def relaxation_rate(
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """Rate at which the law of f approaches the stationary law, in equilibrium.

    The paper says that probabilities differ by at most ``C exp(-rate t)`` after t
    updates, and gives no rate. It is the smallest eigenvalue above 0 of the generator
    of f. For weak noise it is near ``(a_h - a_l) sqrt(2 eta lambda) / (sigma
    sqrt(p-1))``, half the rates of `equilibrium_bounds`: the last trials to arrive are
    those that were late to leave f = 0, the worst direction. Where no trial begins near
    it, hardly any are.

    Args:
      spectrum: [p], eigenvalues of two levels; see `stationary_log_density`.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.

    Returns:
      The rate per update, in JAX's default float type.

    Raises:
      ValueError: In the cases of `stationary_log_density`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> print(lawn.nrq.relaxation_rate(spectrum, 0.1, 0.1, 1e-3).round(4))
      0.0998

    References:
      Noisy Rayleigh Quotient, ICLR submission, Theorem 2, eq. 27.
    """
    k, dim = _rate(spectrum, sigma, learning_rate, weight_decay), spectrum.shape[0]
    # The derivative of an eigenfunction, times exp(k f / 2), has the same eigenvalue in
    # an operator without the constant eigenfunction. Among the polynomials that are
    # orthogonal for f^(1/2) (1 - f)^((p-1)/2), f has three diagonals; the first term
    # has one.
    n, c = np.arange(_POLYNOMIALS), dim / 2
    m = n[1:]
    middle = (1 + (1 - c) * c / ((2 * n + c) * (2 * n + c + 2))) / 2
    side = m * (m + c - 1 / 2) * (m + 1 / 2) * (m + c)
    side = np.sqrt(side / ((2 * m + c) ** 2 - 1)) / (2 * m + c)
    f = as_float(np.diag(middle) + np.diag(side, 1) + np.diag(side, -1))
    one = jnp.eye(len(n), dtype=f.dtype)
    matrix = (
        as_float(np.diag(n * (2 * n + dim + 2) + dim))
        + k**2 / 2 * (f - f @ f)
        + k / 2 * (4 * f - dim * f - one)
    )
    # Without the last one, whose square lacks a term. For large k the eigenfunction is
    # too narrow for these polynomials, and its expansion is exact to 1e-5 for p = 50.
    exact = jnp.linalg.eigvalsh(matrix[:-1, :-1])[0]
    narrow = k - c - 3 * c / (2 * k)
    noise = 2 * as_float(learning_rate) * as_float(weight_decay) / (dim - 1)
    return noise * jnp.where(k > _POLYNOMIALS**2 / 8, narrow, exact)


def _rate(spectrum, sigma, learning_rate, weight_decay) -> jax.Array:
    if not isinstance(spectrum, Tracer):
        values = np.asarray(spectrum)
        if values.size < 2 or values[0] >= values[1] or np.ptp(values[1:]) > 0:
            raise ValueError(
                "The stationary law is known for two levels: the first entry of "
                f"`spectrum` below the others, which are equal, got {values.tolist()}."
            )
    noise = jnp.sqrt(2 * as_float(learning_rate) * as_float(weight_decay))
    width = jnp.sqrt(as_float(spectrum.shape[0] - 1))
    return (spectrum[1] - spectrum[0]) * width / (isotropic(sigma) * noise)


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(200)


def _log_integral(start: ArrayLike, k: jax.Array, dim: int) -> tuple[jax.Array, ...]:
    """Logarithms of the integrals of exp(-k s) sin^(p-2), and of s times it.

    s = sin^2 of the angle, over angles from s = `start` to pi/2; the range is cut
    where less than e^-40 of a gamma distribution of shape (p-1)/2, rate k, remains.
    """
    shape = (dim - 1) / 2
    end = jnp.minimum(start + (shape + 10 * shape**0.5 + 50) / k, 1)
    low, high = (jnp.arcsin(jnp.sqrt(as_float(s))) for s in (start, end))
    points, weights = (as_float(a) for a in _nodes())
    s = jnp.sin(low + (high - low) * (points + 1) / 2) ** 2
    logs = jnp.log(weights * (high - low) / 2) - k * s + (dim / 2 - 1) * jnp.log(s)
    return logsumexp(logs), logsumexp(logs + jnp.log(s))
