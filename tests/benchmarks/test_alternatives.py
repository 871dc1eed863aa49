"""Other ways to write the methods: each step is the library's own, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from benchmarks.compiled import alternatives, kernels, pallas_steps

RATE = 0.03  # So large that the retraction matters.
ALTERNATIVES = alternatives.make(RATE)
OWN = {"lawn.sgd": lawn.sgd, "lawn.adam": lawn.adam, "lawn.lamb": lawn.lamb}
SHAPES = {
    "block": {"kernel": (37, 29), "bias": (29,)},
    "conv": {"kernel": (3, 3, 5, 7)},
    "norm": {"scale": (70,), "bias": (70,)},
    "head": {"kernel": (80, 1), "bias": ()},
    "free": {"temperature": ()},  # one element has no tangent direction
    "wide": {"kernel": (100, 71)},
    "exact": {"kernel": (64, 64)},  # whole blocks
}


def tree(seed):
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    fill = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    return jax.tree.map(fill, SHAPES, is_leaf=is_shape)


def assert_close(found, expected):
    def close(path, x, y):
        error = np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)))
        # Rounding of a few steps, in another order of operations: 3e-7 was found.
        assert error <= 3e-6 * np.max(np.abs(y)), (jax.tree_util.keystr(path), error)

    jax.tree.map_with_path(close, found, expected)


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_a_step_is_the_librarys_own(name, monkeypatch):
    # At most two programs per leaf, which then go round; several launches, of which one
    # has a single leaf.
    monkeypatch.setattr(kernels, "MOST", 2)
    monkeypatch.setattr(pallas_steps, "MANY", 3)
    alternative = ALTERNATIVES[name]
    tx = OWN[alternative.like](RATE)

    @jax.jit
    def own(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = tree(0)
    state = tx.init(params)
    for seed in range(1, 4):
        params, state = own(params, state, tree(seed))
    found, step = (params, state), jax.jit(alternative.step)
    for seed in range(4, 7):
        params, state = own(params, state, tree(seed))
        found = step(*found, tree(seed))
    assert_close(found, (params, state))
    # The norms are those of the start, not only those of the library.
    for group in ("block", "wide"):
        now, start = (optax.tree.norm(x[group]) for x in (found[0], tree(0)))
        np.testing.assert_allclose(now, start, rtol=1e-6)
