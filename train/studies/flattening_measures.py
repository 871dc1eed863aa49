"""Noise, curvature and margins of a network, for the study of loss flattening."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lawn_optax import diagnostics, metrics


@dataclasses.dataclass(frozen=True)
class Choices:
    """The size of a study."""

    seeds: int = 5
    epochs: int = 200
    points: int = 16  # number of measurements
    sample: int = 256  # examples for quantities that need their Hessian-vector products
    iterations: int = 10
    rate: float = 0.3  # of SGD in the condition for escape; our choice


class Problem(NamedTuple):
    """A network, its loss and training examples; the first axis is the example."""

    apply: Callable[..., Any]  # (params, inputs) -> logits
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # of each example
    margin: Callable[[jax.Array, jax.Array], jax.Array]
    inputs: Any
    labels: jax.Array
    batch_size: int
    num_examples: int


def measure(
    problem: Problem, choices: Choices, params: optax.Params
) -> dict[str, jax.Array]:
    """Computes all quantities except the score, each a scalar."""
    inputs, labels = problem.inputs, problem.labels

    def loss(params, example):
        return problem.loss(problem.apply(params, example[0]), example[1])

    def mean_loss(params):
        return loss(params, (inputs, labels)).mean()

    examples = inputs, labels
    few = jax.tree.map(lambda x: x[: choices.sample], examples)
    key, count = jax.random.key(0), choices.iterations
    margins = problem.margin(problem.apply(params, inputs), labels)
    norms = diagnostics.group_norms(params)
    noise = diagnostics.gradient_noise(loss, params, examples)
    top = diagnostics.top_hessian_eigenvalue(mean_loss, params, key, iterations=count)
    spread = diagnostics.hessian_noise(loss, params, few, key, iterations=count)
    growth = diagnostics.escape_growth(
        loss,
        params,
        few,
        key,
        learning_rate=choices.rate,
        batch_size=problem.batch_size,
        num_examples=problem.num_examples,
        iterations=count,
    )
    value = mean_loss(params)
    return {
        "share": diagnostics.flattened_share(margins),
        "loss": value,
        "gradient noise": noise.trace,
        "curvature": top.value,
        "curvature residual": top.residual,
        "Hessian noise": spread.value,
        "growth": growth.value,
        "growth residual": growth.residual,
        "smoothed margin": metrics.smoothed_normalized_margin(value, norms),
        "smallest margin": metrics.normalized_margin(margins.min(), norms),
    }
