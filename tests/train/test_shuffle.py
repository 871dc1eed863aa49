"""Permutations without sorting are as random as those of a sort."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.asserts import close
from train.shuffle import make_shuffle, shuffled


@partial(jax.jit, static_argnums=1)
def network(key, size):
    shuffle = make_shuffle(key, size)
    return shuffled(shuffle, jnp.arange(size, dtype=jnp.int32), size)


@partial(jax.jit, static_argnums=(0, 2))
def many(permute, keys, size):
    return jax.lax.map(lambda key: permute(key, size), keys)


# The statistics below must also hold for a permutation that is surely random.
PERMUTE = {"network": network, "sort": jax.random.permutation}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 99, 100, 10007])
def test_every_sample_has_one_position(size):
    for seed in range(3):
        order = network(jax.random.key(seed), size)
        assert order.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_positions_may_be_asked_for_in_any_number_and_shape():
    shuffle = make_shuffle(jax.random.key(5), 1000)
    positions = jnp.array([[999, 0, 3], [3, 500, 998]], jnp.int32)
    whole = network(jax.random.key(5), 1000)
    np.testing.assert_array_equal(
        jax.jit(shuffled, static_argnums=2)(shuffle, positions, 1000),
        whole[positions],
    )


def test_other_keys_give_other_orders():
    keys = jax.random.split(jax.random.key(0), 50)
    orders = np.asarray(many(network, keys, 99))
    assert len({tuple(order) for order in orders}) == 50


@pytest.mark.slow
@pytest.mark.parametrize("permute", PERMUTE)
@pytest.mark.parametrize("size", [7, 20])
def test_a_sample_may_stand_anywhere(permute, size):
    """The chi-square of a sample's positions over many keys."""
    count = 4000
    keys = jax.random.split(jax.random.key(1), count)
    orders = np.asarray(many(PERMUTE[permute], keys, size))
    for sample in (0, 1, size // 2, size - 1):
        found = np.bincount(np.argmax(orders == sample, axis=1), minlength=size)
        chi_square = ((found - count / size) ** 2 / (count / size)).sum()
        freedom = size - 1
        assert chi_square < freedom + 5 * (2 * freedom) ** 0.5 + 5


@pytest.mark.slow
@pytest.mark.parametrize("permute", PERMUTE)
def test_neighbours_are_parted_and_positives_are_spread(permute):
    size, count, batch = 3600, 300, 500
    keys = jax.random.split(jax.random.key(2), count)
    orders = np.asarray(many(PERMUTE[permute], keys, size))
    # Two neighbours were neighbours before with chance 2/size; there are size - 1.
    for distance in (1, 60):  # 60 is the width of the network.
        steps = np.abs(orders[:, distance:] - orders[:, :-distance])
        for gap in (1, 60):
            together = (steps == gap).sum()
            assert abs(together - 2 * count) < 6 * (2 * count) ** 0.5
    # The positives of a batch have the hypergeometric distribution.
    positives = (orders < size // 5).reshape(count, -1, 100)[:, : batch // 100]
    found = positives.sum((1, 2))
    variance = batch * 0.2 * 0.8 * (1 - batch / size)
    assert abs(found.mean() - batch / 5) < 5 * (variance / count) ** 0.5
    close(found.var(), variance, rtol=5 * (2 / count) ** 0.5)
    # Rises and falls are equally frequent.
    assert abs((np.diff(orders) > 0).mean() - 0.5) < 0.005
