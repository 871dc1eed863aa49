# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Ranking metrics: hit ratio, NDCG and AUC."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lawn_optax._logits import require_same_shape, to_float32


def hit_ratio(
    scores: ArrayLike,
    k: int = 10,
    *,
    target: ArrayLike = 0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    r"""Whether the one positive is among the k best candidates, for each row.

    With g candidates scored above the positive and e others equal to it, its rank is
    uniform over g, ..., g + e under a random order of ties; the result is the chance
    that it is below k:

    .. math::
        HR@k = \min(\max(k - g, 0), e + 1) / (e + 1)

    So a dead model with equal scores gets k / candidates, not 1 or 0. NaN never helps:
    a positive scored NaN is no hit, another candidate scored NaN ranks above it.

    Args:
      scores: float[..., candidates], higher is better.
      k: Length of the recommended list, at least 1.
      target: int or int[...], index of the positive in each row.
      mask: bool[..., candidates], True where there is a candidate; None for all.

    Returns:
      float[...], 0 to 1 for each row; NaN where the positive is masked or outside the
      row. The papers report the mean over users, in per cent.

    Examples:
      >>> scores = jnp.array([[3.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
      >>> print(hit_ratio(scores, k=2))
      [1.  0.5]

    References:
      He et al. 2017, arXiv:1708.05031, section 4.1; Gupta et al. 2021,
      arXiv:2108.05839, section 4.2.
    """
    return _mean_gain(scores, k, target, mask, np.ones_like)


def ndcg(
    scores: ArrayLike,
    k: int = 10,
    *,
    target: ArrayLike = 0,
    mask: ArrayLike | None = None,
) -> jax.Array:
    r"""NDCG@k with one positive among the candidates, for each row.

    The gain is ``1 / log2(r + 2)`` for the 0-based rank r of the positive if it
    is below k, else 0; the ideal gain is 1. Ties count by their expectation, the mean
    gain over the ranks g, ..., g + e of `hit_ratio`, and NaN never helps.

    Args:
      scores: float[..., candidates], higher is better.
      k: Length of the recommended list, at least 1.
      target: int or int[...], index of the positive in each row.
      mask: bool[..., candidates], True where there is a candidate; None for all.

    Returns:
      float[...], 0 to 1 for each row; NaN as in `hit_ratio`.

    Examples:
      >>> scores = jnp.array([[3.0, 1.0, 2.0, 4.0], [5.0, 1.0, 2.0, 4.0]])
      >>> print(*(f"{x:.3f}" for x in ndcg(scores)))
      0.631 1.000

    References:
      He et al. 2017, arXiv:1708.05031, section 4.1.
    """
    return _mean_gain(scores, k, target, mask, lambda rank: 1 / np.log2(rank + 2))


def auc(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Area under the ROC curve, from ranks, in O(n log n).

    It is the chance that a random positive i is scored above a random negative j, ties
    counting one half (the Mann-Whitney statistic of P positives and N negatives):

    .. math::
        AUC = \frac{1}{P N} \sum_{i, j} [s_i > s_j] + \tfrac12 [s_i = s_j]

    Args:
      scores: float[...], higher is more positive; all examples count as one set.
      labels: [...], positive where above 0: 0/1 and -1/1 both work.

    Returns:
      float[], 0 to 1. NaN without a positive or a negative, or if any score is NaN.

    Raises:
      ValueError: If the shapes differ.

    Examples:
      >>> print(auc(jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])))
      0.875

    References:
      Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    require_same_shape("scores", scores, "labels", labels)
    dtype = to_float32(scores).dtype
    order = jnp.argsort(scores.ravel())
    scores, positive = scores.ravel()[order], labels.ravel()[order] > 0
    # Numbers of negatives among the lowest 0, 1, ..., n scores, as exact integers.
    negatives = jnp.concatenate([jnp.zeros(1, int), jnp.cumsum(~positive)])
    below = negatives[jnp.searchsorted(scores, scores, side="left")]
    not_above = negatives[jnp.searchsorted(scores, scores, side="right")]
    beaten = (below.astype(dtype) + not_above.astype(dtype)) / (2 * negatives[-1])
    area = jnp.where(positive, beaten, 0).sum() / positive.sum()
    return jnp.where(jnp.isnan(scores).any(), jnp.nan, area)


def _mean_gain(
    scores: ArrayLike,
    k: int,
    target: ArrayLike,
    mask: ArrayLike | None,
    gain: Callable[[np.ndarray], np.ndarray],
) -> jax.Array:
    """The mean gain over the ranks that the positive may have, 0 from rank k on."""
    if k < 1:
        raise ValueError(f"`k` must be at least 1; got {k}.")
    scores = to_float32(scores)
    is_target = jax.nn.one_hot(target, scores.shape[-1], dtype=bool)
    is_target = jnp.broadcast_to(is_target, scores.shape)
    valid = jnp.broadcast_to(True if mask is None else mask, scores.shape)
    score = jnp.where(is_target, scores, 0).sum(-1, keepdims=True)
    rivals = valid & ~is_target
    # `~(x <= score)`, not `x > score`, so that NaN counts against the positive.
    above = (rivals & ~(scores <= score)).sum(-1, keepdims=True)
    tied = (rivals & (scores == score)).sum(-1, keepdims=True)
    rank = np.arange(min(k, scores.shape[-1]))
    gains = jnp.broadcast_to(gain(rank), above.shape[:-1] + rank.shape)
    rank = jnp.broadcast_to(rank, gains.shape)
    gains = jnp.where((rank >= above) & (rank <= above + tied), gains, 0)
    mean = gains.astype(scores.dtype).sum(-1) / (tied[..., 0] + 1)
    mean = jnp.where(jnp.isnan(score[..., 0]), 0, mean)
    return jnp.where((is_target & valid).any(-1), mean, jnp.nan)
