# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""When constrained training begins, and what runs before and after.

`wrap` and its parts all keep a `PhaseState`: `phase_now` reads it, and `next_phase`
computes the state for the next update.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax._types import as_transformation, select
from lawn_optax._versions import safe_increment


class Trigger(NamedTuple):
    """Decides when constrained training begins; made by `switch_when`."""

    init: Callable[[], Any]  # () -> the trigger's own state
    is_due: Callable[[Any, jax.Array], Any]  # (own state, count) -> bool[]
    observe: Callable[[Any, dict], Any]  # (own state, extra arguments) -> own state


Step = int | jax.Array | Trigger


class PhaseState(NamedTuple):
    """Where a transformation stands between free and constrained training."""

    count: jax.Array  # int32[]; updates done so far
    switched_at: jax.Array  # int32[]; first constrained update, from 0; -1 while free
    constrained: jax.Array  # bool[]; whether the next update is constrained
    watched: Any  # the trigger's own state; () for a step


class SwitchState(NamedTuple):
    """State of the transformation returned by `switch_at`."""

    phase: PhaseState
    before_state: optax.OptState
    transform_state: optax.OptState


class SwitchWhenState(NamedTuple):
    """Own state of the trigger returned by `switch_when`."""

    count: jax.Array  # int32[]; finite values seen
    mean: jax.Array  # float32[]; their exponential moving average, from 0
    lagged: jax.Array  # float32[]; the same average of the bias-corrected mean
    latched: jax.Array  # bool[]
    smoothed: jax.Array  # float32[]; the bias-corrected mean, for `describe`
    threshold: jax.Array  # float32[]; for `describe`


def switch_when(
    threshold: float | jax.Array,
    *,
    decay: float | jax.Array = 0.99,
    key: str = "switch_value",
    plateau: float | jax.Array | None = None,
) -> Trigger:
    """Switches once a smoothed statistic reaches a threshold; pass it as a step.

    The statistic is an extra argument of `update`, named `key`, such as the median
    margin of the batch (`lawn_optax.metrics`; about 3 for logistic loss) or its
    accuracy. It is smoothed by a bias-corrected exponential moving average. When the
    average reaches `threshold` in update t, it latches: update t+1 is the first
    constrained one. Values that are not finite are ignored.

    Args:
      threshold: Value that the smoothed statistic must reach.
      decay: Decay of the moving average, in [0, 1).
      key: Name of the extra argument; not `value`, which L-BFGS reads as the loss.
      plateau: Largest rise of the average over its own window of 1/(1-decay) updates
        that counts as a plateau: "accuracy starts plateauing at a decent high value".
        The switch then also waits for a plateau, and for one window after the start.
        None does not wait.

    Returns:
      A trigger, to be passed as the step to `switch_at`, `reset_at`, `wrap` and the
      algorithms.

    Raises:
      TypeError: If a number is none.
      ValueError: If the decay is outside its range, or the threshold is NaN.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.wrap(optax.sgd(0.1), lawn.switch_when(3.0, decay=0.5))
      >>> params = jnp.array([3.0, 4.0])
      >>> state = tx.init(params)
      >>> for margin in (1.0, 5.0, 5.0, 5.0):
      ...     _, state = tx.update(params, state, params, switch_value=margin)
      >>> int(state.phase.switched_at)  # 1.0, 3.67, latched: update 2 is constrained
      2

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3, "An extended LAWN method" (mean)
      and the switching methods; LAWN, ICLR submission, section 3 (median).
    """
    for name, value in (
        ("threshold", threshold),
        ("decay", decay),
        ("plateau", 0.0 if plateau is None else plateau),
    ):
        if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
            raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"`decay` must be in [0, 1), got {decay}.")
    if isinstance(threshold, float) and math.isnan(threshold):
        raise ValueError("`threshold` must be a number, got NaN.")
    if not isinstance(decay, int | float):
        decay = jnp.asarray(decay, jnp.float32)  # The state keeps its type.

    def init() -> SwitchWhenState:
        return SwitchWhenState(
            count=jnp.zeros([], jnp.int32),
            mean=jnp.zeros([], jnp.float32),
            lagged=jnp.zeros([], jnp.float32),
            latched=jnp.zeros([], bool),
            smoothed=jnp.zeros([], jnp.float32),
            threshold=jnp.asarray(threshold, jnp.float32),
        )

    def observe(state: SwitchWhenState, extra_args: dict) -> SwitchWhenState:
        if key not in extra_args:
            raise ValueError(
                f"switch_when needs the extra argument `{key}` in every update: call "
                f"`tx.update(grads, state, params, {key}=...)`. "
                "`TrainState.apply_gradients` does not pass extra arguments on."
            )
        value = jnp.asarray(extra_args[key], jnp.float32)
        if value.ndim:
            raise ValueError(
                f"`{key}` must be a scalar, the statistic of the whole batch, got the "
                f"shape {value.shape}. Take its mean or median, or index it."
            )
        finite = jnp.isfinite(value)
        value = jnp.where(finite, value, 0)
        count = jnp.asarray(safe_increment(state.count))
        weight = 1 - jnp.asarray(decay, jnp.float32) ** count
        mean = decay * state.mean + (1 - decay) * value
        smoothed = mean / weight
        lagged = decay * state.lagged + (1 - decay) * smoothed
        latched = smoothed >= threshold
        if plateau is not None:
            # An exponential moving average lags behind a line by one window's rise.
            rise = (mean - lagged) / weight
            latched &= (rise < plateau) & (count * (1 - decay) >= 1)
        seen = SwitchWhenState(
            count,
            mean,
            lagged,
            jnp.asarray(state.latched | latched),
            jnp.asarray(smoothed),
            jnp.asarray(threshold, jnp.float32),
        )
        return select(finite, seen, state)

    return Trigger(init, lambda state, _: state.latched, observe)


