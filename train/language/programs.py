"""Training a language model: start, steps and evaluation as compiled programs.

Data flow of a step: number of the step → random places in the text → sequences of bytes
→ logits → gradients, and the rest of `train.step`. The text is on the device as bytes.
What is an epoch in the loop is one step here.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lawn_optax as lawn
from lawn_optax import metrics
from train import step as training_step
from train.optimizers import Trial
from train.step import State

VOCABULARY = 256
_BYTES_AT_ONCE = 2**13  # Per device, in evaluation.


class Data(NamedTuple):
    """A text on the device."""

    train: jax.Array  # uint8[n]
    windows: jax.Array  # uint8[w, block + 1]; held out, for evaluation
    prompt: jax.Array  # uint8[block]; a generated text continues it


class Details(NamedTuple):
    """What an evaluation finds beside its metrics."""

    losses: jax.Array  # float32[w]; mean loss of each window
    sample: jax.Array  # uint8[s]; generated text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(training_step.Task):
    """The task of a run.

    Attributes:
        block: Bytes of a sequence.
        dropout: Whether the model has dropout.
        sample_bytes: Length of a generated text.
    """

    block: int
    dropout: bool = False
    sample_bytes: int = 0


def start(task: Task, trial: Trial) -> State:
    """The state before the first update."""
    tokens = jnp.zeros((1, task.block), jnp.int32)
    variables = task.model.init(training_step.key(trial, 0), tokens)
    return training_step.start(task, trial, variables)


def advance(
    task: Task,
    state: State,
    trial: Trial,
    data: Data,
    first: jax.Array,
    last: jax.Array,
) -> tuple[State, jax.Array]:
    """Trains from step `first` up to `last` (0-based, exclusive).

    Returns:
        The state, and the mean loss of the bytes on the way, float32[].
    """

    def make_step(number):
        def one_step(state, _):
            gradient, batch = partial(_gradient, task), (trial, number, data)
            return training_step.step(task, state, trial, number + 1, gradient, *batch)

        return one_step

    return training_step.run_epochs(make_step, 1, state, first, last)


def evaluate(
    task: Task, state: State, trial: Trial, data: Data
) -> tuple[dict[str, jax.Array], Details]:
    """Loss, accuracy and margins on the held-out windows, weight norms, and a sample.

    Returns:
        Metrics by name, and details.
    """
    scale = training_step.logit_scale(task, state)
    found = task.per_device(partial(_measure, task))(state.params, scale, data.windows)
    losses, right, margins = (x[: len(data.windows)] for x in found)
    loss = losses.mean()
    values: dict[str, jax.Array] = {
        "test_loss": loss,
        "bits_per_byte": loss / np.log(2),
        "accuracy": right.mean(),
        "logit_scale": scale,
    }
    quantiles = metrics.margin_quantiles(margins, jnp.array([0.1, 0.5, 0.9]))
    for name, value in zip(("p10", "p50", "p90"), quantiles, strict=True):
        values[f"margin_{name}"] = value
    norms = lawn.diagnostics.group_norms(state.params)
    # `by_name` wants numbers, and traced norms are none: it gets their positions.
    numbers = lawn.diagnostics.by_name(np.arange(len(norms)), state.params)
    for name, number in numbers.items():
        values[f"norm/{name}"] = norms[number]
    write = task.per_device(partial(sample, task))
    return values, Details(losses, write(state.params, scale, trial, data.prompt))


def _apply(task: Task, params: Any, tokens: jax.Array, **options: Any) -> jax.Array:
    return task.model.apply({"params": params}, tokens.astype(jnp.int32), **options)


def _measure(
    task: Task, params: Any, scale: jax.Array, windows: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean loss, accuracy and margins of each window, a device's share at a time."""
    count = len(windows)
    size = min(max(1, _BYTES_AT_ONCE // task.block), -(-count // task.devices))
    rounds = -(-count // (size * task.devices))
    device = jax.lax.axis_index(task.axis) if task.axis else 0

    def measure(i):
        # Rows beyond the last window repeat it.
        rows = (i * task.devices + device) * size + jnp.arange(size, dtype=jnp.int32)
        tokens = windows[jnp.minimum(rows, count - 1)].astype(jnp.int32)
        logits, labels = scale * _apply(task, params, tokens[:, :-1]), tokens[:, 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = (logits.argmax(-1) == labels).mean(-1)
        return losses.mean(-1), right, metrics.multiclass_margin(logits, labels)

    found = jax.lax.map(measure, jnp.arange(rounds, dtype=jnp.int32))
    if task.axis:
        found = jax.lax.all_gather(found, task.axis, axis=1)
    tail = lambda x: x.shape[3:] if task.axis else x.shape[2:]  # noqa: E731
    return jax.tree.map(lambda x: x.reshape(-1, *tail(x)), found)


def sample(
    task: Task, params: Any, scale: jax.Array, trial: Trial, prompt: jax.Array
) -> jax.Array:
    """Text that the model continues the prompt with, drawn at temperature 1.

    Args:
        task: Task of the run.
        params: Weights.
        scale: Factor of the logits.
        trial: Hyperparameters, for the seed.
        prompt: uint8[block].

    Returns:
        uint8[`sample_bytes`].
    """
    key = training_step.key(trial, 3)

    def write(text, number):
        # The last byte that is known stands at the end of the window.
        logits = scale * _apply(task, params, text[None])[0, -1]
        byte = jax.random.categorical(jax.random.fold_in(key, number), logits)
        byte = byte.astype(jnp.uint8)
        return jnp.append(text[1:], byte), byte

    numbers = jnp.arange(task.sample_bytes, dtype=jnp.int32)
    return jax.lax.scan(write, prompt, numbers)[1]


def places(task: Task, trial: Trial, number: jax.Array, length: int) -> jax.Array:
    """Where the sequences of a step begin in a text of this length, int32[batch]."""
    key = jax.random.fold_in(training_step.key(trial, 1), number)
    count = (task.batch_size,)
    return jax.random.randint(key, count, 0, length - task.block, jnp.int32)


def _gradient(
    task: Task,
    params: Any,
    statistics: Any,
    scale: jax.Array,
    trial: Trial,
    number: jax.Array,
    data: Data,
) -> tuple[optax.Updates, Any, jax.Array, jax.Array]:
    """Gradient of a batch's mean loss, statistics, that loss, margin to watch."""
    size = task.batch_size // (task.parts * task.devices)
    begins = places(task, trial, number, len(data.train))
    offsets = jnp.arange(task.block + 1, dtype=jnp.int32)
    drop_key = jax.random.fold_in(training_step.key(trial, 2), number)

    def logits_of(params, tokens, rows):
        if not task.dropout:
            return _apply(task, params, tokens)

        def one(tokens, row):  # So that it does not depend on the devices.
            rngs = {"dropout": jax.random.fold_in(drop_key, row)}
            return _apply(task, params, tokens, train=True, rngs=rngs)

        return jax.vmap(one)(tokens, rows)

    def part_loss(params, part):
        rows = training_step.place(task, part, size) + jnp.arange(size, dtype=jnp.int32)
        tokens = data.train[begins[rows][:, None] + offsets[None]].astype(jnp.int32)
        logits, labels = scale * logits_of(params, tokens[:, :-1], rows), tokens[:, 1:]
        margins = metrics.multiclass_margin(logits, labels)
        return task.loss(logits, labels).mean(-1).sum(), margins

    def add_part(sums, statistics, part):
        (loss, margins), grads = jax.value_and_grad(part_loss, has_aux=True)(
            params, part
        )
        return jax.tree.map(jnp.add, sums, (grads, loss)), statistics, margins

    zeros = jax.tree.map(jnp.zeros_like, (params, jnp.zeros([])))
    sums, statistics, margins = training_step.accumulate(
        task, add_part, zeros, statistics
    )
    grads, loss = jax.tree.map(lambda x: x / task.batch_size, sums)
    factor = training_step.flood_factor(task, loss)
    grads = jax.tree.map(lambda g: g * jnp.asarray(factor, g.dtype), grads)
    watched = jnp.float32(jnp.nan)
    if task.watch:
        watched = (jnp.mean if task.watch == "mean-margin" else jnp.median)(margins)
    return grads, statistics, loss, watched
