"""Noise on the weights of a network that fits its training images.

As in Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
Figure 8. The other figures are in `train.studies.margins`.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.studies.margins_network import (
    Data,
    cross_entropy,
    initial,
    logits_of,
)


@dataclasses.dataclass(frozen=True)
class Kicks:
    """Hyperparameters of training, and the times of the noise."""

    hidden: tuple[int, ...] = (64, 64)
    size: int = 200  # training images
    rate: float = 0.05
    momentum: float = 0.9
    seed: int = 0
    share: float = 0.25  # of a layer's standard deviation, as in the paper
    every: int = 100  # updates in a block, as in the paper
    blocks: tuple[int, int, int] = (20, 50, 70)  # first with noise, end of noise, all


class Disturbance(NamedTuple):
    """Figure 8: runs without and with noise, at the end of each block."""

    updates: np.ndarray  # int[blocks]
    training_loss: np.ndarray  # float[2, blocks]
    test_loss: np.ndarray  # float[2, blocks]
    test_error: np.ndarray  # float[2, blocks]
    norm: np.ndarray  # float[2, blocks]; of all weights


def perturbed(kicks: Kicks, data: Data) -> Disturbance:
    """Trains by gradient descent without and with noise on the weights (Figure 8).

    At the start of some blocks of updates, each layer gets Gaussian noise whose
    standard deviation is a share of that of its weights.
    """
    found = jax.jit(partial(both_runs, kicks))(data)
    updates = (1 + np.arange(kicks.blocks[2])) * kicks.every
    return Disturbance(updates, *map(np.asarray, found))


def both_runs(kicks: Kicks, data: Data) -> tuple[jax.Array, ...]:
    """The measurements of both runs, as in `Disturbance`."""
    first, end, blocks = kicks.blocks
    inputs, labels = data.inputs[: kicks.size], data.labels[: kicks.size]
    tx = optax.sgd(kicks.rate, kicks.momentum)

    def noisy(w, noise):
        return w + kicks.share * w.std() * noise

    def run(kicked):
        def step(carry: Any, _):
            kernels, state = carry
            loss = lambda w: cross_entropy(logits_of(w, inputs), labels)  # noqa: E731
            updates, state = tx.update(jax.grad(loss)(kernels), state)
            return (optax.apply_updates(kernels, updates), state), None

        def block(carry: Any, count):
            kernels, state = carry
            now = kicked & (count >= first) & (count < end)
            key = jax.random.fold_in(jax.random.key(kicks.seed), count)
            moved = jax.tree.map(noisy, kernels, optax.tree.random_like(key, kernels))
            carry = jax.tree.map(partial(jnp.where, now), moved, kernels), state
            carry = jax.lax.scan(step, carry, length=kicks.every)[0]
            test = logits_of(carry[0], data.test_inputs)
            return carry, (
                cross_entropy(logits_of(carry[0], inputs), labels),
                cross_entropy(test, data.test_labels),
                jnp.mean(test.argmax(-1) != data.test_labels),
                optax.tree.norm(carry[0]),
            )

        kernels = initial(kicks.hidden, kicks.seed, data)
        start = kernels, tx.init(kernels)
        return jax.lax.scan(block, start, jnp.arange(blocks))[1]

    return jax.vmap(run)(jnp.array([False, True]))
