# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""How well confidence agrees with accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lawn_optax._logits import to_float32


def expected_calibration_error(
    logits: ArrayLike, labels: ArrayLike, num_bins: int = 15
) -> jax.Array:
    r"""Expected calibration error of the predicted class, in bins of equal width.

    .. math::
        ECE = \sum_m \frac{|B_m|}{n} \, |acc(B_m) - conf(B_m)|

    Bin m holds the examples whose confidence, the probability of the predicted class,
    lies in ((m-1)/M, m/M]: a confidence on an edge belongs to the bin below it (edges
    are rounded to the confidence's dtype). If scores are equal, the first class is
    predicted.

    Args:
      logits: float[..., classes] with `labels` int[...], or, for binary problems,
        float[...] with labels of the same shape (positive where above 0). For
        probabilities p give log p, or log p - log(1 - p) if binary.
      labels: Classes or binary labels, as above. One-hot labels would be read as many
        binary ones.
      num_bins: Number of bins M, at least 1.

    Returns:
      float[], 0 to 1; NaN if any logit is.

    Raises:
      ValueError: If the shapes do not fit or `num_bins` is below 1.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]))
      >>> print(f"{expected_calibration_error(logits, jnp.array([0, 1, 1])):.4f}")
      0.3333

    References:
      Guo et al. 2017, arXiv:1706.04599, section 2; LAWN, ICLR submission, section 4.6.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1; got {num_bins}.")
    logits, labels = to_float32(logits), jnp.asarray(labels)
    if logits.shape == labels.shape:
        confidence = jax.nn.sigmoid(jnp.abs(logits))
        correct = (logits > 0) == (labels > 0)
    elif logits.shape[:-1] == labels.shape:
        confidence = jax.nn.softmax(logits, axis=-1).max(-1)
        correct = logits.argmax(-1) == labels
    else:
        raise ValueError(
            "`logits` must have the shape of `labels` (binary) or one class axis more; "
            f"got logits {logits.shape} and labels {labels.shape}."
        )
    edges = jnp.asarray(np.arange(1, num_bins) / num_bins, confidence.dtype)
    bins = jnp.searchsorted(edges, confidence.ravel(), side="left")
    # |B| |acc - conf| is the absolute sum of (correct - confidence) over the bin.
    gap = (correct - confidence).ravel()
    in_bin = jnp.arange(num_bins)[:, None] == bins[None, :]
    return jnp.abs(jnp.where(in_bin, gap[None, :], 0).sum(1)).sum() / gap.size
