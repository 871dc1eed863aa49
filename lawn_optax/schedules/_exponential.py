# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Learning rates that grow exponentially and take the place of weight decay.

On a loss that does not change when all weights are multiplied by one positive number,
SGD with momentum and weight decay and SGD with momentum and a growing rate go through
the same functions: the weights of the second are P_t times those of the first.

Everything is computed before training, as logarithms in float64: with usual
hyperparameters P_t leaves the range of float32 within some ten thousand updates.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lawn_optax.schedules._phases import whole_steps


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExponentialRates:
    r"""An Optax schedule of exponential rates, with the growth of the weights.

    Give it to ``optax.sgd(rates, momentum=rates.momentum)`` without weight decay if all
    rates are within the range of JAX's default float type, and to `rescaled_sgd`
    otherwise. A call with update counts of any shape gives rates of that type, which
    are 0 from the end of the run on. If any rate of the run is beyond the range of the
    type, the first call already raises an error.

    Attributes:
      log_rates: float64[total_steps]; logarithm of the rate of each update, counted
        from 0. Minus infinity for a last rate of 0.
      log_growth: float64[total_steps + 1]; ``ln P_t``, the logarithm of how many
        times longer the weights after t updates are than those of the run with
        weight decay.
      momentum: Momentum of the SGD that the rates are for.
    """

    log_rates: np.ndarray
    log_growth: np.ndarray
    momentum: float

    def __post_init__(self):
        for table in (self.log_rates, self.log_growth):
            table.setflags(write=False)

    def __call__(self, count: ArrayLike) -> jax.Array:
        """The learning rate of the update after `count` others."""
        dtype = jnp.result_type(float)
        step = first_step(self.log_rates >= _log_max(dtype))
        if step is not None:
            raise ValueError(
                f"The learning rate of update {step} is {self._decimal(step)}, beyond "
                f"{dtype}: train with `schedules.rescaled_sgd(rates)`, which keeps the "
                "weights small, or in fewer steps."
            )
        return look_up(np.exp(self.log_rates).astype(dtype), count)

    def overflow_step(self, params: optax.Params | None = None) -> int | None:
        """The first update, counted from 0, after which a number overflows.

        It looks at the rates, in JAX's default float type, and, with `params`, at the
        weights and the square of their norm (in float32, or their type if that is
        wider). Batch statistics and norms of gradients or weights are of the order of
        that square, so they overflow long before the weights do. The prediction is for
        weights that would keep their initial norm under weight decay, as weights in
        equilibrium do.

        Args:
          params: The weights before training.

        Returns:
          The update, or None where all numbers stay in range.
        """
        beyond = self.log_rates >= _log_max(jnp.result_type(float))
        leaves = [
            x
            for x in jax.tree.leaves(params)
            if np.size(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        ]
        squares, growth = 0.0, self.log_growth[1:]
        with np.errstate(divide="ignore"):  # weights that are 0 stay 0
            for leaf in leaves:
                dtype, size = jnp.result_type(leaf), np.abs(np.asarray(leaf, complex))
                squares += float(np.sum(size**2))
                beyond |= growth + np.log(size.max()) >= _log_max(dtype)
            wide = jnp.result_type(jnp.float32, *leaves)
            beyond |= 2 * growth + np.log(squares) >= _log_max(wide)
        return first_step(beyond)

    def _decimal(self, step: int) -> str:
        """A rate as text, even beyond the range of Python's floats."""
        exponent, rest = divmod(self.log_rates[step] / math.log(10), 1)
        return f"{10**rest:.2f}e{exponent:+.0f}"


def look_up(table: np.ndarray, count: ArrayLike) -> jax.Array:
    """The entries of a table at update counts, 0 beyond its end."""
    count, entries = jnp.asarray(count), jnp.asarray(table)
    found = entries[jnp.clip(count, 0, len(table) - 1)]
    return jnp.where(count < len(table), found, jnp.zeros((), entries.dtype))


def exponential_equivalent(
    schedule: optax.ScalarOrSchedule,
    momentum: float,
    weight_decay: optax.ScalarOrSchedule,
    total_steps: int,
) -> ExponentialRates:
    r"""Growing rates that do without weight decay what a schedule does with it.

    Take SGD with momentum gamma, rates eta_t and weight decay lambda_t that is added
    to the gradient, as in ``optax.chain(optax.add_decayed_weights(decay),
    optax.sgd(schedule, momentum))``. On a scale-invariant loss it goes through the
    same functions as SGD with momentum gamma, no decay and the rates

    .. math::
        \tilde\eta_t = P_t P_{t+1} \eta_t, \quad
        P_t = \prod_{i=1}^t \alpha_i^{-1}, \quad
        \alpha_t = 1 - \eta_{t-1} \lambda_{t-1}
          + \frac{\eta_{t-1}}{\eta_{t-2}} \gamma (1 - \alpha_{t-1}^{-1})

    with ``alpha_0 = 1``, from the same weights and momentum; its weights after
    t updates are P_t times those with weight decay. The equivalence is
    exact but for rounding, and only if *all* trained weights can be multiplied by one
    number together without a change of the loss. So do not train the scales and biases
    of normalization layers or the last layer, and use a normalization whose epsilon is
    negligible beside the variance.

    Args:
      schedule: Learning rate or Optax schedule, read once in the precision that it has
        itself; positive, but for the last update, whose rate may be 0.
      momentum: Momentum gamma, 0 or more and below 1; not Nesterov's.
      weight_decay: Weight decay lambda, 0 or more, a number or an Optax schedule. The
        learning rate multiplies it.
      total_steps: Updates of the whole run, at least 1.

    Returns:
      The rates; with ``weight_decay=0`` those of `schedule`.

    Raises:
      ValueError: For a rate of 0 before the last update, values that are negative or
        not finite, and where no equivalent exists:
        ``lambda eta > (1 - sqrt(gamma))^2`` or ``alpha_t <= 0``. It names
        the step and the values that are allowed there.

    Examples:
      >>> rates = exponential_equivalent(
      ...     0.1, momentum=0.0, weight_decay=1.0, total_steps=3
      ... )
      >>> print(rates(jnp.arange(3)))  # 0.1 * 0.9 ** -(2 * t + 1)
      [0.1111 0.1372 0.1694]
      >>> print(jnp.exp(rates.log_growth))
      [1. 1.1111 1.2346 1.3717]

    References:
      Li and Arora 2019, "An Exponential Learning Rate Schedule for Deep Learning",
      arXiv:1910.07454, Theorem 2.5 and eq. 6. Definition 2.6 says the same of step
      decay, but as printed applies each new rate one update too early.
    """
    tables = rate_tables(schedule, momentum, weight_decay, total_steps)
    return _equivalent(*tables, momentum)


def exponential_cosine(
    peak_value: float,
    momentum: float,
    weight_decay: optax.ScalarOrSchedule,
    total_steps: int,
    steps_per_epoch: int = 1,
) -> ExponentialRates:
    r"""The exponential equivalent of a cosine schedule that changes once per epoch.

    In epoch e of E, counted from 0, the rate is that of the equivalent of ``eta_0 (1 +
    cos(pi e / E)) / 2``.

    Args:
      peak_value: Rate eta_0 of the first epoch, positive.
      momentum: Momentum gamma, as in `exponential_equivalent`.
      weight_decay: Weight decay, as in `exponential_equivalent`.
      total_steps: Updates of the whole run, at least 1. If they are not a whole number
        of epochs, the last epoch is cut short.
      steps_per_epoch: Updates per epoch, at least 1; 1 changes the rate at every
        update.

    Returns:
      The rates.

    Raises:
      ValueError: In the cases of `exponential_equivalent`, and for fewer than 1 step.

    Examples:
      >>> rates = exponential_cosine(0.1, 0.0, weight_decay=1.0, total_steps=4)
      >>> print(rates.log_growth.round(4))  # -log(1 - 0.1), -log(1 - 0.0854), ...
      [0. 0.1054 0.1946 0.2459 0.2606]

    References:
      Li and Arora 2019, arXiv:1910.07454, section 4.2 and eq. 8.
    """
    total = whole_steps("total_steps", total_steps, least=1)
    per_epoch = whole_steps("steps_per_epoch", steps_per_epoch, least=1)
    share = np.arange(total) // per_epoch * (per_epoch / total)
    rates = peak_value * (1 + np.cos(np.pi * share)) / 2
    return _equivalent(*rate_tables(rates, momentum, weight_decay, total), momentum)


def _equivalent(
    rates: np.ndarray, decays: np.ndarray, momentum: float
) -> ExponentialRates:
    """Theorem 2.5, for numbers that have been checked."""
    # With d = 1 - alpha and r = 1/alpha - 1 = d / (1 - d), eq. 6 is a sum without
    # negative terms, d_t = eta lambda + (eta / eta') gamma r_{t-1}: no digits are lost,
    # even where alpha is close to 1.
    d, r, before = np.empty_like(rates), 0.0, float(rates[0])
    for t, (rate, decay) in enumerate(
        zip(rates.tolist(), decays.tolist(), strict=True)
    ):
        d[t] = rate * decay + rate / before * momentum * r
        if d[t] >= 1:
            raise ValueError(
                "The weights would change their sign, which has no equivalent:"
                f" alpha must be positive, got {1 - d[t]:.6g} at step {t}. The learning"
                f" rate there must be below {rate / d[t]:.6g}; got {rate:.6g}."
            )
        r, before = d[t] / (1 - d[t]), rate
    growth = summed(-np.log1p(-d))
    with np.errstate(divide="ignore"):  # the last rate may be 0
        log_rates = np.log(rates) + growth[:-1] + growth[1:]
    return ExponentialRates(log_rates, growth, float(momentum))


def summed(growth: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(growth)])


