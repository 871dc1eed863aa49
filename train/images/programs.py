"""Training an image classifier: start, epochs and evaluation as compiled programs.

Data flow of a step: positions in the epoch, or a batch of photographs → inputs
(`train.images.inputs`) → logits → gradients, and the rest of `train.step`. The images
are on the device as bytes.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import metrics
from train import step as training_step
from train.devices import Devices
from train.images import augmentation, inputs
from train.images.inputs import DeviceImages, PhotoBatch
from train.optimizers import Trial
from train.step import State

ECE_BINS = 15
PROBES = 10_000  # Unchanged training images whose margins are reported.
_IMAGES_AT_ONCE = 1_000  # In evaluation.
# What a switch waits for, from the margins of a batch.
_WATCHED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean-margin": jnp.mean,
    "median-margin": jnp.median,
    "accuracy-plateau": lambda margins: (margins > 0).mean(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(training_step.Task):
    """The task of a run. Each part of a batch has its own statistics of batch norm.

    Attributes:
        side: Pixels of an image's side.
        num_images: Number of training images. Those that fill no batch are left out of
            an epoch; which ones differs per epoch.
        degrees: Largest rotation of a training image; None leaves the images
            unchanged.
    """

    side: int
    num_images: int
    degrees: float | None = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    @property
    def epoch_size(self) -> int:
        return self.steps_per_epoch * self.batch_size


def start(task: Task, trial: Trial) -> State:
    """The state before the first update."""
    images = jnp.zeros((1, task.side, task.side, 3))
    variables = task.model.init(training_step.key(trial, 0), images, train=False)
    return training_step.start(task, trial, variables)


def step(
    task: Task,
    state: State,
    trial: Trial,
    data: DeviceImages | PhotoBatch,
    epoch: jax.Array,
    number: jax.Array,
) -> tuple[State, jax.Array]:
    """One update, the `number`-th of an epoch, both from 0, on its rows or its batch.

    Returns:
        The state, and the mean loss of the batch before the update, float32[].
    """
    count = epoch * task.steps_per_epoch + number + 1
    gradient, batch = partial(_gradient, task), (trial, epoch, number, data)
    return training_step.step(task, state, trial, count, gradient, *batch)


def compile_step(task: Task, devices: Devices, *arguments: Any) -> Callable[..., Any]:
    """Compiles `step` for arguments like these, which it leaves as they are.

    Where Python loops over the parts of a batch, on one device, a part is a program of
    its own. In one program for all parts, XLA would compile each of them.

    Returns:
        ``(state, trial, data, epoch, number) -> (state, loss)``; reuses the state's
        memory.
    """
    if not task.unrolled or task.parts == 1 or task.axis:
        whole = devices.compile(partial(step, task), donate=True)
        return whole.lower(*arguments).compile()

    def begin(state):
        return _zeros(state.params), state.statistics

    def add(carry, part, state, *batch):
        scale = training_step.logit_scale(task, state)
        sums, statistics, margins = _add_part(
            task, state.params, scale, batch, carry[0], carry[1], part
        )
        return (sums, statistics), margins if task.watch else ()

    def finish(state, carry, margins, trial, count):
        sums, statistics = carry
        if task.watch:
            margins = jnp.stack(margins)
        grads, loss, watched = _means(task, sums, margins)
        found = grads, statistics, loss, watched
        return training_step.step(task, state, trial, count, lambda *_: found)

    begin, add, finish = (
        devices.compile(begin),
        devices.compile(add, donate=True),
        devices.compile(finish, donate=True),
    )
    parts = [devices.replicate(np.int32(part)) for part in range(task.parts)]

    def run(state, trial, data, epoch, number):
        carry, margins = begin(state), []
        for part in parts:
            carry, found = add(carry, part, state, trial, epoch, number, data)
            margins.append(found)
        count = epoch * task.steps_per_epoch + number + 1
        return finish(state, carry, margins, trial, count)

    # To compile, it runs once, on a copy.
    state, *rest = arguments
    jax.block_until_ready(run(jax.tree.map(jnp.copy, state), *rest))
    return run


def advance(
    task: Task,
    state: State,
    trial: Trial,
    data: DeviceImages,
    first_epoch: jax.Array,
    last_epoch: jax.Array,
) -> tuple[State, jax.Array]:
    """Trains from `first_epoch` up to `last_epoch` (0-based, exclusive).

    Returns:
        The state, and the mean loss of the images on the way, float32[].
    """
    steps = task.steps_per_epoch

    def make_step(epoch):
        def one_step(state, number):
            state, loss = step(task, state, trial, data, epoch, number)
            return state, loss / steps

        return one_step

    return training_step.run_epochs(make_step, steps, state, first_epoch, last_epoch)


def evaluate(
    task: Task, state: State, trial: Trial, data: DeviceImages
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Accuracy, calibration, margins and weight norms.

    Returns:
        Metrics by name, and whether each test image is classified correctly, bool[m].
    """
    count = min(PROBES, task.num_images)
    variables = {"params": state.params, "batch_stats": state.statistics}
    logits = task.per_device(partial(_logits, task))
    return measure(
        task,
        state,
        logits(variables, data.mean, data.test_images),
        data.test_labels,
        logits(variables, data.mean, data.images[:count]),
        data.labels[:count],
    )


def classify(
    task: Task, state: State, batch: PhotoBatch
) -> tuple[jax.Array, jax.Array]:
    """Logits float32[b, classes] and labels int32[b] of a batch, for `measure`."""

    def own(variables, batch):
        images, labels = inputs.whole(batch)
        found = _apply(task, variables, images), labels
        if task.axis:
            found = jax.lax.all_gather(found, task.axis, tiled=True)
        return found

    variables = {"params": state.params, "batch_stats": state.statistics}
    return task.per_device(own)(variables, batch)


