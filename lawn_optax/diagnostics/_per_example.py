# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Sums over examples, a few at a time, and losses as functions of wide parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lawn_optax._types import PyTree
from lawn_optax.groups._tree import leaves_of


def widen(loss: Callable[..., Any], params: PyTree) -> tuple[Callable[..., Any], Any]:
    """The loss of float32 parameters (float64 if a leaf is), and those parameters.

    The loss itself still gets parameters of the original dtypes.
    """
    leaves = leaves_of(params)
    if not leaves:
        raise ValueError("`params` has no leaves: pass the parameters of the loss.")
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf.value), jnp.floating):
            raise TypeError(
                f"`params` must be real floating-point numbers, but "
                f"{leaf.name or 'the leaf'} is {jnp.result_type(leaf.value)}. Let "
                "`loss` close over leaves that are not differentiated."
            )
    dtype = jnp.result_type(jnp.float32, *(leaf.value for leaf in leaves))
    dtypes = jax.tree.map(jnp.result_type, params)

    def of_wide(wide, *args):
        narrow = jax.tree.map(lambda w, d: w.astype(d), wide, dtypes)
        return loss(narrow, *args).astype(dtype)

    return of_wide, jax.tree.map(lambda w: jnp.asarray(w, dtype), params)


def count(examples: PyTree) -> int:
    """The length of the first axis, the same for all leaves."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(examples)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`examples` must be arrays whose first axis is the example, of the same "
            f"length in each and at least 1; got the shapes {shapes}."
        )
    return lengths.pop()


def fold(
    step: Callable[[Any, Any], Any], carry: Any, examples: PyTree, chunk_size: int
) -> Any:
    """Folds ``step(carry, chunk)`` over all chunks; the last may be shorter."""
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(
            f"`chunk_size` must be a Python integer of at least 1, got {chunk_size!r}."
        )
    total = count(examples)
    size = min(chunk_size, total)
    full = total // size

    def chunks(x):
        return x[: full * size].reshape(full, size, *x.shape[1:])

    examples = jax.tree.map(jnp.asarray, examples)
    carry, _ = jax.lax.scan(
        lambda carry, part: (step(carry, part), None),
        carry,
        jax.tree.map(chunks, examples),
    )
    if total % size:
        carry = step(carry, jax.tree.map(lambda x: x[full * size :], examples))
    return carry