def as_trigger(step: Step) -> Trigger:
    """A trigger that is due from a step on, or the trigger itself."""
    if isinstance(step, Trigger):
        return step
    number = isinstance(step, int | np.integer) and not isinstance(step, bool)
    array = isinstance(step, jax.Array | np.ndarray)
    if not number and not (
        array and step.ndim == 0 and jnp.issubdtype(step.dtype, jnp.integer)
    ):
        raise TypeError(
            "The switch step must be a whole number of updates, an integer scalar "
            f"array or a `switch_when` trigger, got {step!r}. Round epochs to steps: "
            "`lawn_optax.schedules.epochs_to_steps(epochs, steps_per_epoch)`."
        )
    if number and step < 0:
        raise ValueError(f"The switch step must be at least 0, got {step}.")
    return Trigger(lambda: (), lambda _, count: count >= step, lambda own, _: own)


def init_phase(trigger: Trigger) -> PhaseState:
    """The phase of the first update."""
    count, watched = jnp.zeros([], jnp.int32), trigger.init()
    due = jnp.asarray(trigger.is_due(watched, count))
    return PhaseState(count, jnp.full([], -1, jnp.int32), due, watched)


def phase_now(trigger: Trigger, state: Any) -> tuple[jax.Array, jax.Array]:
    """(whether this update is constrained, whether it is the first such one).

    Once constrained, training stays so, even if an injected step is raised later.
    """
    if not hasattr(state, "phase"):
        raise TypeError(
            "The state must be what `init` or the last `update` returned, got a "
            f"{type(state).__name__}. Call `tx.update(grads, state, params)`. (A "
            "checkpoint that was restored without `tx.init(params)` as its target has "
            "dicts and lists in the place of states.)"
        )
    phase = state.phase
    if jnp.ndim(phase.count):
        raise ValueError(
            f"The optimizer state has a leading axis, of {jnp.shape(phase.count)} "
            "replicas, that `update` does not know of: `jax.vmap` (or pmap) the update "
            "as well as `init`."
        )
    switched = phase.switched_at >= 0
    constrained = switched | trigger.is_due(phase.watched, phase.count)
    return constrained, constrained & ~switched


def next_phase(
    trigger: Trigger, phase: PhaseState, first: jax.Array, extra_args: dict
) -> PhaseState:
    """The phase of the next update; `first` comes from `phase_now`."""
    switched_at = jnp.where(first, phase.count, phase.switched_at)
    count = jnp.asarray(safe_increment(phase.count))
    watched = trigger.observe(phase.watched, extra_args)
    due = (switched_at >= 0) | trigger.is_due(watched, count)
    return PhaseState(count, switched_at, due, watched)


def switch_at(
    step: Step,
    transform: optax.GradientTransformation,
    before: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Runs `before` for `step` updates and `transform` from then on.

    The idle one keeps its state. Both are evaluated and one result is chosen, so the
    switch needs no recompilation and works under `vmap`.

    Args:
      step: Number of updates before the switch, possibly traced, or a `switch_when`
        trigger. Counted from 0, it is the number of the first update that `transform`
        makes.
      transform: Transformation from the switch on.
      before: Transformation until then; `optax.identity()` by default.

    Returns:
      A transformation.

    Examples:
      Weight decay in the free phase only:

      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.switch_at(
      ...     1, optax.identity(), before=optax.add_decayed_weights(0.1)
      ... )
      >>> w = jnp.array([10.0, 20.0])
      >>> state = tx.init(w)
      >>> first, state = tx.update(jnp.zeros(2), state, w)
      >>> second, state = tx.update(jnp.zeros(2), state, w)
      >>> first.tolist(), second.tolist()
      ([1.0, 2.0], [0.0, 0.0])

    References:
      Gupta et al. 2021, arXiv:2108.05839, Algorithms 3-5 (the cases t < k, t >= k).
    """
    trigger = as_trigger(step)
    transform = as_transformation(transform, "transform")
    before = optax.identity() if before is None else before
    before = as_transformation(before, "before")

    def init_fn(params):
        return SwitchState(
            init_phase(trigger), before.init(params), transform.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        constrained, first = phase_now(trigger, state)
        free, before_state = before.update(
            updates, state.before_state, params, **extra_args
        )
        after, transform_state = transform.update(
            updates, state.transform_state, params, **extra_args
        )
        return select(constrained, after, free), SwitchState(
            next_phase(trigger, state.phase, first, extra_args),
            select(constrained, state.before_state, before_state),
            select(constrained, transform_state, state.transform_state),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
