"""Training samples of implicit feedback, drawn and shuffled on the device.

An epoch has each positive once and `NEGATIVES` new negatives for each positive. Its
samples are never stored: each batch computes its own from a random permutation of the
epoch's positions (`train.shuffle`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.recommenders.data import Interactions
from train.shuffle import Shuffle, shuffled

NEGATIVES = 4  # Per positive (Gupta et al. 2021, Appendix D.3).


class Positives(NamedTuple):
    """The training interactions on the device, sorted by user."""

    users: jax.Array  # int32[n]
    items: jax.Array  # int32[n]
    starts: jax.Array  # int32[users + 1]; the first row of each user
    # int32[n]; for each item of a user, ascending: how many smaller items are not the
    # user's, which is item - rank.
    gaps: jax.Array


def positives(data: Interactions) -> Positives:
    """Puts the training interactions on the device."""
    users, items = data.train.T
    starts = np.searchsorted(users, np.arange(data.num_users + 1))
    order = np.lexsort((items, users))
    rank = np.arange(len(users)) - starts[users]
    arrays = users, items, starts, items[order] - rank
    return Positives(*(jnp.asarray(array, jnp.int32) for array in arrays))


def epoch_size(num_positives: int) -> int:
    """Number of samples in an epoch, positives and negatives."""
    return num_positives * (1 + NEGATIVES)


def samples(
    data: Positives,
    shuffle: Shuffle,
    positions: jax.Array,
    bits: jax.Array,
    num_items: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The samples at some positions of an epoch.

    A negative is uniform over the items without a training interaction of its user
    (to 1 in 2^32 / items); the held-out item may be drawn, as in He et al. 2017.

    Args:
        data: The interactions.
        shuffle: Permutation of the epoch, of size `epoch_size`.
        positions: int32[b], each below `epoch_size`.
        bits: uint32[b], random.
        num_items: Number of items in the data set.

    Returns:
        Users, int32[b], items, int32[b], and whether each is a positive, bool[b].
    """
    count = data.users.shape[0]
    index = shuffled(shuffle, positions, epoch_size(count))
    row, is_positive = index % count, index < count
    user = data.users[row]
    return (
        user,
        jnp.where(is_positive, data.items[row], negatives(data, user, bits, num_items)),
        is_positive,
    )


def negatives(
    data: Positives, users: jax.Array, bits: jax.Array, num_items: int
) -> jax.Array:
    """Draws for each user an item that is not among its positives, int32[b]."""
    start, end = data.starts[users], data.starts[users + 1]
    # The other item of rank r is r + the number of positives below it, which are those
    # with a gap of at most r. A user who has all items gets any item.
    free = jnp.maximum(num_items - (end - start), 1).astype(jnp.uint32)
    r = (bits % free).astype(jnp.int32)
    low, high = start, end
    # Binary search, in enough rounds for a user who has all items.
    for _ in range(num_items.bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (data.gaps[middle] <= r)
        low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
    return jnp.minimum(r + low - start, num_items - 1)
