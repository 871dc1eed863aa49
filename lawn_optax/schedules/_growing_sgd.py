# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""SGD with exponential rates on weights that stay small.

The function of a scale-invariant network is the same for the weights w and c w, and its
gradient is 1/c of that at w. So whenever the weights have grown to twice their length,
they can be halved, if the momentum is doubled and all later rates are divided by 4.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lawn_optax._types import check_params, select
from lawn_optax._versions import safe_increment
from lawn_optax.schedules._exponential import ExponentialRates, look_up

_LOG_2 = math.log(2)


class RescaledState(NamedTuple):
    """State of the transformation returned by `rescaled_sgd`."""

    count: jax.Array  # int32[]; updates done so far
    halvings: jax.Array  # int32[]; how often the weights were halved
    trace: optax.OptState  # momentum, like the parameters


class PlateauState(NamedTuple):
    """State of the transformation returned by `plateau_sgd`."""

    # float32[] (float64 with x64); rate of the next update, before its `value` acts
    log_rate: jax.Array
    log_growth: jax.Array  # float32[] (float64 with x64); since the last halving
    halvings: jax.Array  # int32[]; how often the weights were halved
    plateau: Any  # state of `plateau`; its scale is the remaining share of the exponent
    trace: optax.OptState  # momentum, like the parameters


