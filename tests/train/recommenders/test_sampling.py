"""Samples of an epoch: each positive once, with new negatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.recommenders import sampling
from train.recommenders.data import Interactions
from train.shuffle import make_shuffle

ITEMS = 13
OWN = [  # Each user's items, oldest first.
    [12, 0, 5],
    list(range(1, ITEMS)),  # All except the first.
    [6],
    list(range(ITEMS - 1)),  # All except the last.
    [7, 8, 9, 3, 2],
    [0],
    [12],
    list(range(ITEMS)),
    [12, 11, 10, 0, 1, 2, 6],
]


def interactions(own=OWN, items=ITEMS):
    rows = [(user, item) for user, mine in enumerate(own) for item in mine]
    test = np.zeros(len(own), np.int32)
    return Interactions(
        "ml-100k", len(own), items, np.array(rows, np.int32), test, None, {}
    )


def test_negatives_are_uniform_over_all_other_items():
    """Ascending bits give the other items in ascending order, equally often."""
    everyone = range(len(OWN))
    others = [sorted(set(range(ITEMS)) - set(OWN[user])) for user in everyone]
    low = np.arange(3 * ITEMS, dtype=np.uint32)
    bits = np.concatenate([low, low + np.uint32(2**32 - 3 * ITEMS)])
    found = draw(np.repeat(everyone, len(bits)), np.tile(bits, len(OWN)))
    assert found.dtype == np.int32
    for user, items in zip(everyone, found.reshape(len(OWN), -1), strict=True):
        mine = others[user]
        if mine:
            assert items.tolist() == [mine[int(b) % len(mine)] for b in bits]
        else:  # There is no other item, so any is right.
            assert ((0 <= items) & (items < ITEMS)).all()


def draw(users, bits, own=OWN, items=ITEMS):
    data = sampling.positives(interactions(own, items))
    program = jax.jit(partial(sampling.negatives, num_items=items))
    return np.asarray(program(data, jnp.asarray(users), jnp.asarray(bits)))


def test_negatives_against_brute_force_on_larger_data():
    rng = np.random.default_rng(0)
    items = 200
    own = [rng.permutation(items)[: rng.integers(1, items)].tolist() for _ in range(40)]
    own[3] = rng.permutation(items)[:-1].tolist()
    users = rng.integers(40, size=5000)
    bits = rng.integers(2**32, size=5000, dtype=np.uint32)
    others = [np.setdiff1d(np.arange(items), mine) for mine in own]
    expected = [
        others[u][int(b) % len(others[u])] for u, b in zip(users, bits, strict=True)
    ]
    assert draw(users, bits, own, items).tolist() == expected


@pytest.fixture(scope="module")
def epoch():
    """All samples of an epoch, made in batches with a partial batch at the end."""
    own = [mine[:6] for mine in OWN]  # All users have other items.
    data = interactions(own)
    device, size = sampling.positives(data), sampling.epoch_size(len(data.train))
    shuffle = make_shuffle(jax.random.key(3), size)
    bits = jax.random.bits(jax.random.key(4), (size,), jnp.uint32)
    program = jax.jit(partial(sampling.samples, num_items=ITEMS))
    batches = []
    for first in range(0, size, 50):
        positions = jnp.arange(first, min(first + 50, size), dtype=jnp.int32)
        batches.append(program(device, shuffle, positions, bits[positions]))
    columns = [np.concatenate(column) for column in zip(*batches, strict=True)]
    return own, data, columns


def test_every_positive_once_and_four_negatives_for_each(epoch):
    own, data, (users, items, labels) = epoch
    assert len(users) == 5 * len(data.train)
    assert (users.dtype, items.dtype, labels.dtype) == (np.int32, np.int32, bool)
    positives = np.stack([users, items], axis=1)[labels]
    assert sorted(map(tuple, positives)) == sorted(map(tuple, data.train))
    drawn = np.bincount(users[~labels], minlength=len(own))
    assert drawn.tolist() == [4 * len(mine) for mine in own]


def test_no_negative_is_a_training_item_but_the_held_out_one_may_be(epoch):
    own, data, (users, items, labels) = epoch
    pairs = set(zip(users[~labels].tolist(), items[~labels].tolist(), strict=True))
    assert not pairs & set(map(tuple, data.train.tolist()))
    held_out = dict(enumerate(data.test_items.tolist()))
    assert any(
        held_out[user] not in own[user] and (user, held_out[user]) in pairs
        for user in held_out
    )


def test_positives_and_negatives_are_mixed(epoch):
    *_, (users, _, labels) = epoch
    first, second = np.array_split(labels, 2)
    assert 0.1 < first.mean() < 0.3 and 0.1 < second.mean() < 0.3
    assert (np.diff(users) == 0).mean() < 0.35
