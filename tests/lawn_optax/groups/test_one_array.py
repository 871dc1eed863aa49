"""Heads, layers or experts in one array train as if each had an array of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines, groups
from tests.support.asserts import assert_close
from tests.support.trees import shape

# As the guide "Transformers" says: the array, its stacked axis, the groups for it.
ARRAYS = {
    "heads (features, heads, width)": ((6, 3, 4), 1, groups.neuron(1)),
    "scanned layers": ((3, 6, 4), 0, groups.stacked("block")),
    "scanned layers, axis 1": ((6, 3, 4), 1, groups.stacked("block", axis=1)),
    "experts": ((3, 6, 4), 0, groups.stacked("block", base="leaf")),
}


def trained(params, choice):
    tx = optax.chain(optax.adam(0.1), baselines.hyperball(0.1, groups=choice))

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(lambda w: jnp.cos(3 * w), params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step(*step(params, tx.init(params)))[0]


@pytest.mark.parametrize("name", ARRAYS)
def test_slices_train_as_arrays_of_their_own(name):
    sizes, axis, choice = ARRAYS[name]
    draw = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    whole = trained({"block": {"kernel": jnp.asarray(draw)}}, choice)
    parts = [jnp.asarray(x) for x in np.moveaxis(draw, axis, 0)]
    expected = jnp.stack(trained(parts, "leaf"), axis)
    assert_close(whole["block"]["kernel"], expected, rtol=1e-6, atol=1e-7)
    together = trained({"block": {"kernel": jnp.asarray(draw)}}, "leaf")
    assert not np.allclose(together["block"]["kernel"], expected, rtol=1e-3)


def test_a_tied_embedding_is_one_group_and_can_be_free():
    params = {
        "embed": {"embedding": shape(11, 8)},
        "block": {"query": {"kernel": shape(8, 2, 4)}},
    }
    table = lawn.describe(params, groups.only_matrices()).splitlines()
    assert [row.split()[:3] for row in table[1:]] == [
        ["block/query", "1", "64"],
        ["embed", "1", "88"],
    ]
    choice = groups.not_paths("embed", base=groups.only_matrices())
    assert "named in not_paths" in lawn.describe(params, choice)
