# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The largest eigenvalue of a symmetric operator on trees, by Lanczos' three terms.

    beta' v' = A v - alpha v - beta v_before,        alpha = <v, A v>

makes a tridiagonal matrix of the alphas and betas whose extreme eigenvalues approach
those of A. No vector but the last two is kept. Rounding then costs the others their
orthogonality, which repeats eigenvalues that are found already and moves none (Paige
1980, "Accuracy and effectiveness of the Lanczos algorithm", Linear Algebra Appl. 34).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lawn_optax._types import PyTree


class Eigenvalue(NamedTuple):
    """An eigenvalue, and how far from it the nearest exact one may be."""

    value: jax.Array  # float32[] (float64 if a leaf is); not above the largest one
    residual: jax.Array  # same type; |A v - value v| for the unit vector v found


def top_eigenvalue(
    operator: Callable[[Any], Any], like: PyTree, key: jax.Array, iterations: int
) -> Eigenvalue:
    """The largest eigenvalue (not the largest in magnitude), from a random start."""
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise TypeError(
            f"`iterations` must be a Python integer, got {iterations!r}; under `jit` "
            "name it in `static_argnames`."
        )
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}.")
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    start = treedef.unflatten(
        jax.random.normal(k, x.shape, x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    )
    zero = jax.tree.map(jnp.zeros_like, start)
    first = _scaled(start, norm(start))

    def step(carry, _):
        v, before, beta, alive = carry
        r = _minus(operator(v), beta, before)
        alpha = dot(v, r)
        r = _minus(r, alpha, v)
        following = norm(r)
        # At 0 all eigenvalues that the start can reach are found.
        carry = _scaled(r, following), v, following, alive & (following > 0)
        return carry, (alpha, following, alive)

    none = jnp.zeros_like(norm(start))
    carry = first, zero, none, jnp.isfinite(none)
    _, (alphas, betas, alive) = jax.lax.scan(step, carry, length=iterations)
    # Rows past the end stand alone; a mean of eigenvalues is not the largest of them.
    alphas = jnp.where(alive, alphas, alphas[0])
    below = jnp.diag(betas[:-1], -1)
    values, vectors = jnp.linalg.eigh(jnp.diag(alphas) + below + below.T)
    return Eigenvalue(values[-1], betas[-1] * jnp.abs(vectors[-1, -1]))


def dot(x: PyTree, y: PyTree) -> jax.Array:
    """The inner product of two trees."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)))  # pyright: ignore[reportReturnType] (an array, unless there are no leaves)


def norm(x: PyTree) -> jax.Array:
    """The L2 norm; squares of small numbers are not lost: flat losses have them."""
    sizes = [jnp.max(jnp.abs(a), initial=0) for a in jax.tree.leaves(x)]
    largest = jnp.stack(sizes).max()
    scale = jnp.where(largest > 0, largest, 1)
    unit = jax.tree.map(lambda a: a / scale, x)
    return scale * jnp.sqrt(dot(unit, unit))


def _scaled(x: PyTree, length: jax.Array) -> PyTree:
    return jax.tree.map(lambda a: a / jnp.where(length > 0, length, 1), x)


def _minus(x: PyTree, factor: jax.Array, y: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a - factor * b, x, y)
