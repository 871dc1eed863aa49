# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Shapes and dtypes of logits and labels, for losses, metrics and diagnostics."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def split_target(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The target's logit (NaN for a label out of range), and the others' logits.

    The others keep the class axis, with the target's place at -inf.
    """
    logits, labels = to_float32(logits), jnp.asarray(labels)
    if logits.ndim == 0 or logits.shape[-1] < 2 or logits.shape[:-1] != labels.shape:
        raise ValueError(
            "`logits` must have the shape of `labels` and one axis more, of at least 2 "
            f"classes; got logits {logits.shape} and labels {labels.shape}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"`labels` must be integer classes; got {labels.dtype}. "
            "Use `labels.argmax(-1)` for one-hot labels."
        )
    is_target = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    target = jnp.where(is_target, logits, 0).sum(-1)
    target = jnp.where(is_target.any(-1), target, jnp.nan)
    return target, jnp.where(is_target, -jnp.inf, logits)


def require_same_shape(name: str, x: jax.Array, other: str, y: jax.Array) -> None:
    if x.shape != y.shape:
        raise ValueError(
            f"`{name}` and `{other}` must have the same shape; got {x.shape} and "
            f"{y.shape}."
        )


def to_float32(x: ArrayLike) -> jax.Array:
    """Converts to an array of float32, or keeps a wider type."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
