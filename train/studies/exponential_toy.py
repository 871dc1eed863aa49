"""A linear classifier that converges with weight decay or normalization, not with both.

As in Li and Arora 2019, arXiv:1910.07454, section 3.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.plots import COLOURS, band, finish, new_figure
from train.report import markdown
from train.runs.progress import ProgressReport
from train.runs.results import Findings


class Curves(NamedTuple):
    """Runs of the toy problem; the axes are the seed and the step, from 0."""

    angle: jax.Array  # float[seeds, steps + 1]; to the separating direction, radians
    norm: jax.Array  # float[seeds, steps + 1]

    @property
    def error(self) -> jax.Array:
        """The training error, the angle over pi; the paper prints the angle."""
        return self.angle / jnp.pi


def loss(w: jax.Array, x: jax.Array, normalized: bool) -> jax.Array:
    """Logistic loss, on one sample, of a linear classifier for the sign of x_1."""
    output = x @ w / (jnp.linalg.norm(w) if normalized else 1)
    return jax.nn.softplus(-output * jnp.sign(x[0]))


@partial(jax.jit, static_argnames=("dimension", "normalized", "steps", "seeds"))
def curves(
    *,
    normalized: bool,
    weight_decay: float,
    rate: float = 0.1,
    dimension: int = 10,
    steps: int = 10_000,
    seeds: int = 8,
) -> Curves:
    """SGD on one new Gaussian sample per step, from weights of norm 1.

    Section 3: runs with weight decay alone (``normalized=False``) or normalization
    alone (``weight_decay=0``) converge to the separating direction; runs with both do
    not.
    """

    def measure(w):
        # The arccos of w_1 / |w| would round small angles to 0.
        return jnp.arctan2(jnp.linalg.norm(w[1:]), w[0]), jnp.linalg.norm(w)

    def step(w, key):
        x = jax.random.normal(key, (dimension,))
        gradient = jax.grad(loss)(w, x, normalized)
        w = w - rate * (gradient + weight_decay * w)
        return w, measure(w)

    def run(key):
        first, later = jax.random.split(key)
        w = jax.random.normal(first, (dimension,))
        w = w / jnp.linalg.norm(w)
        _, after = jax.lax.scan(step, w, jax.random.split(later, steps))
        pairs = zip(measure(w), after, strict=True)
        return Curves(*(jnp.append(start, rest) for start, rest in pairs))

    return jax.vmap(run)(jax.random.split(jax.random.key(0), seeds))


def nonconvergence_steps(
    epsilon: float,
    *,
    weight_decay: float,
    rate: float,
    dimension: int,
    norm: float,
    delta: float,
) -> float:
    """Theorem 3.1: steps within which the angle exceeds epsilon at least once.

    This holds with probability 1 - delta, under normalization and weight decay, from
    any weights of that norm. The angle ``epsilon`` is an error of ``epsilon / pi``.
    """
    contraction = rate * weight_decay - 2 * epsilon**2
    if not contraction > 0:
        raise ValueError(
            "Theorem 3.1 needs rate * weight_decay > 2 epsilon^2, which is "
            f"{2 * epsilon**2:.6g}; got {rate * weight_decay:.6g}. Take an angle below "
            f"{math.sqrt(rate * weight_decay / 2):.6g}."
        )
    ratio = 32 * norm**2 * epsilon / (rate * math.sqrt(dimension))
    # Weights that are short enough need no time to shrink.
    shrink = max(0.0, math.log(ratio)) / (2 * contraction)
    return shrink + 6 * math.log(1 / delta)


CASES: dict[str, Callable[..., Curves]] = {
    "weight decay alone": partial(curves, normalized=False, weight_decay=0.01),
    "normalization alone": partial(curves, normalized=True, weight_decay=0.0),
    "both": partial(curves, normalized=True, weight_decay=0.01),
}


def draw(path: Path, runs: Mapping[str, Curves]) -> None:
    """Draws error and norm: medians over the seeds, bands from 10% to 90%."""
    figure = new_figure(10, 4)
    error, norm = figure.subplots(1, 2)
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        for axes, values in ((error, run.error), (norm, run.norm)):
            low, middle, high = np.quantile(np.asarray(values), [0.1, 0.5, 0.9], axis=0)
            steps = np.arange(1, len(middle) + 1)
            band(axes, steps, middle, low, high, color=colour, label=name)
    error.set(title="Training error", xscale="log", yscale="log", xlabel="step")
    norm.set(title="Norm of the weights", xscale="log", yscale="log", xlabel="step")
    finish(figure, path, error)


def report(progress: ProgressReport) -> Findings:
    """The findings, and what draws the figure."""
    toys = {}
    for name, case in CASES.items():
        with progress.part(f"toy, {name}"):
            toys[name] = jax.device_get(case())
    errors = [
        [name, *(f"{np.median(run.error[:, step]):.3f}" for step in (100, 1_000, -1))]
        for name, run in toys.items()
    ]
    text = (
        "The toy of section 3 (rate 0.1, decay 0.01, 10 inputs, 8 seeds): weight decay"
        " or normalization alone converges, says the paper, both together do not. (At"
        " a fixed rate, weight decay alone keeps an error from the noise.)\n\n"
        + markdown.table(["median error after", "100", "1,000", "10,000 steps"], errors)
        + "\n\n"
    )
    return text, {"toy.png": partial(draw, runs=toys)}
