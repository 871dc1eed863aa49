# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The largest eigenvalue of a symmetric operator on trees, by Lanczos' recurrence.

    beta' v' = A v - alpha v - beta v_before,        alpha = <v, A v>

makes a tridiagonal matrix of the alphas and betas whose extreme eigenvalues approach
those of A. Only the last two vectors are kept. Rounding then costs the vectors their
orthogonality, which repeats eigenvalues that are already found but moves none (Paige
1980, "Accuracy and effectiveness of the Lanczos algorithm", Linear Algebra Appl. 34).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lawn_optax import _geometry as geometry
from lawn_optax._guards import root
from lawn_optax._types import PyTree


class Eigenvalue(NamedTuple):
    """An eigenvalue, and the largest distance of an exact one from it."""

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
    first = _divided(start, norm(start))

    def step(carry, _):
        v, before, beta, alive = carry
        r = _minus(operator(v), beta, before)
        alpha = vdot(v, r)
        r = _minus(r, alpha, v)
        following = norm(r)
        # If `following` is 0, the recurrence has found all eigenvalues that the start
        # can reach.
        carry = _divided(r, following), v, following, alive & (following > 0)
        return carry, (alpha, following, alive)

    none = jnp.zeros_like(norm(start))
    carry = first, zero, none, jnp.isfinite(none)
    _, (alphas, betas, alive) = jax.lax.scan(step, carry, length=iterations)
    # Past the end, fill the diagonal with the first alpha. It is a Rayleigh quotient,
    # so it cannot exceed the largest eigenvalue.
    alphas = jnp.where(alive, alphas, alphas[0])
    below = jnp.diag(betas[:-1], -1)
    values, vectors = jnp.linalg.eigh(jnp.diag(alphas) + below + below.T)
    return Eigenvalue(values[-1], betas[-1] * jnp.abs(vectors[-1, -1]))


def vdot(x: PyTree, y: PyTree) -> jax.Array:
    """The inner product of two trees of one real dtype."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return jnp.stack([geometry.dot(a, b, a.dtype) for a, b in pairs]).sum()


def norm(x: PyTree) -> jax.Array:
    """The L2 norm, scaled by the largest entry so that tiny squares do not underflow.

    Flat losses have gradients that small.
    """
    sizes = [jnp.max(jnp.abs(a), initial=0) for a in jax.tree.leaves(x)]
    largest = jnp.stack(sizes).max()
    scale = jnp.where(largest > 0, largest, 1)
    scaled = _divided(x, scale)
    return scale * root(vdot(scaled, scaled))


def _minus(x: PyTree, factor: jax.Array, y: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a - factor * b, x, y)


def _divided(x: PyTree, length: jax.Array) -> PyTree:
    # A product with 1 / length would overflow where the length is tiny.
    return jax.tree.map(lambda a: a / jnp.where(length > 0, length, 1), x)
