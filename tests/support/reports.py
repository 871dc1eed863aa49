"""Two layers of norm 5, and their training, for the tests of reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [4.0, 2.0]]), "bias": jnp.zeros(2)},
    "head": {"kernel": jnp.array([3.0, 4.0])},
}  # norms 5 and 5


def grads(params=PARAMS):
    numbers = np.random.default_rng(0)
    return jax.tree.map(
        lambda w: jnp.asarray(numbers.normal(size=w.shape), w.dtype), params
    )


def train(tx, params=PARAMS, steps=3):
    *_, last = training(tx, params, steps)
    return last


def training(tx, params=PARAMS, steps=3):
    """(params, state) after each step."""
    update, state = jax.jit(tx.update), tx.init(params)
    for _ in range(steps):
        updates, state = update(grads(params), state, params)
        params = optax.apply_updates(params, updates)
        yield params, state
