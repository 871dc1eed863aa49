"""How one training step works, for every experiment.

Data flow of a step: a device's share of the batch → gradients and losses, part by part,
summed over the parts and then over the devices (`accumulate`) → mean gradient of the
batch (the experiment knows its number of samples; `flood_factor` may turn the gradient
around) → optimizer and new weights (`update`). `step` is all of it, and `run_epochs`
repeats it.

An experiment has a `Task` with its data's sizes, and a function that computes the
gradient of a batch with `accumulate`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lawn_optax as lawn
from train.optimizers import Trial


class State(NamedTuple):
    """Everything that training changes."""

    params: Any  # By layer.
    statistics: Any  # Running means and variances of batch norm; empty without.
    opt_state: optax.OptState
    diverged_step: jax.Array  # int32[]; the first update with a loss that is not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """The settings of a training, all static. An experiment adds its data's sizes.

    Attributes:
        model: The network.
        batch_size: Samples per step, over all devices.
        parts: Number of parts of each device's share of a batch; their gradients are
            summed.
        optimizer: Makes the optimizer from a trial.
        loss: Loss of each sample, from logits and labels.
        prepare: Function that is applied to the initial weights.
        flood: Flood level, or None.
        alpha: Factor of the logits from the switch on, or 1.
        watch: What the switch waits for, such as ``median-margin``; None if nothing.
        devices: Number of devices.
        axis: Name of their axis; None on one device.
        per_device: Makes a function run once on each device; see
            `train.devices.Devices.per_device`.
        unrolled: Whether Python loops over the parts of a batch, and over the steps of
            an epoch, instead of the device: on CPUs, XLA's convolutions are many times
            slower in a compiled loop (https://github.com/jax-ml/jax/issues/12868).
    """

    model: Any
    batch_size: int
    parts: int
    optimizer: Callable[[Trial], optax.GradientTransformation]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    prepare: Callable[[Any], Any] = lambda params: params
    flood: float | None = None
    alpha: float = 1.0
    watch: str | None = None
    devices: int = 1
    axis: str | None = None
    per_device: Callable[[Callable], Callable] = lambda program: program
    unrolled: bool = False


def key(trial: Trial, purpose: int) -> jax.Array:
    """The random key of a run for one purpose: 0 is its initial weights."""
    return jax.random.fold_in(jax.random.key(trial["seed"]), purpose)


def start(task: Task, trial: Trial, variables: Any) -> State:
    """The state before the first update, from the variables of the model's `init`."""
    params = task.prepare(variables["params"])
    statistics = variables.get("batch_stats", {})
    return State(params, statistics, task.optimizer(trial).init(params), jnp.int32(-1))


def logit_scale(task: Task, state: State) -> jax.Array:
    """The factor of the logits at the next update, float32[]."""
    if task.alpha == 1:
        return jnp.float32(1)
    return lawn.logit_scale(state.opt_state, task.alpha)


# ------------------------------------------------------------- gradient of a batch


def accumulate(
    task: Task, add_part: Callable[..., Any], zeros: Any, statistics: Any
) -> tuple[Any, Any, Any]:
    """Sums the results of a batch's parts, over the parts and over the devices.

    Args:
        task: Task of the run.
        add_part: ``(sums, statistics, part) -> (sums, statistics, margins)``, for part
            0, 1, ... of this device's share of the batch.
        zeros: Sums of no parts: a tree of arrays.
        statistics: Statistics of batch norm before the batch.

    Returns:
        The sums, the statistics, and the margins of all samples; the margins are an
        empty tuple where the switch does not watch them.
    """

    def add(carry, part):
        sums, statistics, margins = add_part(*carry, part)
        return (sums, statistics), margins if task.watch else ()

    carry = zeros, statistics
    if task.unrolled:
        found = []
        for part in range(task.parts):
            carry, margins = add(carry, part)
            found.append(margins)
        margins = jax.tree.map(lambda *margins: jnp.stack(margins), *found)
    else:
        parts = jnp.arange(task.parts, dtype=jnp.int32)
        carry, margins = jax.lax.scan(add, carry, parts)
    sums, statistics = carry
    if task.axis:
        sums = jax.lax.psum(sums, task.axis)
        margins = jax.lax.all_gather(margins, task.axis)
    return sums, statistics, margins


def place(task: Task, part: int | jax.Array, size: int) -> int | jax.Array:
    """Where a part of this device begins in the batch, if parts have `size` samples."""
    device = jax.lax.axis_index(task.axis) if task.axis else 0
    return (part * task.devices + device) * size


def flood_factor(task: Task, loss: jax.Array) -> float | jax.Array:
    """The factor, 1 or -1, by which the flood level multiplies a batch's gradient."""
    if task.flood is None:
        return 1.0
    return jax.grad(lawn.losses.flood)(loss, task.flood)


# ------------------------------------------------------------------ step and epochs


def update(
    tx: optax.GradientTransformation,
    state: State,
    grads: optax.Updates,
    loss: jax.Array,
    count: jax.Array,
    *,
    statistics: Any = None,
    **extra: jax.Array,
) -> State:
    """Applies the optimizer to a mean gradient.

    Args:
        tx: The optimizer.
        state: State before the update.
        grads: Mean gradient of the batch.
        loss: Mean loss of the batch, float32[].
        count: Number of the update, from 1.
        statistics: New statistics of batch norm; None keeps the old ones.
        **extra: Extra arguments of the optimizer, which may ignore them.
    """
    tx = optax.with_extra_args_support(tx)
    updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
    failed = (state.diverged_step < 0) & ~jnp.isfinite(loss)
    return State(
        optax.apply_updates(state.params, updates),
        state.statistics if statistics is None else statistics,
        opt_state,
        jnp.where(failed, count, state.diverged_step),
    )


def step(
    task: Task,
    state: State,
    trial: Trial,
    count: jax.Array,
    gradient: Callable[..., Any],
    *batch: Any,
) -> tuple[State, jax.Array]:
    """One update.

    Args:
        task: Task of the run.
        state: State before the update.
        trial: Hyperparameters and seed.
        count: Number of the update, from 1.
        gradient: ``(params, statistics, scale, *batch) -> (gradient of the mean loss,
            statistics, mean loss, number to watch)``; runs on each device, and `scale`
            multiplies the logits.
        *batch: Further arguments of `gradient`, which identify its samples.

    Returns:
        The state, and the mean loss of the batch before the update, float32[].
    """
    grads, statistics, loss, watched = task.per_device(gradient)(
        state.params, state.statistics, logit_scale(task, state), *batch
    )
    extra = {"switch_value": watched} if task.watch else {}
    tx = task.optimizer(trial)
    state = update(tx, state, grads, loss, count, statistics=statistics, **extra)
    return state, loss


def run_epochs(
    make_step: Callable[[jax.Array], Callable[..., tuple[State, jax.Array]]],
    steps: int,
    state: State,
    first: jax.Array,
    last: jax.Array,
) -> tuple[State, jax.Array]:
    """Trains from epoch `first` up to `last` (0-based, exclusive), both traced.

    Args:
        make_step: Gives the steps of an epoch: ``(epoch) -> (state, number) -> (state,
            what the step adds to the epoch's mean loss)``, with `number` from 0.
        steps: Updates per epoch.
        state: State before epoch `first`.
        first: First epoch.
        last: Epoch before which the training ends.

    Returns:
        The state, and the mean over the epochs of their losses, float32[].
    """
    numbers = jnp.arange(steps, dtype=jnp.int32)

    def train_epoch(epoch, carry):
        one_step = make_step(epoch)

        def train_step(carry, number):
            state, loss = one_step(carry[0], number)
            return (state, carry[1] + loss), None

        return jax.lax.scan(train_step, carry, numbers)[0]

    state, total = jax.lax.fori_loop(first, last, train_epoch, (state, jnp.zeros([])))
    return state, total / jnp.maximum(last - first, 1)
