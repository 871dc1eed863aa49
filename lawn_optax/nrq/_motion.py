# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""How x of the noisy Rayleigh quotient moves: norm, angle of a step, alignment.

With x in p dimensions, noise sigma, learning rate eta and decay lambda, f and L as in
`nrq`, all predictions come from two equations:

    d|x|^4 = (-4 eta lambda |x|^4 + 2 eta^2 sigma^2 (p - 1)) dt
    df = [(2 eta/|x|^2) (2L - a_1) f + (eta sigma/|x|^2)^2 (1 - p f)] dt
         + (2 eta sigma/|x|^2) sqrt(f (1 - f)) dB
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._guards import root
from lawn_optax._types import as_float


def equilibrium_norm(
    sigma: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike, dim: int
) -> jax.Array:
    """Norm at which decay balances noise, ``(eta (p-1) sigma^2 / (2 lambda))^(1/4)``.

    Args:
      sigma: Standard deviation of the gradient noise at norm 1, one number.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.
      dim: Dimension p, at least 2.

    Returns:
      The norm of x, in JAX's default float type.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import lawn_optax as lawn
      >>> print(lawn.nrq.equilibrium_norm(1.0, 0.1, 0.05, dim=17))
      2.0

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 17 and Corollary 1, where M is the
      squared norm.
    """
    variance = isotropic(sigma) ** 2 * (dim - 1)
    return (as_float(learning_rate) * variance / (2 * as_float(weight_decay))) ** 0.25


def norm(
    times: ArrayLike,
    norm0: ArrayLike,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    dim: int,
) -> jax.Array:
    """Norm of x after a number of updates; it is the same in all trials.

    The right side of the paper's eq. 17 is its fourth power, not its square::

        |x_t|^4 = e^(-4 lambda eta t) (|x_0|^4 - N^4) + N^4

    with N the `equilibrium_norm`.

    Args:
      times: Numbers of updates, of any shape.
      norm0: Norm at time 0.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda, above 0.
      dim: Dimension p, at least 2.

    Returns:
      Norms, shaped like `times`.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> norm = lawn.nrq.norm(jnp.array([0, 50, 1000]), 4.0, 1.0, 0.1, 0.05, dim=17)
      >>> print(norm.round(3))
      [4.    3.196 2.   ]

    References:
      Noisy Rayleigh Quotient, ICLR submission, eqs. 11, 12 and 17.
    """
    end = equilibrium_norm(sigma, learning_rate, weight_decay, dim) ** 4
    rate = 4 * as_float(learning_rate) * as_float(weight_decay)
    return (
        (as_float(norm0) ** 4 - end) * jnp.exp(-rate * as_float(times)) + end
    ) ** 0.25


def angular_update(
    norm: ArrayLike, sigma: ArrayLike, learning_rate: ArrayLike, dim: int
) -> jax.Array:
    """Angular update ``sqrt(p-1) sigma eta / |x|^2``, the root mean square angle.

    At the `equilibrium_norm` it is ``sqrt(2 lambda eta)``. It is the contribution of
    the noise; `step_angle` also has that of the loss.

    Args:
      norm: Norm of x, of any shape.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      dim: Dimension p, at least 2.

    Returns:
      Radians per update, shaped like `norm`.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import lawn_optax as lawn
      >>> print(lawn.nrq.angular_update(2.0, 1.0, 0.1, dim=17))
      0.1

    References:
      Noisy Rayleigh Quotient, ICLR submission, Lemma 1, where M is the squared norm.
    """
    noise = jnp.sqrt(as_float(dim - 1)) * isotropic(sigma)
    return noise * as_float(learning_rate) / as_float(norm) ** 2


def step_angle(
    x: jax.Array,
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
) -> jax.Array:
    """Root mean square angle of the update from one x, to first order in the angle.

    It is ``eta sqrt(|P A x|^2/|x|^2 + (p-1) sigma^2) / ((1 - lambda eta) |x|^2)``. In
    the paper, eta^2 multiplies only one of the two squares, and the decay is missing.
    This is the root mean square; the mean is smaller.

    Args:
      x: [..., p], not zero.
      spectrum: [p], the eigenvalues of A.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda.

    Returns:
      [...], radians.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> x, spectrum = jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0])
      >>> print(lawn.nrq.step_angle(x, spectrum, 0.0, 0.1, 0.0))
      0.025

    References:
      Noisy Rayleigh Quotient, ICLR submission, eqs. 13 and 14.
    """
    x = as_float(x)
    square = jnp.sum(x * x, axis=-1)
    ax = jnp.broadcast_to(spectrum, x.shape) * x
    along = jnp.sum(ax * x, axis=-1) / square
    pull = (jnp.sum(ax * ax, axis=-1) - along * along * square) / square
    size = jnp.sqrt(pull + (x.shape[-1] - 1) * isotropic(sigma) ** 2)
    decayed = 1 - as_float(learning_rate) * as_float(weight_decay)
    return as_float(learning_rate) * size / (decayed * square)


