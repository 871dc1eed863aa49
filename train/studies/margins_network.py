"""Networks without biases, whose scores scale with each layer, on digits or CIFAR-10.

A constant input 1 replaces the biases, as in "Theory III: Dynamics and
Generalization in Deep Networks" (Banburski et al. 2019).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import diagnostics, metrics
from models import MLP
from train.digits.experiment import (
    CLASSES,
    load_data,
)
from train.images import augmentation
from train.runs.progress import QUIET, ProgressReport
from train.studies import cifar

Kernels = dict[str, jax.Array]
UPDATES = 500  # per call of the compiled program


# ------------------------------------------------------------------------ network


def initial(hidden: Sequence[int], seed: int, data: "Data") -> Kernels:
    """Draws the kernels of a new network for the inputs of `data`, in JAX's float type.

    Vectors go through dense layers of these widths. Images go through 3x3 convolutions
    with these channels, all but the last of which halve height and width, as in the
    paper without pooling; a dense layer follows.
    """
    key, (*sides, features) = jax.random.key(seed), data.inputs.shape[1:]
    kernels, inputs = {}, features
    if sides:
        for layer, channels in enumerate(hidden):
            shape, own = (3, 3, inputs, channels), jax.random.fold_in(key, layer)
            deviation = (2 / (9 * inputs)) ** 0.5
            kernels[f"conv_{layer}"] = deviation * jax.random.normal(own, shape)
            inputs = channels
        features, hidden = inputs * int(np.prod(_halved(sides, len(hidden)))), ()
    sample = jnp.zeros((1, features))
    params: Any = MLP((*hidden, CLASSES)).init(key, sample)["params"]
    dense = {layer: leaves["kernel"].astype(float) for layer, leaves in params.items()}
    return kernels | dense


def _halved(sides: Sequence[int], layers: int) -> list[int]:
    return [-(-side // 2 ** (layers - 1)) for side in sides]


def logits_of(kernels: Kernels, inputs: jax.Array) -> jax.Array:
    """Computes the scores of a network without biases."""
    convolutions = [layer for layer in sorted(kernels) if kernels[layer].ndim == 4]
    for layer in convolutions:
        stride = 1 if layer == convolutions[-1] else 2
        layout = ("NHWC", "HWIO", "NHWC")
        inputs = jax.lax.conv_general_dilated(
            inputs, kernels[layer], (stride, stride), "SAME", dimension_numbers=layout
        )
        inputs = jax.nn.relu(inputs)
    inputs = inputs.reshape(len(inputs), -1)
    kernels = {layer: w for layer, w in kernels.items() if w.ndim == 2}
    layers = {
        layer: {"kernel": w, "bias": jnp.zeros(w.shape[-1], w.dtype)}
        for layer, w in kernels.items()
    }
    widths = tuple(kernels[layer].shape[-1] for layer in sorted(kernels))
    return jnp.asarray(MLP(widths).apply({"params": layers}, inputs))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross entropy of the examples."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(axis=-1)


# --------------------------------------------------------------------------- data


class Data(NamedTuple):
    """Digits or CIFAR-10; the last input, or channel, is 1."""

    inputs: jax.Array  # float32[898, 65], [2048, 769] or [50000, 32, 32, 4]
    labels: jax.Array  # int32[898]
    test_inputs: jax.Array  # float32[450, 65]
    test_labels: jax.Array  # int32[450]


def digits() -> Data:
    """Loads the training and test images."""
    parts = load_data(0)
    constant = lambda x: jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)  # noqa: E731
    (inputs, labels), (test_inputs, test_labels) = parts["train"], parts["test"]
    return Data(constant(inputs), labels, constant(test_inputs), test_labels)


def cifar_images(data_dir: Path, full: bool) -> Data:
    """Loads all images of CIFAR-10, or some of half the height and width as vectors."""
    data = cifar.load(data_dir, full)

    def prepared(images: jax.Array) -> jax.Array:
        pixels = augmentation.normalise(images.astype(jnp.float32), data.mean)
        pixels = pixels if full else pixels.reshape(len(pixels), -1)
        return jnp.concatenate([pixels, jnp.ones_like(pixels[..., :1])], axis=-1)

    inputs, tests = prepared(data.images), prepared(data.test_images)
    return Data(inputs, data.labels, tests, data.test_labels)


def randomised(labels: jax.Array, share: float, seed: int) -> jax.Array:
    """Replaces a share of the labels by random ones, uniform over the classes."""
    rng = np.random.default_rng(seed)
    new = rng.integers(CLASSES, size=len(labels))
    return jnp.where(rng.random(len(labels)) < share, jnp.int32(new), labels)


# ----------------------------------------------------------------------- training


class Training(NamedTuple):
    """Arguments of SGD; the first four have an axis for the networks of a stack."""

    kernels: Kernels
    labels: jax.Array  # int32[networks, images]
    size: jax.Array  # int32[networks]; the first images are trained on
    seed: jax.Array  # int32[networks]
    inputs: jax.Array  # as in `Data`
    rate: float
    momentum: float


def train(
    training: Training,
    steps: int,
    batch_size: int,
    *,
    progress: ProgressReport = QUIET,
    name: str = "",
) -> Kernels:
    """Trains a stack of networks by SGD, in random batches of the first images.

    Args:
        training: Networks, data and hyperparameters.
        steps: Updates.
        batch_size: Images per update.
        progress: Report of the updates; an update of one network is one unit.
        name: Name of the stack, for the report.

    Returns:
        The kernels after the last update.
    """
    progress.begin(name)
    state = start(training)
    for first in range(0, steps, UPDATES):
        count = min(UPDATES, steps - first)
        state = advance(training, state, first, count, batch_size)
        jax.block_until_ready(state)
        text = f"{name}: update {first + count:,} of {steps:,}"
        progress.advance(count * len(training.size), text)
    return state[0]


_AXES = Training(0, 0, 0, 0, None, None, None)  # pyright: ignore[reportArgumentType]


@jax.jit
@partial(jax.vmap, in_axes=(_AXES,))
def start(training: Training) -> Any:
    """The state of each network before its first update."""
    return training.kernels, _sgd(training).init(training.kernels)


@partial(jax.jit, static_argnames=("count", "batch_size"))
@partial(jax.vmap, in_axes=(_AXES, 0, None, None, None))
def advance(training: Training, state: Any, first, count: int, batch_size: int) -> Any:
    """The states after `count` updates, of which the first has the number `first`."""
    tx, key = _sgd(training), jax.random.key(training.seed)
    inputs, labels = training.inputs, training.labels

    def step(carry: Any, count):
        kernels, state = carry
        draw = jax.random.fold_in(key, count)
        rows = jax.random.randint(draw, (batch_size,), 0, training.size)
        loss = lambda w: cross_entropy(logits_of(w, inputs[rows]), labels[rows])  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(kernels), state)
        return (optax.apply_updates(kernels, updates), state), None

    return jax.lax.scan(step, state, first + jnp.arange(count))[0]


def _sgd(training: Training) -> optax.GradientTransformation:
    return optax.sgd(training.rate, training.momentum)


# ------------------------------------------------------------------- measurements


class Outcome(NamedTuple):
    """Measurements of one network after its training."""

    size: int
    share: float
    stretch: float
    margins: np.ndarray  # float[size]; on the training images
    normalized: np.ndarray  # float[size]; the same when the layers have norm 1
    training_loss: float  # cross entropy
    normalized_loss: float  # when the layers have norm 1
    training_error: float
    test_loss: float
    normalized_test_loss: float
    test_error: float
    product: float  # of the layers' norms


def outcome(
    kernels: Kernels, labels: jax.Array, size: int, data: Data, **what: float
) -> Outcome:
    """Measures a trained network on its training images and on the test images.

    With ReLU and without biases, the scores are the product of the layers' norms times
    the scores of the network whose layers have norm 1.
    """
    norms = diagnostics.group_norms(kernels, groups="leaf")
    scores, labels = logits_of(kernels, data.inputs[:size]), labels[:size]
    test = logits_of(kernels, data.test_inputs)
    margins, product = metrics.multiclass_margin(scores, labels), float(norms.prod())
    return Outcome(
        size=size,
        share=what.get("share", 0.0),
        stretch=what.get("stretch", 1.0),
        margins=np.sort(margins),
        normalized=np.sort(metrics.normalized_margin(margins, norms)),
        training_loss=float(cross_entropy(scores, labels)),
        normalized_loss=float(cross_entropy(scores / product, labels)),
        training_error=float(jnp.mean(scores.argmax(-1) != labels)),
        test_loss=float(cross_entropy(test, data.test_labels)),
        normalized_test_loss=float(cross_entropy(test / product, data.test_labels)),
        test_error=float(jnp.mean(test.argmax(-1) != data.test_labels)),
        product=product,
    )
