"""Pallas kernels (Triton) that run over many leaves in one launch.

XLA does not sum in the kernel that writes the moments, and gives each leaf its own
kernels. Here a launch has programs for all leaves of some groups, and a program both
writes and sums. A later launch adds up the sums of a group in each of its programs, so
that no kernel is needed in between.

Leaves may have any shape and size: a program runs over blocks of 1,024 elements of the
flattened leaf, and masks the rest of the last one. All arithmetic is in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

BLOCK = 1024  # elements: eight for each thread of four warps
MOST = 4 * 132  # programs of a leaf: four for each multiprocessor of an H200
# Elements of arrays, as many as there are lists of leaves -> (their new values, terms
# of the sums).
Work = Callable[..., tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]]


class Launch(NamedTuple):
    """The leaves of one launch, group after group.

    Attributes:
        sizes: Number of elements of each leaf.
        groups: Number of the group of each leaf, from 0 on.
    """

    sizes: tuple[int, ...]
    groups: tuple[int, ...]

    def starts(self) -> list[int]:
        """The number of the first program of each leaf; then that of all programs."""
        starts = [0]
        for size in self.sizes:
            starts.append(starts[-1] + min(-(-size // BLOCK), MOST))
        return starts

    def table(self) -> np.ndarray:
        """Leaf, group, first program and programs of the group, for each program."""
        starts, rows = self.starts(), []
        for i, group in enumerate(self.groups):
            members = [j for j, other in enumerate(self.groups) if other == group]
            begin, end = starts[members[0]], starts[members[-1] + 1]
            rows += [(i, group, begin, end - begin)] * (starts[i + 1] - starts[i])
        return np.array(rows, np.int32)


class Program(NamedTuple):
    """One program of a launch, within its kernel."""

    number: jax.Array
    leaf: jax.Array
    group: jax.Array
    begin: jax.Array  # first program of the group
    count: jax.Array  # programs of the group
    most: int  # programs of the largest group

    def total(self, sums: Any) -> jax.Array:
        """A group's sum, from the sums of all programs."""
        at = jnp.arange(pl.next_power_of_2(self.most))
        inside = at < self.count
        return jnp.sum(triton.load(sums.at[self.begin + at], mask=inside, other=0))

    def own(self, numbers: Any) -> jax.Array:
        """A group's number, from those of all groups."""
        return numbers[self.group]


def run(
    launch: Launch,
    prepare: Callable[..., Work],
    leaves: Sequence[Sequence[jax.Array]],
    vectors: Sequence[jax.Array] = (),
    *,
    overwritten: Sequence[int] = (),
    sums: int = 0,
) -> tuple[list[list[jax.Array]], list[jax.Array]]:
    """Runs one elementwise function over all leaves, in one launch.

    Args:
        launch: The leaves.
        prepare: Function that gets the `Program` and references to `vectors`, and
            returns what happens to each element.
        leaves: Lists of arrays, such as all gradients and all weights.
        vectors: Numbers that are not spread over programs, such as one per group, or
            the sums that another launch returned.
        overwritten: Which of the lists get the new values, in their order.
        sums: Number of sums.

    Returns:
        The lists with new values, and for each sum a vector with one entry per program.
    """
    starts, table, many = launch.starts(), launch.table(), len(launch.sizes)
    programs = starts[-1]

    def kernel(*references: Any) -> None:
        lists = [references[i * many :][:many] for i in range(len(leaves))]
        where, *numbers = references[many * len(leaves) :][: 1 + len(vectors)]
        results = references[many * len(leaves) + 1 + len(vectors) :]
        outputs = [results[i * many :][:many] for i in range(len(overwritten))]
        number = pl.program_id(0)
        row = (where[number * 4 + column] for column in range(4))
        program = Program(number, *row, most=int(table[:, 3].max()))
        work = prepare(program, *numbers)

        def leaf(i: int) -> tuple[jax.Array, ...]:
            own = starts[i + 1] - starts[i]

            def block(turn: jax.Array, totals: tuple[jax.Array, ...]) -> Any:
                at = (number - starts[i] + turn * own) * BLOCK + jnp.arange(BLOCK)
                inside = at < launch.sizes[i]
                values = (
                    triton.load(xs[i].at[at], mask=inside, other=0).astype(jnp.float32)
                    for xs in lists
                )
                changed, terms = work(*values)
                for xs, x in zip(outputs, changed, strict=True):
                    triton.store(xs[i].at[at], x.astype(xs[i].dtype), mask=inside)
                return tuple(
                    total + jnp.where(inside, x, 0)
                    for total, x in zip(totals, terms, strict=True)
                )

            turns = -(-launch.sizes[i] // (own * BLOCK))
            zeros = (jnp.zeros((BLOCK,), jnp.float32),) * sums
            return jax.lax.fori_loop(0, turns, block, zeros)

        # One branch per leaf, because each has its own addresses.
        branches = [lambda i=i: leaf(i) for i in range(many)]
        totals = jax.lax.switch(program.leaf, branches) if many > 1 else leaf(0)
        for vector, total in zip(results[many * len(outputs) :], totals, strict=True):
            triton.store(vector.at[number], jnp.sum(total))

    shapes = [
        jax.ShapeDtypeStruct((x.size,), x.dtype) for k in overwritten for x in leaves[k]
    ]
    results = pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=shapes + [jax.ShapeDtypeStruct((programs,), jnp.float32)] * sums,
        input_output_aliases={
            k * many + i: many * number + i
            for number, k in enumerate(overwritten)
            for i in range(many)
        },
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        # On a CPU, for tests, the kernel is interpreted.
        interpret=jax.default_backend() != "gpu",
    )(*(x.reshape(-1) for xs in leaves for x in xs), table.reshape(-1), *vectors)
    changed = [
        [
            x.reshape(old.shape)
            for x, old in zip(results[many * number :][:many], leaves[k], strict=True)
        ]
        for number, k in enumerate(overwritten)
    ]
    return changed, list(results[many * len(overwritten) :])
