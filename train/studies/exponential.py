"""Exponential rates in the place of weight decay, and why both matter under a norm.

After Li and Arora 2019, arXiv:1910.07454. Reads top to bottom: a small residual network
on handwritten digits, the runs on it, the figure, the findings. The toy of section 3 is
in `train.studies.toy`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from matplotlib.figure import Figure

from lawn_optax import schedules
from train import records
from train.digits import CLASSES, Split, load_data
from train.plots import COLOURS
from train.studies import toy

# ----------------------------------------------------------------------- network

Weights = dict[str, jax.Array]


def init_network(seed: int, channels: int, blocks: int) -> tuple[Weights, np.ndarray]:
    """Kernels of a pre-activation residual network for 8x8 images, and its last layer.

    Scales and biases of the normalization are 1 and 0 and the last layer keeps its
    random weights (section 4, settings), so the loss does not depend on the scale of
    the kernels.
    """
    rng = np.random.default_rng(seed)

    def kernel(inputs: int) -> jax.Array:
        values = rng.normal(size=(3, 3, inputs, channels)) * math.sqrt(2 / (9 * inputs))
        return jnp.asarray(values, jnp.float32)

    kernels = {"stem": kernel(1)}
    for block in range(blocks):
        kernels |= {f"block_{block}_{i}": kernel(channels) for i in range(2)}
    head = rng.normal(size=(channels, CLASSES)) / math.sqrt(channels)
    return kernels, head.astype(np.float32)


def apply_network(weights: Any, head: np.ndarray, images: jax.Array) -> jax.Array:
    """Logits; batch norm takes the statistics of the images that it is given."""

    def conv(x: jax.Array, name: str) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, weights[name], (1, 1), "SAME", dimension_numbers=layout
        )

    def active(x: jax.Array) -> jax.Array:
        centred = x - x.mean((0, 1, 2), keepdims=True)
        # No epsilon: beside growing variances it would fade, beside constant ones not.
        return jax.nn.relu(
            centred * jax.lax.rsqrt(jnp.mean(centred**2, (0, 1, 2), keepdims=True))
        )

    x = conv(images.reshape(-1, 8, 8, 1), "stem")
    for block in range((len(weights) - 1) // 2):
        inside = conv(active(x), f"block_{block}_0")
        x = x + conv(active(inside), f"block_{block}_1")
    # Max over the image: the mean of a normalized channel says little.
    return active(x).max((1, 2)) @ head


# -------------------------------------------------------------------------- runs


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of the comparison; the paper's but for size and weight decay."""

    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-3  # 10 times the paper's, for a run 100 times as short
    steps: int = 400
    batch_size: int = 64
    channels: int = 6
    blocks: int = 1
    eval_every: int = 10
    seed: int = 0

    def step_decay(self, count: ArrayLike) -> jax.Array:
        """Divided by 10 after a half and after three quarters of the run."""
        ends = jnp.asarray([self.steps // 2, 3 * self.steps // 4])
        return self.rate * 0.1 ** jnp.sum(jnp.asarray(count) >= ends)


class Curves(NamedTuple):
    """One run; entry k is after (k + 1) * eval_every updates."""

    rate: np.ndarray  # of the last update
    loss: np.ndarray  # mean since the entry before
    accuracy: np.ndarray  # on the validation images
    norm: np.ndarray  # of all trained weights


def runs(config: Config) -> dict[str, tuple[optax.Schedule, float]]:
    """Rates and weight decay of each run: with decay, and what takes its place."""
    decay = config.weight_decay
    arguments = config.momentum, decay, config.steps
    tapered = partial(schedules.tapered_exponential, config.step_decay, *arguments)
    return {
        "step decay, weight decay": (config.step_decay, decay),
        "exponential equivalent": (
            schedules.exponential_equivalent(config.step_decay, *arguments),
            0.0,
        ),
        "tapered exponential": (tapered(), 0.0),
        "tapered, no instant decay": (tapered(instant_decay=False), 0.0),
        "cosine, weight decay": (
            optax.cosine_decay_schedule(config.rate, config.steps),
            decay,
        ),
        "exponential cosine": (
            schedules.exponential_cosine(config.rate, *arguments),
            0.0,
        ),
    }


def trainer(
    config: Config, data: dict[str, Split]
) -> Callable[[optax.Schedule, float], Curves]:
    """Trains with given rates and weight decay, always from the same weights.

    The rates are an argument of the compiled program, so it compiles once for all.
    """
    kernels, head = init_network(config.seed, config.channels, config.blocks)
    (images, labels), (pictures, digits) = data["train"], data["validation"]
    rng = np.random.default_rng(config.seed)
    entries = config.steps // config.eval_every
    shape = entries, config.eval_every, config.batch_size
    rows = jnp.asarray(rng.integers(len(labels), size=shape), jnp.int32)

    def loss_of(weights, rows):
        logits = apply_network(weights, head, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[rows]
        ).mean()

    @jax.jit
    def run(rates, weight_decay):
        tx = optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(lambda count: rates[count], config.momentum),
        )

        def step(carry, rows):
            weights, state = carry
            loss, grads = jax.value_and_grad(loss_of)(weights, rows)
            updates, state = tx.update(grads, state, weights)
            return (optax.apply_updates(weights, updates), state), loss

        def between_evaluations(carry, rows):
            carry, losses = jax.lax.scan(step, carry, rows)
            found = apply_network(carry[0], head, pictures).argmax(-1)
            accuracy, norm = (found == digits).mean(), optax.tree.norm(carry[0])
            return carry, (losses.mean(), accuracy, norm)

        start = kernels, tx.init(kernels)
        return jax.lax.scan(between_evaluations, start, rows)[1]

    def train(schedule: optax.Schedule, weight_decay: float) -> Curves:
        rates = jax.vmap(schedule)(jnp.arange(config.steps))
        measured = map(np.asarray, run(rates, weight_decay))
        last = np.arange(1, entries + 1) * config.eval_every - 1
        return Curves(np.asarray(rates)[last], *measured)

    return train


def compare(config: Config) -> dict[str, Curves]:
    """The curves of every run, by name."""
    train = trainer(config, load_data(0))
    return {name: train(*arguments) for name, arguments in runs(config).items()}


# ----------------------------------------------------------------------- figures


def draw_curves(path: Path, config: Config, curves: Mapping[str, Curves]) -> None:
    """Loss, accuracy, weight norm and learning rate of all runs, in one PNG file."""
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    loss, accuracy, norm, rate = figure.subplots(2, 2, sharex=True).flat
    for colour, (name, run) in zip(COLOURS, curves.items(), strict=False):
        # Twins lie on each other: thick below, thin above.
        below = name.endswith("weight decay")
        style: dict[str, Any] = {"lw": 4, "alpha": 0.35} if below else {"lw": 1.2}
        style["color"] = colour
        steps = (1 + np.arange(len(run.loss))) * config.eval_every
        loss.plot(steps, run.loss, label=name, **style)
        for axes, values in (
            (accuracy, run.accuracy),
            (norm, run.norm),
            (rate, run.rate),
        ):
            axes.plot(steps, values, **style)
    loss.set(title="Training loss", yscale="log", ylabel="cross entropy")
    accuracy.set(title="Validation accuracy")
    norm.set(title="Norm of all weights", yscale="log", xlabel="update")
    rate.set(title="Learning rate", yscale="log", xlabel="update")
    toy.finish(figure, path, loss)


def report(folder: Path) -> str:
    """Draws the figures into a folder and says what is in them."""
    toys = {name: case() for name, case in toy.CASES.items()}
    toy.draw(folder / "toy.png", toys)
    config = Config()
    curves = compare(config)
    draw_curves(folder / "exponential.png", config, curves)
    errors = [
        [name, *(f"{np.median(run.error[:, step]):.3f}" for step in (100, 1_000, -1))]
        for name, run in toys.items()
    ]
    last = [
        [
            name,
            f"{run.loss[-1]:.4f}",
            f"{100 * run.accuracy[-1]:.1f}",
            f"{run.norm[-1]:.3g}",
            f"{run.rate[-1]:.3g}",
        ]
        for name, run in curves.items()
    ]
    return (
        "The toy of section 3 (rate 0.1, decay 0.01, 10 inputs, 8 seeds): weight decay"
        " or normalization alone converges, says the paper, both together do not. (At"
        " a fixed rate, weight decay alone keeps an error from the noise.)\n\n"
        + records.table(["median error after", "100", "1,000", "10,000 steps"], errors)
        + "\n\nA small PreResNet on 8x8 digits, steps decayed twice or a cosine: with"
        " weight decay, and by exponential rates without it. The paper says that the"
        " exact equivalents train through the same functions.\n\n"
        + records.table(
            ["run", "loss at the end", "accuracy %", "weight norm", "learning rate"],
            last,
        )
    )
