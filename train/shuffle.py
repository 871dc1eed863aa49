"""A random permutation that computes each entry when it is read, without sorting.

Each training epoch visits its samples in such an order, inside jit.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_ROUNDS = 3


class Shuffle(NamedTuple):
    """A random permutation of 0, ..., n - 1.

    A generalised Feistel network (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains"): position = i * width + j. Each round shifts j by a random function
    of i, then i by a random function of j; the functions are tables. A result that is n
    or more goes through the network again. The cost per sample does not grow with n;
    the cost of a sort does.
    """

    shifts_j: jax.Array  # int32[rounds, height], 0 to width - 1
    shifts_i: jax.Array  # int32[rounds, width], 0 to height - 1


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
    """The numbers at some positions of a permutation of ``range(size)``.

    Args:
        shuffle: The permutation.
        positions: int32[...], each less than `size`.
        size: The size that `make_shuffle` was given.

    Returns:
        int32[...].
    """
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
