# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Quotients and roots that are never evaluated where they are not used.

`jnp.where` hides a division by zero from the value, but not from the derivative, which
is 0 * inf, nor from `jax_debug_nans`. So the operand is replaced, not the result alone.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def quotient(x: ArrayLike, y: jax.Array, on: ArrayLike) -> jax.Array:
    """X / y where `on`, which must exclude y = 0; elsewhere 0 with derivative 0."""
    return jnp.where(on, x / jnp.where(on, y, 1), 0)


def root(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 at 0; NaN stays NaN."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
