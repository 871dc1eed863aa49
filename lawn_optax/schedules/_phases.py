# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The LAWN papers' learning-rate schedules: two and three linear phases."""

from decimal import ROUND_HALF_UP, Decimal
from math import isfinite
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike


def three_phase(
    peak_value: ArrayLike,
    free_steps: int | jax.Array,
    warmup_steps: int | jax.Array,
    total_steps: int | jax.Array,
) -> optax.Schedule:
    r"""LAWN's schedule: warm-up in the free phase, a second warm-up, linear decay.

    With F free, W warm-up, T total updates and
    ``D = T - F - W``, the update after t others has the rate

    .. math::
        \eta_t = \eta_{peak} \cdot \begin{cases}
          (t + 1) / F     & 0 \le t < F \\
          (t - F + 1) / W & F \le t < F + W \\
          (T - t) / D     & F + W \le t < T \\
          0               & t \ge T
        \end{cases}

    The papers ramp "from 0"; here the first update of a ramp has the rate peak/n and
    its last one the peak. The decay is that of
    ``optax.linear_schedule(peak_value, 0, D)``: it starts at the peak and its last
    update has peak/D.

    Args:
      peak_value: Learning rate per update at the peak, finite and at least 0.
      free_steps: Updates of the free phase, 0 or more (0: no free phase). Give the same
        number to `switch_step` of `lawn_optax.wrap`.
      warmup_steps: Updates of the warm-up after the switch, 0 or more.
      total_steps: Updates of the whole run, at least 1 and at least ``free_steps +
        warmup_steps``. All three may be (traced) JAX integers, for example to `vmap`
        over switch steps; their values are then not checked.

    Returns:
      An `optax.Schedule` from update counts, of any shape, to rates.

    Raises:
      ValueError: For a number of steps that is negative, NaN or not whole, phases
        longer than the run, or a peak that is negative or not finite.

    Examples:
      >>> schedule = three_phase(0.1, free_steps=2, warmup_steps=4, total_steps=10)
      >>> print(*(f"{schedule(t):.3f}" for t in range(11)))
      0.050 0.100 0.025 0.050 0.075 0.100 0.100 0.075 0.050 0.025 0.000

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3, Appendix D.1 and Figure 5.
    """
    if isinstance(peak_value, (int, float)) and not 0 <= peak_value < float("inf"):
        raise ValueError(
            "`peak_value` must be a finite learning rate of at least 0; got "
            f"{peak_value!r}."
        )
    free_steps = whole_steps("free_steps", free_steps)
    warmup_steps = whole_steps("warmup_steps", warmup_steps)
    total_steps = whole_steps("total_steps", total_steps)
    known = all(isinstance(n, int) for n in (free_steps, warmup_steps, total_steps))
    if known and total_steps < max(1, free_steps + warmup_steps):
        raise ValueError(
            "`total_steps` must be at least 1 and at least free_steps + warmup_steps; "
            f"got free_steps={free_steps}, warmup_steps={warmup_steps}, "
            f"total_steps={total_steps}. Shorten a phase or train longer."
        )
    warm_end = free_steps + warmup_steps

    def schedule(count: ArrayLike) -> jax.Array:
        dtype = jnp.result_type(float)
        count = jnp.asarray(count)

        def share(part: ArrayLike, whole: ArrayLike) -> jax.Array:
            # Counts are subtracted as integers, exact beyond 2**24, and then converted.
            return jnp.asarray(part, dtype) / jnp.maximum(whole, 1).astype(dtype)

        constrained = jnp.where(
            count < warm_end,
            share(count - free_steps + 1, warmup_steps),
            share(total_steps - count, total_steps - warm_end),
        )
        fraction = jnp.where(
            count < free_steps, share(count + 1, free_steps), constrained
        )
        # The rate is 0 after the end, even if traced phases are longer than the run.
        fraction = jnp.where(count < total_steps, fraction, jnp.zeros((), dtype))
        return jnp.asarray(peak_value, dtype) * fraction

    return schedule


def two_phase(
    peak_value: ArrayLike,
    warmup_steps: int | jax.Array,
    total_steps: int | jax.Array,
) -> optax.Schedule:
    r"""One linear warm-up, then linear decay to zero.

    The schedule of the papers' base optimizers, and of LAWN itself in the submission.
    It is `three_phase` without a free phase: the rate is
    ``eta_peak (t + 1) / W`` for ``t < W``, then
    ``eta_peak (T - t) / (T - W)``, and 0 from ``t = T`` on.

    Args:
      peak_value: Learning rate per update at the peak, finite and at least 0.
      warmup_steps: Updates of the warm-up, 0 or more.
      total_steps: Updates of the whole run, at least 1 and at least `warmup_steps`.
        Both may be (traced) JAX integers; their values are then not checked.

    Returns:
      An `optax.Schedule` from update counts, of any shape, to rates.

    Raises:
      ValueError: In the cases of `three_phase`.

    Examples:
      >>> schedule = two_phase(1.0, warmup_steps=2, total_steps=6)
      >>> print(*(f"{schedule(t):.2f}" for t in range(7)))
      0.50 1.00 1.00 0.75 0.50 0.25 0.00

    References:
      Gupta et al. 2021, arXiv:2108.05839, Appendix D.1 and Figure 6; LAWN, ICLR
      submission, section 3.
    """
    return three_phase(peak_value, 0, warmup_steps, total_steps)


