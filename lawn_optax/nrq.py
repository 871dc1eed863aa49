# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The noisy Rayleigh quotient: a normalised model whose training can be predicted.

The loss is ``x' A x / (2 x' x)``, its gradient is noisy, orthogonal to x and shrinks as
``1/|x|``: what a layer before batch normalisation has, in the smallest form. `simulate`
trains it with any optimizer, thousands of trials at once; the other functions predict
what comes out for SGD with weight decay, eq. 3 of the paper::

    optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))

A is diagonal, with its eigenvalues in ascending order (Assumption 1: a rotation of the
coordinates makes any A so). Predictions are those of the stochastic differential
equation, in which a unit of time is one update, to first order in ``learning_rate *
weight_decay``. In the paper's equations M must be the squared norm of x, though it is
called the norm; where constants are misprinted, the docstring says which.

Of a trial, the alignment f is the squared first coordinate of ``x/|x|``, 1 at an
optimum; the risk is 1 minus its mean over trials.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import diagnostics
from lawn_optax._nrq_motion import alignment_sde as alignment_sde
from lawn_optax._nrq_motion import angular_update as angular_update
from lawn_optax._nrq_motion import equilibrium_norm as equilibrium_norm
from lawn_optax._nrq_motion import equivalent as equivalent
from lawn_optax._nrq_motion import loss_bounds as loss_bounds
from lawn_optax._nrq_motion import norm as norm
from lawn_optax._nrq_motion import quadratic_risk as quadratic_risk
from lawn_optax._nrq_motion import step_angle as step_angle
from lawn_optax._nrq_risk import EquilibriumBounds as EquilibriumBounds
from lawn_optax._nrq_risk import equilibrium_bounds as equilibrium_bounds
from lawn_optax._nrq_risk import escape_norm as escape_norm
from lawn_optax._nrq_risk import risk_bounds as risk_bounds
from lawn_optax._nrq_stationary import stationary_log_density as stationary_log_density
from lawn_optax._nrq_stationary import stationary_mode as stationary_mode
from lawn_optax._nrq_stationary import stationary_risk as stationary_risk
from lawn_optax._nrq_stationary import stationary_tail as stationary_tail

__all__ = [
    "EquilibriumBounds",
    "Trajectory",
    "alignment_sde",
    "angular_update",
    "equilibrium_bounds",
    "equilibrium_norm",
    "equivalent",
    "escape_norm",
    "gradient",
    "loss",
    "loss_bounds",
    "norm",
    "quadratic_gradient",
    "quadratic_loss",
    "quadratic_risk",
    "risk_bounds",
    "simulate",
    "stationary_log_density",
    "stationary_mode",
    "stationary_risk",
    "stationary_tail",
    "step_angle",
]

Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Trajectory(NamedTuple):
    """What `simulate` records of each trial, before every n-th update."""

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
    length = jnp.sqrt(_sum(x * x))[..., None]
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
    """Trains all trials at once, in one compiled loop, with noise of its own for each.

    Args:
      optimizer: Any Optax optimizer; it sees one trial's x as its parameters. For the
        paper's SGD see the top of this module.
      x0: [trials, p], where the trials begin; float64 needs ``jax_enable_x64``.
      spectrum: [p], the eigenvalues of A.
      sigma: Size of the gradient noise at norm 1: a standard deviation (Assumption 2),
        one per coordinate [p], or a root [p, p] of the covariance.
      steps: Number of updates, a multiple of ``every``.
      key: For the noise, a key of ``jax.random.key``. Equal keys give trials the same
        noise whatever the optimizer.
      every: Record before each so many updates.
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
            jax.vmap(lambda u, w: diagnostics.angular_update(u, w, "all")[0])(
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


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-1)


def _times(values: jax.Array, x: jax.Array) -> jax.Array:
    """A number, or one per coordinate, times x [..., p]."""
    return jnp.broadcast_to(values, jnp.shape(x)) * x
