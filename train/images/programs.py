"""Training an image classifier: start, epochs and evaluation as compiled programs.

Data flow of a step: positions in the epoch, or a batch of photographs → inputs
(`train.images.inputs`) → logits, in parts that fit → summed gradients, over parts and
devices → optimizer. The images are on the device as bytes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import lawn_optax as lawn
from lawn_optax import metrics
from train.images import augmentation
from train.images import inputs as image_inputs
from train.images.inputs import Batch, Data
from train.optimizers import Trial

ECE_BINS = 15
PROBES = 10_000  # Training images, as they are, whose margins are reported.
_IMAGES_AT_ONCE = 1_000  # In evaluation.


class State(NamedTuple):
    """Everything that training changes."""

    params: dict[str, Any]  # By layer.
    statistics: dict[str, Any]  # Running means and variances of batch norm.
    opt_state: optax.OptState
    diverged_step: jax.Array  # int32[]; the first update with a loss that is not finite


class Task(NamedTuple):
    """What is trained; all static.

    Attributes:
        model: The network, whose batch norm takes its statistics over `axis`.
        side: Pixels of an image's side.
        num_images: Of the training set. Those that fill no batch are left out of an
            epoch; they are others each time.
        batch_size: Images per step, over all devices.
        parts: Into how many parts each device's share of a batch is divided; their
            gradients are summed, and batch norm takes its statistics of each part.
        optimizer: Makes the optimizer from a trial.
        loss: Of each image, from logits and integer labels.
        prepare: Applied to the initial weights.
        degrees: Largest rotation of a training image; None leaves the images as they
            are.
        flood: Flood level, or None.
        alpha: Factor of the logits from the switch on, or 1.
        watch: ``mean-margin`` or ``median-margin`` where the switch waits for one.
        devices: Number of devices.
        axis: Name of their axis; None on one device.
        spread: Makes a function run once on each device; see `parallel.Devices`.
        unrolled: Whether Python loops over the parts of a batch, and over `step`
            instead of the device over both: on CPUs, where XLA's convolutions are many
            times slower in a compiled loop (https://github.com/jax-ml/jax/issues/12868).
    """

    model: nn.Module
    side: int
    num_images: int
    batch_size: int
    parts: int
    optimizer: Callable[[Trial], optax.GradientTransformation]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    prepare: Callable[[Any], Any] = lambda params: params
    degrees: float | None = 0.0
    flood: float | None = None
    alpha: float = 1.0
    watch: str | None = None
    devices: int = 1
    axis: str | None = None
    spread: Callable[[Callable], Callable] = lambda program: program
    unrolled: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    @property
    def epoch_size(self) -> int:
        return self.steps_per_epoch * self.batch_size


def start(task: Task, trial: Trial) -> State:
    """The state before the first update."""
    images = jnp.zeros((1, task.side, task.side, 3))
    variables = task.model.init(_key(trial, 0), images, train=False)
    params = task.prepare(variables["params"])
    opt_state = task.optimizer(trial).init(params)
    statistics: Any = variables.get("batch_stats", {})
    return State(params, statistics, opt_state, jnp.int32(-1))


def step(
    task: Task,
    state: State,
    trial: Trial,
    data: Data | Batch,
    epoch: jax.Array,
    number: jax.Array,
) -> tuple[State, jax.Array]:
    """One update, the `number`-th of an epoch, both from 0, on its rows or its batch.

    Returns:
        The state, and the mean loss of the batch before the update, float32[].
    """
    tx = optax.with_extra_args_support(task.optimizer(trial))
    grads, statistics, loss, watched = task.spread(partial(_gradients, task))(
        *(state.params, state.statistics, _logit_scale(task, state)),
        *(trial, epoch, number, data),
    )
    extra = {"switch_value": watched} if task.watch else {}
    updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
    failed = (state.diverged_step < 0) & ~jnp.isfinite(loss)
    count = epoch * task.steps_per_epoch + number + 1
    params: Any = optax.apply_updates(state.params, updates)
    diverged_step = jnp.where(failed, count, state.diverged_step)
    return State(params, statistics, opt_state, diverged_step), loss


def advance(
    task: Task,
    state: State,
    trial: Trial,
    data: Data,
    first_epoch: jax.Array,
    last_epoch: jax.Array,
) -> tuple[State, jax.Array]:
    """Trains from `first_epoch` up to `last_epoch` (0-based, exclusive).

    Returns:
        The state, and the mean loss of the images on the way, float32[].
    """
    numbers = jnp.arange(task.steps_per_epoch, dtype=jnp.int32)

    def train_epoch(epoch, carry):
        def train_step(carry, number):
            state, loss = step(task, carry[0], trial, data, epoch, number)
            return (state, carry[1] + loss / task.steps_per_epoch), None

        return jax.lax.scan(train_step, carry, numbers)[0]

    state, total = jax.lax.fori_loop(
        first_epoch, last_epoch, train_epoch, (state, jnp.zeros([]))
    )
    return state, total / jnp.maximum(last_epoch - first_epoch, 1)


def evaluate(
    task: Task, state: State, trial: Trial, data: Data
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Accuracy, calibration, margins and weight norms.

    Returns:
        Metrics by name, and whether each test image is classified rightly, bool[m].
    """
    count = min(PROBES, task.num_images)
    variables = {"params": state.params, "batch_stats": state.statistics}
    logits = task.spread(partial(_logits, task))
    return measure(
        *(task, state),
        *(logits(variables, data.mean, data.test_images), data.test_labels),
        *(logits(variables, data.mean, data.images[:count]), data.labels[:count]),
    )


def classify(task: Task, state: State, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Logits float32[b, classes] and labels int32[b] of a whole batch of photographs,
    for `measure`.
    """

    def own(variables, batch):
        inputs, labels = image_inputs.whole(batch)
        found = _apply(task, variables, inputs), labels
        if task.axis:
            found = jax.lax.all_gather(found, task.axis, tiled=True)
        return found

    variables = {"params": state.params, "batch_stats": state.statistics}
    return task.spread(own)(variables, batch)


def measure(
    task: Task,
    state: State,
    test: jax.Array,
    test_labels: jax.Array,
    train: jax.Array,
    train_labels: jax.Array,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """The metrics of `evaluate`, from logits of test images and training images."""
    scale = _logit_scale(task, state)
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
    # The numbers of the groups stand in for their norms, which are not known yet.
    numbers = lawn.diagnostics.by_name(np.arange(len(norms)), state.params)
    for name, number in numbers.items():
        values[f"norm/{name}"] = norms[number]
    values["logit_scale"] = scale
    return values, right


def _key(trial: Trial, purpose: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(trial["seed"]), purpose)


def _logit_scale(task: Task, state: State) -> jax.Array:
    if task.alpha == 1:
        return jnp.float32(1)
    return lawn.logit_scale(state.opt_state, task.alpha)


def _apply(task: Task, variables: Any, inputs: jax.Array) -> jax.Array:
    return task.model.apply(variables, inputs, train=False)  # pyright: ignore[reportReturnType] (only mutable collections make it a pair)


def _logits(
    task: Task, variables: Any, mean: jax.Array, images: jax.Array
) -> jax.Array:
    """Logits of whole images, a device's share at a time, float32[n, classes]."""
    size = min(_IMAGES_AT_ONCE, -(-len(images) // task.devices))
    rounds = -(-len(images) // (size * task.devices))
    device = jax.lax.axis_index(task.axis) if task.axis else 0

    def logits(i):
        # What lies beyond the last image is the last one again.
        rows = (i * task.devices + device) * size + jnp.arange(size)
        part = images[jnp.minimum(rows, len(images) - 1)]
        return _apply(task, variables, augmentation.normalise(part, mean))

    found = jax.lax.map(logits, jnp.arange(rounds))  # [rounds, size, classes]
    if task.axis:
        found = jax.lax.all_gather(found, task.axis, axis=1)
    return found.reshape(-1, found.shape[-1])[: len(images)]


def _gradients(
    task: Task,
    params: optax.Params,
    statistics: dict[str, Any],
    scale: jax.Array,
    trial: Trial,
    epoch: jax.Array,
    number: jax.Array,
    data: Data | Batch,
) -> tuple[optax.Updates, dict[str, Any], jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, new statistics, that loss, margin to watch."""
    size = task.batch_size // (task.parts * task.devices)
    device = jax.lax.axis_index(task.axis) if task.axis else 0
    keys = _key(trial, 1), _key(trial, 2)

    def take(part):
        if isinstance(data, Batch):
            return image_inputs.of_batch(data, part * size, size)
        first = number * task.batch_size + (part * task.devices + device) * size
        positions = first + jnp.arange(size, dtype=jnp.int32)
        return image_inputs.at_positions(data, positions, epoch, *keys, task.degrees)

    def part_loss(params, statistics, images, labels):
        variables = {"params": params, "batch_stats": statistics}
        logits, changed = task.model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        logits = scale * logits
        margins = metrics.multiclass_margin(logits, labels)
        statistics = changed.get("batch_stats", {})
        return task.loss(logits, labels).sum(), (statistics, margins)

    def add_part(carry, part):
        sums, statistics = carry
        (loss, (statistics, margins)), grads = jax.value_and_grad(
            part_loss, has_aux=True
        )(params, statistics, *take(part))
        sums = jax.tree.map(jnp.add, sums, (grads, loss))
        return (sums, statistics), margins if task.watch else jnp.zeros([])

    zeros = jax.tree.map(jnp.zeros_like, (params, jnp.zeros([])))
    carry = zeros, statistics
    if task.unrolled:
        found = []
        for part in range(task.parts):
            carry, one = add_part(carry, part)
            found.append(one)
        margins = jnp.stack(found)
    else:
        parts = jnp.arange(task.parts, dtype=jnp.int32)
        carry, margins = jax.lax.scan(add_part, carry, parts)
    sums, statistics = carry
    if task.axis:
        sums = jax.lax.psum(sums, task.axis)
        margins = jax.lax.all_gather(margins, task.axis)
    grads, loss = jax.tree.map(lambda x: x / task.batch_size, sums)
    if task.flood is not None:
        factor = jax.grad(lawn.losses.flood)(loss, task.flood)
        grads = jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)
    watched = jnp.float32(jnp.nan)
    if task.watch:
        watched = (jnp.mean if task.watch == "mean-margin" else jnp.median)(margins)
    return grads, statistics, loss, watched