def three_phase_epochs(
    peak_value: ArrayLike,
    free_epochs: float,
    warmup_epochs: float,
    total_epochs: float,
    steps_per_epoch: int,
) -> optax.Schedule:
    """`three_phase` with its phases in epochs, as the papers give them.

    `epochs_to_steps` converts each phase.

    Args:
      peak_value: Learning rate per update at the peak, finite and at least 0.
      free_epochs: Epochs of the free phase (E_free), 0 or more, may be fractional. The
        step of the switch is ``epochs_to_steps(free_epochs, steps_per_epoch)``.
      warmup_epochs: Epochs of the warm-up (E_warmup), 0 or more, may be fractional. If
        both phases are rounded up to more than the run has, it loses the excess.
      total_epochs: Epochs of the whole run (E_total), may be fractional.
      steps_per_epoch: Updates per epoch, at least 1.

    Returns:
      An `optax.Schedule` from update counts, of any shape, to rates.

    Raises:
      ValueError: In the cases of `three_phase` and `epochs_to_steps`.

    Examples:
      >>> schedule = three_phase_epochs(0.1, 0.4, 0.8, 2, steps_per_epoch=5)
      >>> print(*(f"{schedule(t):.3f}" for t in range(11)))
      0.050 0.100 0.025 0.050 0.075 0.100 0.100 0.075 0.050 0.025 0.000

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3, Appendix D.1 and Figure 5.
    """
    free_steps = epochs_to_steps(free_epochs, steps_per_epoch)
    warmup_steps = epochs_to_steps(warmup_epochs, steps_per_epoch)
    total_steps = epochs_to_steps(total_epochs, steps_per_epoch)
    if epochs_to_steps(free_epochs + warmup_epochs, steps_per_epoch) <= total_steps:
        warmup_steps = min(warmup_steps, total_steps - free_steps)
    return three_phase(peak_value, free_steps, warmup_steps, total_steps)


def two_phase_epochs(
    peak_value: ArrayLike,
    warmup_epochs: float,
    total_epochs: float,
    steps_per_epoch: int,
) -> optax.Schedule:
    """`two_phase` with its phases in epochs.

    Args:
      peak_value: Learning rate per update at the peak, finite and at least 0.
      warmup_epochs: E_warmup, 0 or more, may be fractional.
      total_epochs: Epochs of the whole run (E_total), may be fractional.
      steps_per_epoch: Updates per epoch, at least 1.

    Returns:
      An `optax.Schedule` from update counts, of any shape, to rates.

    Raises:
      ValueError: In the cases of `three_phase` and `epochs_to_steps`.

    Examples:
      >>> schedule = two_phase_epochs(1.0, 0.5, 1.5, steps_per_epoch=4)
      >>> print(*(f"{schedule(t):.2f}" for t in range(7)))
      0.50 1.00 1.00 0.75 0.50 0.25 0.00

    References:
      Gupta et al. 2021, arXiv:2108.05839, Appendix D.1 and Figure 6.
    """
    return three_phase_epochs(
        peak_value, 0, warmup_epochs, total_epochs, steps_per_epoch
    )


def epochs_to_steps(epochs: float, steps_per_epoch: int) -> int:
    """Epochs as the nearest whole number of updates, halves rounded up.

    Halves go up so that half an update of free training is one update, not none. The
    product is taken in decimal, from the number as it prints: 0.29 epochs of 50 steps
    are 14.5 steps, hence 15, although ``0.29 * 50`` is 14.499999999999998.

    Args:
      epochs: Number of epochs, finite, 0 or more, may be fractional.
      steps_per_epoch: Updates per epoch, a whole number of at least 1.

    Returns:
      The number of updates, for `switch_step` and the schedules alike.

    Raises:
      ValueError: For epochs that are negative or not finite, or steps per epoch that
        are not a whole number of at least 1.

    Examples:
      >>> print([epochs_to_steps(epochs, 5) for epochs in (0, 0.05, 0.1, 0.3, 10)])
      [0, 0, 1, 2, 50]
    """
    if not (epochs >= 0 and isfinite(epochs)):
        raise ValueError(f"Epochs must be a finite number, 0 or more; got {epochs!r}.")
    steps = whole_steps("steps_per_epoch", steps_per_epoch)
    if steps < 1:
        raise ValueError(
            f"`steps_per_epoch` must be at least 1; got {steps_per_epoch!r}. "
            "Is the batch larger than the data set?"
        )
    product = Decimal(str(epochs)) * int(steps)
    return int(product.to_integral_value(ROUND_HALF_UP))


def whole_steps(name: str, steps: Any, least: int = 0) -> Any:
    """A Python int from a whole number; JAX arrays, perhaps traced, pass unchecked."""
    if isinstance(steps, jax.Array):
        return steps
    if not (steps >= least and float(steps).is_integer()):
        raise ValueError(
            f"`{name}` must be a whole number of updates, {least} or more; got "
            f"{steps!r}. For epochs use `epochs_to_steps` or the `_epochs` form of the "
            "schedule."
        )
    return int(steps)
