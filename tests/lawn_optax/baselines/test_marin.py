"""AdamH of the guide "Transformers" against the formula that marin trains with."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lawn_optax import baselines
from tests.support.asserts import assert_close, moved
from tests.support.optimizers import loss, network
from tests.support.optional import partition

RATE, B1, B2, EPS = 0.01, 0.9, 0.95, 1e-8


def marin(w, m, v, g, t):
    """One update: new = p - s u |p| / max(|u|, 1e-10), then back to the norm |p|."""
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    u = m / (1 - B1**t) / (jnp.sqrt(v / (1 - B2**t)) + EPS)
    if w.ndim < 2:  # vectors follow Adam
        return w - RATE / 10 * u, m, v
    norm = jnp.linalg.norm(w)
    new = w - RATE * u * norm / jnp.maximum(jnp.linalg.norm(u), 1e-10)
    return new / jnp.linalg.norm(new) * norm, m, v


@pytest.mark.slow
def test_200_steps_are_those_of_marin_s_formula(x64):
    params = network("float64")
    zeros = jax.tree.map(jnp.zeros_like, params)

    def theirs(carry, t):
        leaves = [jax.tree.leaves(tree) for tree in (*carry, jax.grad(loss)(carry[0]))]
        rows = zip(*leaves, strict=True)
        new = zip(*(marin(*of_leaf, t) for of_leaf in rows), strict=True)
        return tuple(map(jax.tree.structure(params).unflatten, new)), None

    tx = optax.chain(
        optax.adam(RATE / 10, B1, B2, EPS), baselines.hyperball(RATE, groups="leaf")
    )
    tx = partition(
        {True: tx, False: optax.adam(RATE / 10, B1, B2, EPS)},
        lambda params: jax.tree.map(lambda w: w.ndim > 1, params),
    )

    def ours(carry, _):
        updates, state = tx.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    steps = jnp.arange(1, 201)
    expected = jax.lax.scan(theirs, (params, zeros, zeros), steps)[0][0]
    found = jax.lax.scan(ours, (params, tx.init(params)), steps)[0][0]
    assert_close(found, expected, rtol=1e-6)
    assert moved(params, found)