def rescaled_sgd(rates: ExponentialRates) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and exponential rates, whose weights are halved as they grow.

    It trains through the same functions as ``optax.sgd(rates, rates.momentum)`` does on
    a scale-invariant loss, for any number of steps: where that would make the weights
    twice as long as those of the run with weight decay, they are halved, the momentum
    is doubled, and from then on the rates are divided by 4. Multiplying by powers of
    two is exact, so the two differ by rounding alone, and the weights stay between one
    and two times those of the run with weight decay.

    Args:
      rates: Rates from `exponential_equivalent`, `tapered_exponential` or
        `exponential_cosine`.

    Returns:
      An optimizer whose `update` needs `params`, all of which are rescaled: keep
      weights that are not scale-invariant, such as a last layer, out of it
      (`optax.partition`, `optax.masked`). The weights without rescaling are those here
      times ``2.0 ** state.halvings``. A transformation behind it must not change
      updates. From the end of the rates on, its updates are 0.

    Raises:
      TypeError: If `rates` is not an `ExponentialRates`: the growth must be known.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lawn_optax import schedules
      >>> rates = schedules.exponential_equivalent(0.5, 0.0, 1.0, total_steps=900)
      >>> tx = schedules.rescaled_sgd(rates)  # P doubles at every update
      >>> print(f"without it, the rate would overflow at step {rates.overflow_step()}")
      without it, the rate would overflow at step 64
      >>> w = jnp.array([1.0, 1.0])
      >>> state = tx.init(w)
      >>> loss = lambda w: w[0] / jnp.linalg.norm(w)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      >>> print(w, state.halvings)
      [-0.3466 0.0114] 4

    References:
      Li and Arora 2019, arXiv:1910.07454, Theorem 2.5 and Lemma 2.8.
    """
    if not isinstance(rates, ExponentialRates):
        raise TypeError(
            "`rates` must come from `exponential_equivalent`, `tapered_exponential` or "
            f"`exponential_cosine`, got {type(rates).__name__}. Use `optax.sgd` for "
            "other schedules."
        )
    momentum = optax.trace(rates.momentum)
    # 1e-9 guards `floor` against rounding where the growth is a power of two.
    halved = np.floor(rates.log_growth / _LOG_2 + 1e-9).astype(np.int32)
    held_rates = np.exp(rates.log_rates - 2 * _LOG_2 * halved[:-1])
    halve = np.diff(halved)

    def init_fn(params):
        zero = jnp.zeros([], jnp.int32)
        return RescaledState(zero, zero, momentum.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, "rescaled_sgd")
        moments, trace = momentum.update(updates, state.trace)
        rate = look_up(held_rates.astype(jnp.result_type(float)), state.count)
        times = look_up(halve, state.count)
        return _step(moments, params, rate, times), RescaledState(
            jnp.asarray(safe_increment(state.count)),
            state.halvings + times,
            _doubled(trace, times),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def plateau_sgd(
    learning_rate: float,
    momentum: float,
    exponent: float,
    plateau: optax.GradientTransformationExtraArgs | None = None,
    *,
    instant_decay: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SGD whose rate grows exponentially, and slower after each plateau.

    "Start from a convenient learning rate like 0.1, and grow it at an exponential rate
    with a suitable exponent. When validation loss plateaus, switch to an exponential
    growth of lr with a lower exponent. Repeat." The weights, which grow half as fast as
    the rate, are halved on the way as in `rescaled_sgd`, so that training can go on
    without end.

    Every update takes the extra argument `value`, as `plateau` does: the latest
    validation loss in the first update after each evaluation, NaN (or another value
    that is not finite) in all others, which do not count as evaluations.

    Args:
      learning_rate: Rate of the first update, positive.
      momentum: Momentum, 0 or more and below 1.
      exponent: Growth of the logarithm of the rate per update at first:
        `growth_exponent` of the constant rate and weight decay that it replaces. At
        most ``-log(momentum)``; no weight decay corresponds to more.
      plateau: Transformation that lowers the exponent: its scale, 1 at first,
        multiplies it. ``optax.contrib.reduce_on_plateau()`` by default, which divides
        it by 10 after 10 evaluations without an improvement.
      instant_decay: Whether the rate is also multiplied by the factor of the exponent,
        as in `tapered_exponential`. It matters where the growth is so slow that the
        weights take long to reach their new equilibrium.

    Returns:
      An optimizer whose `update` needs `params`, all of which are rescaled: see
      `rescaled_sgd`.

    Raises:
      ValueError: For numbers out of range; in `update` without `value`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from lawn_optax import schedules
      >>> slower = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
      >>> tx = schedules.plateau_sgd(0.1, 0.9, exponent=0.01, plateau=slower)
      >>> w = jnp.array([3.0, 4.0])
      >>> state = tx.init(w)
      >>> for loss in (2.0, jnp.nan, 1.0, jnp.nan, 1.0, jnp.nan):
      ...     _, state = tx.update(jnp.zeros(2), state, w, value=loss)
      >>> print(jnp.exp(state.log_rate))  # 0.1 * exp(4 * 0.01 + 2 * 0.005)
      0.1051

    References:
      Li and Arora 2019, arXiv:1910.07454, section 1 (quoted), eq. 7 and, for
      `instant_decay`, eq. 5 and section 4.1.
    """
    _check_growth(learning_rate, momentum, exponent)
    reduce = optax.contrib.reduce_on_plateau() if plateau is None else plateau
    trace = optax.trace(momentum)

    def init_fn(params):
        number = jnp.zeros([], jnp.result_type(float))
        return PlateauState(
            log_rate=number + math.log(learning_rate),
            log_growth=number,
            halvings=jnp.zeros([], jnp.int32),
            plateau=reduce.init(number),
            trace=trace.init(params),
        )

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        params = check_params(params, "plateau_sgd")
        seen = _observed(reduce, state.plateau, value)
        log_rate = state.log_rate
        if instant_decay:
            # A scale that has underflowed to 0 stays 0, without 0 / 0.
            before = jnp.maximum(state.plateau.scale, jnp.finfo(log_rate.dtype).tiny)
            log_rate = log_rate + jnp.log(seen.scale / before)
        growth = exponent * seen.scale
        grown = state.log_growth + growth / 2
        times = jnp.floor(grown / _LOG_2).astype(jnp.int32)
        moments, trace_state = trace.update(updates, state.trace)
        return _step(moments, params, jnp.exp(log_rate), times), PlateauState(
            log_rate + growth - 2 * _LOG_2 * times,
            grown - _LOG_2 * times,
            state.halvings + times,
            seen,
            _doubled(trace_state, times),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _observed(
    reduce: optax.GradientTransformationExtraArgs, state: Any, value: ArrayLike | None
) -> Any:
    """The state of the plateau detection after a value, if it is one."""
    if value is None:
        raise ValueError(
            "plateau_sgd needs the extra argument `value` in every update: call "
            "`tx.update(grads, state, params, value=loss)` with the validation loss "
            "after an evaluation and NaN otherwise. TrainState.apply_gradients passes "
            "no extra arguments on."
        )
    finite = jnp.isfinite(value)
    # Optax computes with the value even where the result is not used.
    _, seen = reduce.update({}, state, value=jnp.where(finite, value, 0.0))
    return select(finite, seen, state)


def _step(moments: Any, params: Any, rate: jax.Array, times: jax.Array) -> Any:
    """Updates that lead to the ordinary new weights, halved `times` times."""
    scale = jnp.ldexp(jnp.ones((), rate.dtype), -times)  # exact, unlike exp2

    def one(m: jax.Array, w: jax.Array) -> jax.Array:
        wide = jnp.result_type(m, w, jnp.float32)
        m_, w_ = m.astype(wide), jnp.asarray(w).astype(wide)
        u = -rate.astype(wide) * m_
        # (w + u) / 2 - w loses no digit; with a smaller factor it would.
        return jnp.where(times > 0, scale.astype(wide) * (w_ + u) - w_, u).astype(
            m.dtype
        )

    return jax.tree.map(one, moments, params)


def _doubled(trace: Any, times: jax.Array) -> Any:
    return jax.tree.map(
        lambda m: m * jnp.ldexp(jnp.ones((), m.real.dtype), times).astype(m.dtype),
        trace,
    )


def _check_growth(learning_rate: float, momentum: float, exponent: float) -> None:
    if not 0 < learning_rate < math.inf:
        raise ValueError(
            f"`learning_rate` must be finite and above 0; got {learning_rate!r}."
        )
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1); got {momentum!r}.")
    most = -math.log(momentum) if momentum else math.inf
    if not 0 <= exponent <= most or not math.isfinite(exponent):
        raise ValueError(
            "`exponent` must be finite, at least 0 and, with momentum "
            f"{momentum:g}, at most -log(momentum) = {most:.6g}; got {exponent!r}. "
            "Take `schedules.growth_exponent(learning_rate, momentum, weight_decay)`."
        )