def measure(
    task: Task,
    state: State,
    test: jax.Array,
    test_labels: jax.Array,
    train: jax.Array,
    train_labels: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The metrics of `evaluate`, from logits of test images and training images."""
    scale = training_step.logit_scale(task, state)
    test, train = scale * test, scale * train
    right = test.argmax(-1) == test_labels
    margins = metrics.multiclass_margin(train, train_labels)
    quantiles = metrics.margin_quantiles(margins, jnp.array([0.1, 0.5, 0.9]))
    values: dict[str, jax.Array] = {
        "accuracy": right.mean(),
        "test_loss": optax.softmax_cross_entropy_with_integer_labels(
            test, test_labels
        ).mean(),
        "ece": metrics.expected_calibration_error(test, test_labels, ECE_BINS),
        "train_accuracy": (train.argmax(-1) == train_labels).mean(),
        "test_margin_p50": metrics.margin_quantiles(
            metrics.multiclass_margin(test, test_labels)
        ),
    }
    for name, value in zip(("p10", "p50", "p90"), quantiles, strict=True):
        values[f"margin_{name}"] = value
    norms = lawn.diagnostics.group_norms(state.params)
    # `by_name` wants numbers, and traced norms are none: it gets their positions.
    numbers = lawn.diagnostics.by_name(np.arange(len(norms)), state.params)
    for name, number in numbers.items():
        values[f"norm/{name}"] = norms[number]
    values["logit_scale"] = scale
    return values, right


def _apply(task: Task, variables: Any, images: jax.Array) -> jax.Array:
    return task.model.apply(variables, images, train=False)  # pyright: ignore[reportReturnType] (only mutable collections make it a pair)


def _logits(
    task: Task, variables: Any, mean: jax.Array, images: jax.Array
) -> jax.Array:
    """Logits of whole images, a device's share at a time, float32[n, classes]."""
    size = min(_IMAGES_AT_ONCE, -(-len(images) // task.devices))
    rounds = -(-len(images) // (size * task.devices))
    device = jax.lax.axis_index(task.axis) if task.axis else 0

    def logits(i):
        # Rows beyond the last image repeat the last image.
        rows = (i * task.devices + device) * size + jnp.arange(size)
        part = images[jnp.minimum(rows, len(images) - 1)]
        return _apply(task, variables, augmentation.normalise(part, mean))

    found = jax.lax.map(logits, jnp.arange(rounds))  # [rounds, size, classes]
    if task.axis:
        found = jax.lax.all_gather(found, task.axis, axis=1)
    return found.reshape(-1, found.shape[-1])[: len(images)]


def _gradient(
    task: Task,
    params: optax.Params,
    statistics: Any,
    scale: jax.Array,
    trial: Trial,
    epoch: jax.Array,
    number: jax.Array,
    data: DeviceImages | PhotoBatch,
) -> tuple[optax.Updates, Any, jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, new statistics, that loss, number to watch."""
    batch = trial, epoch, number, data
    sums, statistics, margins = training_step.accumulate(
        task, partial(_add_part, task, params, scale, batch), _zeros(params), statistics
    )
    grads, loss, watched = _means(task, sums, margins)
    return grads, statistics, loss, watched


def _zeros(params: optax.Params) -> tuple[optax.Updates, jax.Array]:
    """Gradient and loss of no part."""
    return jax.tree.map(jnp.zeros_like, (params, jnp.zeros([])))


def _add_part(
    task: Task,
    params: optax.Params,
    scale: jax.Array,
    batch: tuple[Trial, jax.Array, jax.Array, DeviceImages | PhotoBatch],
    sums: Any,
    statistics: Any,
    part: int | jax.Array,
) -> tuple[Any, Any, jax.Array]:
    """Adds the gradient and the loss of a part of this device's share of a batch.

    Args:
        task: Task of the run.
        params: Weights.
        scale: Factor of the logits.
        batch: Trial, epoch, number of the step, and its rows or its photographs.
        sums: Gradient and loss of the parts before.
        statistics: Statistics of batch norm before the part.
        part: Number of the part.

    Returns:
        The sums, the statistics, and the margins of the part.
    """
    trial, epoch, number, data = batch
    size = task.batch_size // (task.parts * task.devices)
    order_key, change_key = (training_step.key(trial, purpose) for purpose in (1, 2))
    if isinstance(data, PhotoBatch):
        images, labels = inputs.of_batch(data, part * size, size)
    else:
        first = number * task.batch_size + training_step.place(task, part, size)
        positions = first + jnp.arange(size, dtype=jnp.int32)
        images, labels = inputs.at_positions(
            data, positions, epoch, order_key, change_key, task.degrees
        )

    def part_loss(params, statistics):
        variables = {"params": params, "batch_stats": statistics}
        logits, changed = task.model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        logits = scale * logits
        margins = metrics.multiclass_margin(logits, labels)
        statistics = changed.get("batch_stats", {})
        return task.loss(logits, labels).sum(), (statistics, margins)

    (loss, (statistics, margins)), grads = jax.value_and_grad(part_loss, has_aux=True)(
        params, statistics
    )
    return jax.tree.map(jnp.add, sums, (grads, loss)), statistics, margins


def _means(
    task: Task, sums: Any, margins: Any
) -> tuple[optax.Updates, jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, that loss, and the number to watch."""
    grads, loss = jax.tree.map(lambda x: x / task.batch_size, sums)
    factor = training_step.flood_factor(task, loss)
    grads = jax.tree.map(lambda g: g * jnp.asarray(factor, g.dtype), grads)
    watched = jnp.float32(jnp.nan)
    if task.watch:
        watched = _WATCHED[task.watch](margins)
    return grads, loss, watched