def rate_tables(
    schedule: Any, momentum: float, weight_decay: Any, total_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weight decays of all updates, checked."""
    total = whole_steps("total_steps", total_steps, least=1)
    rates = _table("schedule", schedule, total)
    decays = _table("weight_decay", weight_decay, total)
    _check(rates, momentum, decays)
    return rates, decays


def _table(name: str, value: Any, total: int) -> np.ndarray:
    """float64[total] of a number, a schedule or a table."""
    if callable(value):
        # The table must be a constant even where the optimizer is made inside `jit`.
        with jax.ensure_compile_time_eval():
            value = jax.vmap(value)(jnp.arange(total, dtype=jnp.int32))
    table = np.array(np.broadcast_to(np.asarray(value, np.float64), (total,)))
    step = first_step(~(np.isfinite(table) & (table >= 0)))
    if step is not None:
        raise ValueError(
            f"`{name}` must be finite and at least 0; got {table[step]} at step {step}."
        )
    return table


def _check(rates: np.ndarray, momentum: float, decays: np.ndarray) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1); got {momentum!r}.")
    step = first_step(rates[:-1] == 0)
    if step is not None:
        raise ValueError(
            "The learning rate must be positive at every step but the last one, as "
            f"eq. 6 divides by it; got 0 at step {step}. Let a warm-up begin above 0, "
            "as `schedules.two_phase` does, or end the run there."
        )
    limit, products = (1 - math.sqrt(momentum)) ** 2, rates * decays
    # The limit itself is allowed, up to rounding, but not the limit 1 of no momentum.
    step = first_step((products > limit * (1 + 1e-12)) | (products >= 1))
    if step is not None:
        relation = "at most" if momentum else "below"
        raise ValueError(
            f"With momentum {momentum:g}, learning rate times weight decay must be "
            f"{relation} (1 - sqrt(momentum))^2 = {limit:.6g}; got {products[step]:.6g}"
            f" at step {step}. There the rate must be {relation} "
            f"{limit / decays[step]:.6g} or the weight decay "
            f"{limit / rates[step]:.6g}."
        )


def first_step(found: np.ndarray) -> int | None:
    """The first step at which something is true, or None."""
    return int(np.argmax(found)) if found.any() else None


def _log_max(dtype: Any) -> float:
    """Logarithm of the largest number of a type."""
    return float(np.log(np.float64(jnp.finfo(dtype).max)))
