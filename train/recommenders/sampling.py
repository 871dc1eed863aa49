"""Training samples of implicit feedback, drawn and shuffled on the device.

An epoch has every positive once and `NEGATIVES` fresh negatives for each. Its samples
are never stored: a permutation that needs no sorting says which sample stands at which
position of the epoch, and each batch makes its own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.recommenders.data import Interactions

NEGATIVES = 4  # Per positive and epoch (Gupta et al. 2021, Appendix D.3).
_ROUNDS = 3


class Positives(NamedTuple):
    """The training interactions on the device, each user's together."""

    users: jax.Array  # int32[n]
    items: jax.Array  # int32[n]
    starts: jax.Array  # int32[users + 1]; a user's rows in `gaps`
    gaps: jax.Array  # int32[n]; the number of items below each, ascending per user,
    # that are not the user's: item - rank


class Shuffle(NamedTuple):
    """A random permutation of 0, ..., n - 1, computed where it is read.

    A generalized Feistel network (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains"): position = i * width + j; the two halves are shifted in turn by
    random functions of each other, here tables. What falls outside the n samples is
    sent through again. Its cost per sample does not grow with n, a sort's does.
    """

    shifts_j: jax.Array  # int32[rounds, height], 0 to width - 1
    shifts_i: jax.Array  # int32[rounds, width], 0 to height - 1


def positives(data: Interactions) -> Positives:
    """Puts the training interactions on the device."""
    users, items = data.train.T
    starts = np.searchsorted(users, np.arange(data.num_users + 1))
    order = np.lexsort((items, users))
    rank = np.arange(len(users)) - starts[users]
    arrays = users, items, starts, items[order] - rank
    return Positives(*(jnp.asarray(array, jnp.int32) for array in arrays))


def epoch_size(num_positives: int) -> int:
    """Samples of an epoch, positives and negatives."""
    return num_positives * (1 + NEGATIVES)


def make_shuffle(key: jax.Array, size: int) -> Shuffle:
    """Draws a permutation of ``range(size)``."""
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)
    first, second = jax.random.split(key)
    return Shuffle(
        jax.random.randint(first, (_ROUNDS, height), 0, width, jnp.int32),
        jax.random.randint(second, (_ROUNDS, width), 0, height, jnp.int32),
    )


def shuffled(shuffle: Shuffle, positions: jax.Array, size: int) -> jax.Array:
    """Which of ``range(size)`` stand at these positions, int32[...] each below size."""
    height, width = shuffle.shifts_j.shape[1], shuffle.shifts_i.shape[1]

    def permute(position):
        i, j = position // width, position % width
        for shift_j, shift_i in zip(*shuffle, strict=True):
            j = j + shift_j[i]
            j = jnp.where(j >= width, j - width, j)
            i = i + shift_i[j]
            i = jnp.where(i >= height, i - height, i)
        return i * width + j

    def again(position):
        return jnp.where(position >= size, permute(position), position)

    return jax.lax.while_loop(
        lambda position: (position >= size).any(), again, permute(positions)
    )


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
        shuffle: The epoch's, of size `epoch_size`.
        positions: int32[b], each below `epoch_size`.
        bits: uint32[b], random.
        num_items: Of the data set.

    Returns:
        Users int32[b], items int32[b], and bool[b], whether it is a positive.
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
    """One item for each user that is none of the user's positives, int32[b]."""
    start, end = data.starts[users], data.starts[users + 1]
    # The r-th of a user's other items is r + the number of positives below it, those
    # with a gap of at most r. A user with all items gets any (there is no other).
    free = jnp.maximum(num_items - (end - start), 1).astype(jnp.uint32)
    r = (bits % free).astype(jnp.int32)
    low, high = start, end
    # A binary search; no user has more positives than there are items.
    for _ in range(num_items.bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (data.gaps[middle] <= r)
        low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
    return jnp.minimum(r + low - start, num_items - 1)
