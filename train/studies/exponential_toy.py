"""Weight decay or normalization converges, both together do not: a linear classifier.

After Li and Arora 2019, arXiv:1910.07454, section 3.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from train.plots import COLOURS


class Curves(NamedTuple):
    """Runs of the toy; the first axis is the seed, the second the step from 0 on."""

    angle: jax.Array  # float[seeds, steps + 1]; to the separating direction, radians
    norm: jax.Array  # float[seeds, steps + 1]

    @property
    def error(self) -> jax.Array:
        """The training error. The paper prints the angle; it is the angle over pi."""
        return self.angle / jnp.pi


def loss(w: jax.Array, x: jax.Array, normalized: bool) -> jax.Array:
    """Logistic loss of a linear classifier for the sign of x_1, of one sample."""
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

    Section 3: weight decay alone (``normalized=False``) and normalization alone
    (``weight_decay=0``) converge to the separating direction, both together do not.
    """

    def measure(w):
        # atan2: arccos of w_1 / |w| loses small angles.
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
    """Theorem 3.1: within so many steps, the angle exceeds epsilon at least once.

    With probability 1 - delta, under normalization and weight decay, from any weights
    of that norm. ``epsilon`` is an angle, an error of ``epsilon / pi``.
    """
    contraction = rate * weight_decay - 2 * epsilon**2
    if not contraction > 0:
        raise ValueError(
            "Theorem 3.1 needs rate * weight_decay > 2 epsilon^2, which is "
            f"{2 * epsilon**2:.6g}; got {rate * weight_decay:.6g}. Take an angle below "
            f"{math.sqrt(rate * weight_decay / 2):.6g}."
        )
    ratio = 32 * norm**2 * epsilon / (rate * math.sqrt(dimension))
    # Weights that are short enough already need no time to shrink.
    shrink = max(0.0, math.log(ratio)) / (2 * contraction)
    return shrink + 6 * math.log(1 / delta)


CASES: dict[str, Callable[..., Curves]] = {
    "weight decay alone": partial(curves, normalized=False, weight_decay=0.01),
    "normalization alone": partial(curves, normalized=True, weight_decay=0.0),
    "both": partial(curves, normalized=True, weight_decay=0.01),
}


def draw(path: Path, runs: Mapping[str, Curves]) -> None:
    """Error and norm of the toy: medians over the seeds, bands from 10% to 90%."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    error, norm = figure.subplots(1, 2)
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        for axes, values in ((error, run.error), (norm, run.norm)):
            low, middle, high = np.quantile(np.asarray(values), [0.1, 0.5, 0.9], axis=0)
            steps = np.arange(1, len(middle) + 1)
            axes.plot(steps, middle, color=colour, label=name)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    error.set(title="Training error", xscale="log", yscale="log", xlabel="step")
    norm.set(title="Norm of the weights", xscale="log", yscale="log", xlabel="step")
    finish(figure, path, error)


def finish(figure: Figure, path: Path, labelled: Any) -> None:
    """Grid, legend of one panel below all, and the PNG file."""
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    handles = labelled.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=100)
