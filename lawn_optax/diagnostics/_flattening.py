# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Loss flattening: examples whose gradient has vanished, and the gradient's noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._logits import to_float32
from lawn_optax._types import PyTree
from lawn_optax.diagnostics._lanczos import norm, vdot
from lawn_optax.diagnostics._per_example import count, fold, widen


class GradientNoise(NamedTuple):
    """How the gradients of the examples are spread about their mean."""

    trace: jax.Array  # float32[] (float64 if a leaf is); of their covariance
    gradient_norm: jax.Array  # same type; L2 norm of their mean


def flattened_share(margins: ArrayLike, threshold: ArrayLike = 2.5) -> jax.Array:
    """Share of examples in the flat part of the loss: margins above a threshold.

    Args:
      margins: float[...], of any shape, such as from `metrics.binary_margin` or
        `metrics.multiclass_margin` of the training examples.
      threshold: Margin from which the loss is flat; the logistic loss is 0.08 at the
        papers' 2.5.

    Returns:
      float32[] (float64 for float64 margins), 0 to 1; NaN if a margin is.

    Raises:
      ValueError: If there are no margins.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> margins = jnp.array([-1.0, 1.0, 3.0, 9.0])
      >>> print(lawn.diagnostics.flattened_share(margins))
      0.5

    References:
      Gupta et al. 2021, arXiv:2108.05839, Appendix B and Figure 4.
    """
    margins = to_float32(margins)
    if not margins.size:
        raise ValueError("`margins` must have at least one entry; got none.")
    share = jnp.mean(margins > threshold, dtype=margins.dtype)
    return jnp.where(jnp.isnan(margins).any(), jnp.nan, share)


def gradient_noise(
    loss: Callable[[Any, Any], jax.Array],
    params: PyTree,
    examples: PyTree,
    *,
    chunk_size: int = 32,
) -> GradientNoise:
    """Trace of the covariance of the examples' gradients, and the norm of their mean.

    The trace is ``mean(|g_i|^2) - |mean(g_i)|^2``, summed about the running mean so
    that nothing cancels. The gradient of a batch of B examples, drawn without
    replacement from m, has ``(m - B) / (B (m - 1))`` of this covariance.

    Args:
      loss: ``loss(params, example)``, a scalar.
      params: Real parameters; below float32, the gradients have only the accuracy of
        their type.
      examples: Arrays whose first axis is the example; a sample of the training data is
        enough.
      chunk_size: Number of examples at once; memory grows by one copy of the parameters
        for each.

    Returns:
      `trace` and `gradient_norm`, float32[] (float64 if a leaf is).

    Raises:
      TypeError: If a leaf is not a real floating-point number.
      ValueError: If there are no parameters, or the examples' first axes differ.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> loss = lambda w, x: w @ x  # the gradient of example x is x
      >>> x = jnp.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
      >>> noise = lawn.diagnostics.gradient_noise(loss, jnp.zeros(2), x)
      >>> print(f"{noise.trace:.4f} {noise.gradient_norm:.4f}")
      2.6667 3.6056

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.2 and Appendix F.
    """
    of_wide, wide = widen(loss, params)
    gradients = jax.vmap(jax.grad(of_wide), (None, 0))

    def add(carry, part):
        # Chan, Golub and LeVeque 1983: moments of two sets about their common mean.
        before, mean, squares = carry
        here = gradients(wide, part)
        size = count(part)
        local = jax.tree.map(lambda g: g.mean(0), here)
        apart = jax.tree.map(lambda g, x: g - x[None], here, local)
        shift = jax.tree.map(jnp.subtract, local, mean)
        total = before + size
        mean = jax.tree.map(lambda x, d: x + d * (size / total), mean, shift)
        between = vdot(shift, shift) * (before * size / total)
        return total, mean, squares + vdot(apart, apart) + between

    zeros = jax.tree.map(jnp.zeros_like, wide)
    nothing = jnp.zeros_like(norm(wide))
    total, mean, squares = fold(add, (nothing, zeros, nothing), examples, chunk_size)
    return GradientNoise(squares / total, norm(mean))
