# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Rates and weight decays that keep scale-invariant weights in equilibrium."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike


def decay_in_equilibrium(
    schedule: optax.Schedule, weight_decay: ArrayLike, *, start: int = 0
) -> tuple[optax.Schedule, optax.Schedule]:
    r"""A rate and a weight decay that change the angle per update at once.

    SGD and AdamW turn scale-invariant weights by :math:`\sqrt{2 \eta \lambda}` per
    update once their norm is in equilibrium. When the rate alone decays, the norm has
    to shrink first, which takes some :math:`1 / (4 \eta \lambda)` updates. If both the
    rate and the weight decay are divided by the root of k, instead of the rate by k,
    their product is the same, and the norm of the equilibrium does not change::

        t < start:   schedule(t), weight_decay
        t >= start:  schedule(start) * s(t), weight_decay * s(t)
                     with s(t) = sqrt(schedule(t) / schedule(start))

    The weights have the directions that `rescale_on_decay` with `inner` gives them, and
    no weight or moment is touched.

    Args:
      schedule: Learning rates for which the weight decay is constant, from the number
        of updates done to rates; positive at `start`.
      weight_decay: That constant.
      start: The first update to count from, 0 or more: the end of a warm-up.

    Returns:
      Schedules of the learning rate and of the weight decay, for the scale-invariant
      weights alone: give all others `schedule` and `weight_decay`.

    Raises:
      TypeError: If `schedule` is not a function, or `weight_decay` is one.
      ValueError: If the rate at `start` is not positive.

    Examples:
      >>> import optax, lawn_optax as lawn
      >>> steps = optax.piecewise_constant_schedule(0.1, {2: 1 / 16})
      >>> rate, decay = lawn.schedules.decay_in_equilibrium(steps, 0.02)
      >>> for t in (0, 1, 2):
      ...     print(f"{rate(t):.4f} {decay(t):.4f}")
      0.1000 0.0200
      0.1000 0.0200
      0.0250 0.0050
      >>> matrices = optax.inject_hyperparams(optax.adamw)(rate, weight_decay=decay)

    References:
      Noisy Rayleigh Quotient, ICLR submission, section 3.2 and Corollary 3, after Wan
      et al. 2021, arXiv:2006.08419. The pair of schedules is ours.
    """
    if not callable(schedule):
        raise TypeError(
            "`schedule` must be a function from the number of updates to the learning "
            f"rate, got {schedule!r}. A rate that never decays stays in equilibrium."
        )
    if callable(weight_decay):
        raise TypeError(
            "`weight_decay` must be the constant for which `schedule` was chosen, got "
            f"{weight_decay!r}."
        )
    first: Any = schedule(start)
    if not isinstance(first, Tracer) and not first > 0:
        raise ValueError(
            f"The learning rate at update {start} must be positive, got {first}: pass "
            "the end of the warm-up as `start`."
        )

    def share(count: ArrayLike) -> ArrayLike:
        begun = jnp.asarray(count) >= start
        return jnp.sqrt(jnp.where(begun, schedule(count) / schedule(start), 1))

    def rate(count: ArrayLike) -> ArrayLike:
        now = jnp.where(jnp.asarray(count) >= start, schedule(start), schedule(count))
        return now * share(count)

    def decay(count: ArrayLike) -> ArrayLike:
        return weight_decay * share(count)

    return rate, decay
