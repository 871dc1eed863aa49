"""A network without biases, whose scores scale with each layer, on 8x8 digits.

A constant 1 among the inputs takes the biases' place, as in "Theory III: Dynamics and
Generalization in Deep Networks" (Banburski et al. 2019).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import MLP
from train.digits.experiment import (
    CLASSES,
    PIXELS,
    load_data,
)

Kernels = dict[str, jax.Array]


# ------------------------------------------------------------------------ network


def initial(hidden: Sequence[int], seed: int) -> Kernels:
    """Kernels of a new network."""
    key, inputs = jax.random.key(seed), jnp.zeros((1, PIXELS + 1))
    params: Any = MLP((*hidden, CLASSES)).init(key, inputs)["params"]
    return {layer: leaves["kernel"] for layer, leaves in params.items()}


def logits_of(kernels: Kernels, inputs: jax.Array) -> jax.Array:
    """Scores of a network without biases."""
    layers = {
        layer: {"kernel": w, "bias": jnp.zeros(w.shape[-1], w.dtype)}
        for layer, w in kernels.items()
    }
    widths = tuple(kernels[layer].shape[-1] for layer in sorted(kernels))
    return jnp.asarray(MLP(widths).apply({"params": layers}, inputs))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the examples."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(axis=-1)


# --------------------------------------------------------------------------- data


class Data(NamedTuple):
    """Digits; the last input is 1."""

    inputs: jax.Array  # float32[898, 65]
    labels: jax.Array  # int32[898]
    test_inputs: jax.Array  # float32[450, 65]
    test_labels: jax.Array  # int32[450]


def digits() -> Data:
    """Training and test images."""
    parts = load_data(0)
    constant = lambda x: jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)  # noqa: E731
    (inputs, labels), (test_inputs, test_labels) = parts["train"], parts["test"]
    return Data(constant(inputs), labels, constant(test_inputs), test_labels)


def randomised(labels: jax.Array, share: float, seed: int) -> jax.Array:
    """Labels of which a share is drawn again, from all classes alike."""
    rng = np.random.default_rng(seed)
    new = rng.integers(CLASSES, size=len(labels))
    return jnp.where(rng.random(len(labels)) < share, jnp.int32(new), labels)


# ----------------------------------------------------------------------- training


@partial(jax.jit, static_argnames=("steps", "batch_size"))
@partial(jax.vmap, in_axes=(0, 0, 0, 0, None, None, None, None, None))
def train(
    kernels, labels, size, seed, inputs, rate, momentum, steps: int, batch_size: int
) -> Any:
    """SGD on the first `size` inputs, in random batches, of every member of a stack."""
    tx = optax.sgd(rate, momentum)
    key = jax.random.key(seed)

    def step(carry: Any, count):
        kernels, state = carry
        draw = jax.random.fold_in(key, count)
        rows = jax.random.randint(draw, (batch_size,), 0, size)
        loss = lambda w: cross_entropy(logits_of(w, inputs[rows]), labels[rows])  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(kernels), state)
        return (optax.apply_updates(kernels, updates), state), None

    return jax.lax.scan(step, (kernels, tx.init(kernels)), jnp.arange(steps))[0][0]
