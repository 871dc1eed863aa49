"""CIFAR-10 for the studies: a subset or all of it, and training with measurements.

Data flow: files → arrays (`load`) → one compiled update in a Python loop (`trainer`) →
loss, angle and norm at each update, accuracy at each evaluation (`History`).
"""

from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import lawn_optax as lawn
from train.images import (
    augmentation,
)
from train.images import cifar_files as image_files
from train.images import experiment as image
from train.images import programs as classifier
from train.images.cifar_files import Images, Part
from train.images.inputs import DeviceImages as Data
from train.images.programs import State, Task
from train.optimizers import Trial
from train.runs.progress import QUIET, ProgressReport

NAME = "cifar10"
IMAGES, TESTS, SIDE = 2_048, 512, 16  # of the subset; SIDE in pixels
_AT_ONCE = 1_000  # Test images per call.


def load(data_dir: Path, full: bool) -> Data:
    """Loads all images, or some of both parts at half the height and width."""
    images = image_files.read_folder(NAME, data_dir)
    return image.on_device(images if full else _reduced(images))


def describe(full: bool) -> str:
    """Describes the data that `load` returns."""
    if full:
        return "CIFAR-10, cropped and mirrored at random"
    return (
        f"the first {IMAGES:,} training and {TESTS} test images of CIFAR-10 at"
        f" {SIDE}x{SIDE} pixels, as they are"
    )


def _reduced(images: Images) -> Images:
    def first(part: Part, count: int) -> Part:
        large = part.images[:count]
        step = large.shape[1] // SIDE
        blocks = large.reshape(len(large), SIDE, step, SIDE, step, 3)
        small = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
        return Part(small, part.labels[:count])

    return Images(
        images.name,
        images.num_classes,
        first(images.train, IMAGES),
        first(images.test, TESTS),
    )


def make_task(
    model: nn.Module,
    data: Data,
    batch_size: int,
    optimizer: Callable[[Trial], optax.GradientTransformation],
    full: bool,
) -> Task:
    """Cross entropy on one device; only the full data set is augmented."""
    return Task(
        model=model,
        side=data.images.shape[1],
        num_images=len(data.labels),
        batch_size=min(batch_size, len(data.labels)),
        parts=1,
        optimizer=optimizer,
        loss=optax.softmax_cross_entropy_with_integer_labels,
        degrees=0.0 if full else None,
        unrolled=True,
    )


def is_kernel(weights: jax.Array) -> bool:
    """Whether weights are a convolution's; batch norm follows each convolution."""
    return weights.ndim == 4


def split(
    kernels: optax.GradientTransformation, others: optax.GradientTransformation, base
) -> optax.GradientTransformation:
    """Combines an optimizer for the convolutions, which is observed, with another one.

    Args:
        kernels: Optimizer of the convolutions.
        others: Optimizer of the norm layers and the last layer.
        base: Groups of the convolutions.
    """
    parts: dict[Hashable, optax.GradientTransformation]
    parts = {True: kernels, False: others}
    groups = lawn.groups.only_matrices(base)
    return optax.chain(
        optax.partition(parts, partial(jax.tree.map, is_kernel)),
        lawn.diagnostics.observe(lawn.groups.not_paths("head", base=groups)),
    )


class History(NamedTuple):
    """Measurements of one run."""

    loss: np.ndarray  # [steps]; of the batch, before the update
    angle: np.ndarray  # [steps, groups]; radians by which the update turns the weights
    norm: np.ndarray  # [steps, groups]; before the update
    accuracy: np.ndarray  # [evaluations]; on the test images
    test_loss: np.ndarray  # [evaluations]


class Programs(NamedTuple):
    """What trains and tests a network, before it is compiled."""

    start: Callable[..., State]  # (stretch of the kernels, trial) -> state
    # (state, trial, data, epoch, number of the update in it) -> (state, measurements)
    update: Callable[..., tuple[State, Any]]
    # (state, images, labels, mean) -> (number correct, sum of losses)
    evaluate: Callable[..., Any]


def programs(task: Task) -> Programs:
    """The programs of a task whose optimizer comes from `split`."""

    def start(stretch: float, trial: Trial) -> State:
        state = classifier.start(task, trial)
        longer = jax.tree.map(
            lambda w: stretch * w if is_kernel(w) else w, state.params
        )

        def widen(x):  # Flax makes float32 parameters, also where JAX uses float64.
            return x.astype(float) if jnp.isdtype(x.dtype, "real floating") else x

        return jax.tree.map(widen, state._replace(params=longer))

    def update(state, trial, data, epoch, number):
        state, loss = classifier.step(task, state, trial, data, epoch, number)
        angle, norm = (
            optax.tree.get(state.opt_state, name)
            for name in ("angular_update", "norms")
        )
        return state, (loss, angle, norm)

    def evaluate(state, images, labels, mean):
        inputs = augmentation.normalise(images.astype(jnp.float32), mean)
        variables = {"params": state.params, "batch_stats": state.statistics}
        # Batch norm uses the statistics of these images: the running ones lag behind
        # weights that grow or shrink.
        logits, _ = task.model.apply(
            variables, inputs, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (logits.argmax(-1) == labels).sum(), losses.sum()

    return Programs(start, update, evaluate)


def trainer(
    task: Task,
    data: Data,
    steps: int,
    eval_every: int,
    progress: ProgressReport = QUIET,
) -> Callable[..., History]:
    """Trains with the hyperparameters of a trial.

    Args:
        task: As for `programs`.
        data: Data from `load`.
        steps: Updates.
        eval_every: Updates between two evaluations, one unit of progress.
        progress: Report of the updates.

    Returns:
        ``train(trial, stretch, name)``: `stretch` multiplies the initial kernels, which
        are the same in all runs. The program compiles once for all trials.
    """
    found = programs(task)
    start = jax.jit(found.start, static_argnums=0)
    update = jax.jit(found.update, donate_argnums=0)
    evaluate = jax.jit(found.evaluate)

    def test(state: State) -> np.ndarray:
        count = len(data.test_labels)
        sums = [
            evaluate(
                state,
                data.test_images[i : i + _AT_ONCE],
                data.test_labels[i : i + _AT_ONCE],
                data.mean,
            )
            for i in range(0, count, _AT_ONCE)
        ]
        return np.sum(sums, axis=0) / count

    def train(trial: Trial, stretch: float = 1.0, name: str = "") -> History:
        progress.begin(name)
        state = start(stretch, trial)
        seen, recent, tests = [], [], []
        for count in range(steps):
            epoch, number = divmod(count, task.steps_per_epoch)
            numbers = np.int32(epoch), np.int32(number)
            state, measured = update(state, trial, data, *numbers)
            recent.append(measured)
            if (count + 1) % eval_every == 0:
                seen += jax.device_get(recent)
                recent = []
                tests.append(test(state))
                progress.advance(1, f"{name}: update {count + 1:,} of {steps:,}")
        loss, angle, norm = map(np.array, zip(*seen, strict=True))
        return History(loss, angle, norm, *np.array(tests).T)

    return train


def intervals(values: np.ndarray, eval_every: int) -> np.ndarray:
    """Averages over the updates between evaluations; ``[evaluations, ...]``."""
    return values.reshape(-1, eval_every, *values.shape[1:]).mean(axis=1)
