# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Simulates SGD with weight decay on a noisy Rayleigh quotient."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lawn_optax import diagnostics
from lawn_optax._types import as_float

Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Trajectory(NamedTuple):
    """Measurements of each trial that `simulate` makes before every n-th update."""

    norm: jax.Array  # [records, trials]; |x|
    alignment: jax.Array  # [records, trials]; f, the squared cosine to the optimum
    loss: jax.Array  # [records, trials]
    angular_update: jax.Array  # [records, trials]; angle of the update in radians


def loss(x: jax.Array, spectrum: jax.Array) -> jax.Array:
    """The Rayleigh quotient ``x' A x / (2 x' x)``.

    Args:
      x: [..., p], not zero.
      spectrum: [p], the eigenvalues of A.

    Returns:
      [...]; at least half the smallest eigenvalue.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> print(lawn.nrq.loss(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])))
      0.82

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 1.
    """
    return _sum(_times(spectrum, x) * x) / (2 * _sum(x * x))


def gradient(x: jax.Array, spectrum: jax.Array, noise: jax.Array) -> jax.Array:
    """Noisy gradient of the Rayleigh quotient, ``P (A x/|x| + noise) / |x|``.

    P projects to the tangent space of x.

    Args:
      x: [..., p], not zero.
      spectrum: [p], the eigenvalues of A.
      noise: [..., p], drawn with the covariance of the gradient noise at norm 1.

    Returns:
      [..., p]; orthogonal to x.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> x, spectrum = jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])
      >>> print(lawn.nrq.gradient(x, spectrum, jnp.zeros(2)))
      [-0.0768  0.0576]

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 4.
    """
    # Without the barrier, jax 0.11.1 and 0.11.2 fuse both sums on CPUs, and from
    # 4,096 vectors on the result is NaN.
    length = jax.lax.optimization_barrier(jnp.sqrt(_sum(x * x))[..., None])
    unit = x / length
    g = _times(spectrum, unit) + noise
    return (g - _sum(g * unit)[..., None] * unit) / length


def quadratic_loss(x: jax.Array, spectrum: jax.Array) -> jax.Array:
    """The loss of the noisy quadratic model, ``x' A x / 2``.

    Args:
      x: [..., p].
      spectrum: [p], the eigenvalues of A.

    Returns:
      [...]; 0 at the optimum x = 0.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> print(lawn.nrq.quadratic_loss(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])))
      20.5

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 7; Zhang et al. 2019,
      arXiv:1907.04164.
    """
    return _sum(_times(spectrum, x) * x) / 2


def quadratic_gradient(
    x: jax.Array, spectrum: jax.Array, noise: jax.Array
) -> jax.Array:
    """Noisy gradient of the quadratic model, ``A x + noise``.

    The paper prints ``x/|x|`` for x, which is not the gradient of its loss.

    Args:
      x: [..., p].
      spectrum: [p], the eigenvalues of A.
      noise: [..., p], drawn with the covariance of the gradient noise.

    Returns:
      [..., p].

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> x, spectrum = jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0])
      >>> print(lawn.nrq.quadratic_gradient(x, spectrum, jnp.ones(2)))
      [4. 9.]

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 8; Zhang et al. 2019,
      arXiv:1907.04164.
    """
    return _times(spectrum, x) + noise


_MODELS: dict[str, tuple[Gradient, Callable]] = {
    "rayleigh": (gradient, loss),
    "quadratic": (quadratic_gradient, quadratic_loss),
}


