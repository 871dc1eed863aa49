# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Notes of `describe` about captured norms that probably mean nothing."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lawn_optax._types import PyTree
from lawn_optax.groups._resolve import Block, Grouping


def doubtful_norms(
    grouping: Grouping, params: PyTree, captured: np.ndarray | None
) -> list[str]:
    """Groups that are zero, small, or the norm of one small leaf.

    Args:
      grouping: Groups of the parameters.
      params: Parameters; of shapes, nothing is known.
      captured: Captured norms [num_norms], or None in the free phase.
    """
    leaves = jax.tree.leaves(params)
    ours = [leaves[i] for block in grouping.blocks for i in block.leaves]
    if not all(_has_values(leaf) for leaf in ours):
        return []
    squares = {
        i: float(jnp.sum(jnp.square(jnp.abs(leaves[i]).astype(jnp.float32))))
        for block in grouping.blocks
        for i in block.leaves
    }
    if captured is None:
        zero = [
            b.name for b in grouping.blocks if not any(squares[i] for i in b.leaves)
        ]
        return [_zero(zero)] if zero else []
    live = [
        block
        for block in grouping.blocks
        if captured[block.start : block.start + block.size].any()
    ]
    return [
        *filter(None, (_of_one_leaf(grouping, block, squares) for block in live)),
        *_small(grouping, live, captured),
    ]


def _has_values(leaf: Any) -> bool:
    """Whether values are at hand: no shapes, tracers, donated or remote arrays."""
    if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
        return leaf.is_fully_addressable and not leaf.is_deleted()
    return isinstance(leaf, np.ndarray)


def _zero(names: list[str]) -> str:
    return (
        f"{_listed(names)}: zero now. What is zero at the switch stays free for the "
        "whole run: give it a free phase to grow in."
    )


def _of_one_leaf(grouping: Grouping, block: Block, squares: dict[int, float]) -> str:
    """The note if a leaf of few elements has most of the norm."""
    total = sum(squares[i] for i in block.leaves)
    elements = sum(grouping.real_sizes[i] for i in block.leaves)
    for i in block.leaves:
        path, share = grouping.paths[i], grouping.real_sizes[i] / elements
        if squares[i] > 0.9 * total and share < 0.1:
            return (
                f"{block.name}: {path} has {squares[i] / total:.1%} of the squared "
                f"norm and {share:.1%} of the elements, so that the rest is nearly "
                f'free. Leave it out, `groups.not_paths("{path}")`, or use '
                '`groups="leaf"`.'
            )
    return ""


def _small(grouping: Grouping, live: list[Block], captured: np.ndarray) -> list[str]:
    """Notes on vectors and matrices that were captured too near to zero."""
    vectors, gains = [], {}
    for block in live:
        shapes = [grouping.slices[i] or () for i in block.leaves]
        elements = sum(map(math.prod, shapes))
        stacks = max(
            math.prod(grouping.shapes[i]) // max(math.prod(shape), 1)
            for i, shape in zip(block.leaves, shapes, strict=True)
        )  # A leaf without elements does not tell.
        norms = captured[block.start : block.start + block.size]
        norm = math.sqrt(np.sum(np.square(norms, dtype=np.float64)) / stacks)
        long = [n for n in max(shapes, key=math.prod) if n > 1]
        if len(long) > 1:
            gains[block.name] = norm / math.sqrt(_units(long))
        elif norm < 0.1 * math.sqrt(elements):
            vectors.append(block.name)
    small = [
        name
        for name, gain in gains.items()
        if len(gains) > 1
        and gain < 0.1 * np.median([g for other, g in gains.items() if other != name])
    ]
    why = "Its norm is kept as it was, so leave it free or begin with a free phase."
    notes = []
    if vectors:
        notes.append(
            f"{_listed(vectors)}: captured with a root mean square (rms) below 0.1, as "
            "vectors have it that began at zero, such as biases or the scale of "
            f"(1 + scale). {why}"
        )
    if small:
        notes.append(
            f"{_listed(small)}: captured with less than a tenth of the norm that "
            f"matrices of this shape have in the other groups. {why}"
        )
    return notes


def _units(shape: list[int]) -> int:
    """Rows or columns of a kernel, whatever its layout; norms grow with their root."""
    return min(shape) if len(shape) == 2 else max(shape[0], shape[-1])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