def alignment_sde(
    x: jax.Array, spectrum: jax.Array, sigma: ArrayLike, learning_rate: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Drift and diffusion of the alignment f at x, per update.

    The drift is ``(2 eta/|x|^2) (2L - a_1) f + (eta sigma/|x|^2)^2 (1 - p f)``, with L
    the loss; the paper prints ``(eta/M) (L - a_1) f``. The diffusion is
    ``(2 eta sigma/|x|^2) sqrt(f (1-f))``.

    Args:
      x: [..., p], not zero.
      spectrum: [p], the eigenvalues of A in ascending order.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.

    Returns:
      Mean and standard deviation of the change of f in one update, [...] each.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> x, spectrum = jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0])
      >>> drift, diffusion = lawn.nrq.alignment_sde(x, spectrum, 1.0, 0.1)
      >>> print(drift, diffusion)
      0.025 0.05

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 16.
    """
    x, rate = as_float(x), as_float(learning_rate)
    square = jnp.sum(x * x, axis=-1)
    f = x[..., 0] ** 2 / square
    twice_loss = jnp.sum(jnp.broadcast_to(spectrum, x.shape) * x * x, axis=-1) / square
    noise = rate * isotropic(sigma) / square
    drift = 2 * rate / square * (twice_loss - spectrum[0]) * f
    drift = drift + noise**2 * (1 - x.shape[-1] * f)
    return drift, 2 * noise * root(f * jnp.maximum(1 - f, 0))


def loss_bounds(
    alignment: ArrayLike, spectrum: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The lowest and the highest loss at an alignment.

    They are ``(a_1 + (a_k - a_1) (1 - f)) / 2`` with k = 2 and p. The paper's bounds
    are on twice the loss.

    Args:
      alignment: Alignment f, of any shape.
      spectrum: [p], the eigenvalues of A in ascending order.

    Returns:
      Low and high, shaped like `alignment`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> low, high = lawn.nrq.loss_bounds(0.5, jnp.array([1.0, 2.0, 3.0]))
      >>> print(low, high)
      0.75 1.0

    References:
      Noisy Rayleigh Quotient, ICLR submission, section 3, before eq. 16.
    """
    risk, lowest = 1 - as_float(alignment), spectrum[0]
    low, high = (
        (lowest + (a - lowest) * risk) / 2 for a in (spectrum[1], spectrum[-1])
    )
    return low, high


def equivalent(
    x0: jax.Array, learning_rate: ArrayLike, weight_decay: ArrayLike, factor: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Another start, rate and decay that give the same directions at every step.

    If the weights are multiplied by `factor`, the learning rate must be multiplied by
    ``factor^2`` and the decay divided by it. This is exact, trial by trial, for any
    scale-invariant loss under SGD without or with momentum: all later x are `factor`
    times as large.

    Args:
      x0: Weights at the start.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda.
      factor: Positive factor of the weights.

    Returns:
      The start, the learning rate and the decay.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> start, rate, decay = lawn.nrq.equivalent(jnp.array([1.0, 2.0]), 0.1, 0.04, 2)
      >>> print(start, rate, decay)
      [2. 4.] 0.4 0.01

    References:
      Noisy Rayleigh Quotient, ICLR submission, Corollary 3.
    """
    square = as_float(factor) ** 2
    return (
        as_float(factor) * x0,
        square * as_float(learning_rate),
        as_float(weight_decay) / square,
    )


def quadratic_risk(
    steps: ArrayLike,
    x0: jax.Array,
    spectrum: jax.Array,
    sigma: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike = 0.0,
) -> jax.Array:
    """Mean loss of the noisy quadratic model after a number of updates of SGD.

    It is exact: with ``c_i = (1 - eta (a_i + lambda))^2``, after t updates::

        E[x_i^2] = c_i^t x_i(0)^2 + (1 - c_i^t) / (1 - c_i) eta^2 sigma^2

    Unlike the Rayleigh quotient's, its limit does not vanish with the decay.

    Args:
      steps: Numbers of updates, of any shape.
      x0: [p], where all trials begin.
      spectrum: [p], the eigenvalues of A.
      sigma: Size of the gradient noise; see `equilibrium_norm`.
      learning_rate: Learning rate eta.
      weight_decay: Weight decay lambda.

    Returns:
      Shaped like `steps`.

    Raises:
      ValueError: If `sigma` is not one number.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> steps, x0, spectrum = jnp.array([0, 1, 1000]), jnp.ones(1), jnp.ones(1)
      >>> print(lawn.nrq.quadratic_risk(steps, x0, spectrum, 1.0, 0.1).round(4))
      [0.5    0.41   0.0263]

    References:
      Zhang et al. 2019, arXiv:1907.04164, section 3; Noisy Rayleigh Quotient, ICLR
      submission, eqs. 7 and 8.
    """
    times, rate = as_float(steps)[..., None], as_float(learning_rate)
    factor = (1 - rate * (as_float(spectrum) + as_float(weight_decay))) ** 2
    wide = (*jnp.shape(steps), *jnp.shape(spectrum))
    factor, start, values = (
        jnp.broadcast_to(a, wide) for a in (factor, as_float(x0) ** 2, spectrum)
    )
    left = factor ** jnp.broadcast_to(times, wide)
    # Each update adds one term in a direction that does not decay (factor 1).
    still = factor == 1
    sums = jnp.where(still, times, (1 - left) / jnp.where(still, 1, 1 - factor))
    squares = left * start + sums * (rate * isotropic(sigma)) ** 2
    return jnp.sum(values * squares, axis=-1) / 2


def isotropic(sigma: ArrayLike) -> jax.Array:
    if jnp.ndim(sigma):
        raise ValueError(
            "Predictions hold for noise of one size in all directions (Assumption 2): "
            f"`sigma` must be one number, got the shape {jnp.shape(sigma)}."
        )
    return as_float(sigma)