def simulate(
    optimizer: optax.GradientTransformation,
    x0: jax.Array,
    spectrum: jax.Array,
    sigma: jax.Array | float,
    steps: int,
    *,
    key: jax.Array,
    every: int = 1,
    model: str = "rayleigh",
) -> tuple[jax.Array, Trajectory]:
    """Trains all trials at once, each with its own noise, in one compiled loop.

    Args:
      optimizer: Any Optax optimizer; it sees the x of one trial as its parameters. The
        docstring of `lawn_optax.nrq` has the paper's SGD.
      x0: [trials, p], start of each trial; float64 needs `jax_enable_x64`.
      spectrum: [p], the eigenvalues of A.
      sigma: Size of the gradient noise at norm 1: a standard deviation (Assumption 2),
        one per coordinate [p], or a root [p, p] of the covariance.
      steps: Number of updates, a multiple of `every`.
      key: Random key of the noise, from `jax.random.key`. Equal keys give the same
        noise with every optimizer.
      every: Number of updates from one record to the next.
      model: "rayleigh", or "quadratic" for the noisy quadratic model.

    Returns:
      The last x, [trials, p], and a `Trajectory` with ``steps // every`` records.

    Raises:
      ValueError: If shapes or numbers do not fit or the model is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, lawn_optax as lawn
      >>> sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
      >>> x0 = jnp.ones((1000, 3))
      >>> spectrum = jnp.array([0.0, 1.0, 1.0])
      >>> _, seen = lawn.nrq.simulate(
      ...     sgd, x0, spectrum, 0.1, 500, key=jax.random.key(0), every=100
      ... )
      >>> seen.alignment.shape
      (5, 1000)
      >>> bool(seen.alignment[-1].mean() > 0.9)  # from 1/3
      True

    References:
      Noisy Rayleigh Quotient, ICLR submission, eqs. 3, 4 (7, 8 for the quadratic).
    """
    if model not in _MODELS:
        raise ValueError(
            f"`model` must be one of {', '.join(map(repr, _MODELS))}, got {model!r}."
        )
    if jnp.ndim(x0) != 2 or jnp.shape(spectrum) != (p := jnp.shape(x0)[-1],):
        raise ValueError(
            "`x0` must be [trials, p] and `spectrum` [p], got the shapes "
            f"{jnp.shape(x0)} and {jnp.shape(spectrum)}."
        )
    if jnp.shape(sigma) not in ((), (p,), (p, p)):
        raise ValueError(
            f"`sigma` must be a number, [p] or [p, p] with p = {p}, got the shape "
            f"{jnp.shape(sigma)}."
        )
    if every < 1 or steps < 1 or steps % every:
        raise ValueError(
            "`steps` must be a multiple of `every`, both at least 1, got "
            f"steps={steps}, every={every}."
        )
    x0 = jnp.asarray(x0, jnp.result_type(float, x0))
    spectrum, sigma = (jnp.asarray(a, x0.dtype) for a in (spectrum, sigma))
    gradient_of, loss_of = _MODELS[model]

    def update(carry, t):
        x, state = carry
        noise = jax.random.normal(jax.random.fold_in(key, t), x.shape, x.dtype)
        noise = noise @ sigma.T if sigma.ndim == 2 else _times(sigma, noise)
        g = gradient_of(x, spectrum, noise)
        updates, state = jax.vmap(optimizer.update)(g, state, x)
        return ((x + updates).astype(x.dtype), state), updates

    def measure(x, updates):
        return Trajectory(
            jnp.sqrt(_sum(x * x)),
            x[:, 0] ** 2 / _sum(x * x),
            loss_of(x, spectrum),
            jax.vmap(lambda u, w: diagnostics.angular_update(u, w, groups="all")[0])(
                updates, x
            ),
        )

    def record(carry, start):
        x = carry[0]
        carry, updates = update(carry, start)
        times = start + 1 + jnp.arange(every - 1)
        # The updates between two records are not kept.
        carry, _ = jax.lax.scan(lambda c, t: (update(c, t)[0], None), carry, times)
        return carry, measure(x, updates)

    carry = x0, jax.vmap(optimizer.init)(x0)
    (x, _), seen = jax.lax.scan(record, carry, jnp.arange(0, steps, every))
    return x, seen


def euler_maruyama(
    sigma: ArrayLike, learning_rate: ArrayLike, parts: int
) -> tuple[jax.Array, jax.Array]:
    """Noise and rate with which `simulate` integrates the differential equation.

    SGD with weight decay is the Euler-Maruyama method, with one step per update, for
    the paper's ``dx = -eta (P A x/|x|^2 + lambda x) dt + (eta/|x|) P dB``, where B has
    the covariance of `sigma`. So a step for a part of an update is an update with that
    part of the rate and ``sqrt(parts)`` times the noise.

    Args:
      sigma: Size of the gradient noise, as in `simulate`.
      learning_rate: Learning rate eta.
      parts: Steps per update; `simulate` then takes `parts` times as many.

    Returns:
      The noise and the learning rate for `simulate`; the decay stays.

    Examples:
      >>> import lawn_optax as lawn
      >>> noise, rate = lawn.nrq.euler_maruyama(0.5, 0.1, 4)
      >>> print(noise, rate)
      1.0 0.025

    References:
      Noisy Rayleigh Quotient, ICLR submission, eq. 9.
    """
    return as_float(sigma) * parts**0.5, as_float(learning_rate) / parts


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-1)


def _times(values: jax.Array, x: jax.Array) -> jax.Array:
    """A number, or one per coordinate, times x [..., p]."""
    return jnp.broadcast_to(values, jnp.shape(x)) * x
