# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Margins, calibration and ranking metrics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lawn_optax.losses import _require_same_shape, _split_target, _to_float32


def binary_margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The logit, signed so that a right prediction is positive.

    :math:`m = z` for a positive label, :math:`-z` for a negative one. Its mean or
    median is a statistic for :func:`lawn_optax.switch_when`.

    Args:
      logits: float[...], one score per example.
      labels: [...], positive where above 0: both 0/1 and -1/1 will do. No soft labels.

    Returns:
      float[...].

    Raises:
      ValueError: if the shapes differ.

    Examples:
      >>> print(binary_margin(jnp.array([2.0, -1.0, 3.0]), jnp.array([1, 1, 0])))
      [ 2. -1. -3.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.1 ("logit") and Appendix B.
    """
    logits, labels = _to_float32(logits), jnp.asarray(labels)
    _require_same_shape("logits", logits, "labels", labels)
    return jnp.where(labels > 0, logits, -logits)


def multiclass_margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The target's score minus the best other score, :math:`z_y-\max_{k\ne y} z_k`.

    Args:
      logits: float[..., classes], at least 2 classes.
      labels: int[...], the target class of each example, 0 to classes - 1. A label
        outside gives NaN.

    Returns:
      float[...], positive where the example is classified correctly.

    Raises:
      TypeError: if the labels are not integers.
      ValueError: if the shapes do not fit.

    Examples:
      >>> logits = jnp.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
      >>> print(multiclass_margin(logits, jnp.array([0, 2])))
      [ 2. -3.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.1 ("logit") and Appendix B.
    """
    target, others = _split_target(logits, labels)
    return target - others.max(-1)


def margin_quantiles(margins: ArrayLike, q: ArrayLike = 0.5) -> jax.Array:
    """Quantiles of all margins together, by default the median ("Margin p50").

    Interpolates between neighbours. A NaN among the margins makes every quantile NaN.

    Args:
      margins: float[...], of any shape; no axis is kept.
      q: float or float[quantiles], each 0 to 1.

    Returns:
      float with the shape of ``q``.

    Examples:
      >>> print(margin_quantiles(jnp.array([-1.0, 0.0, 2.0, 9.0]), jnp.array([0.5, 1])))
      [1. 9.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, Figure 1; LAWN, ICLR submission, section 3.
    """
    margins = _to_float32(margins)
    return jnp.quantile(margins, jnp.asarray(q, margins.dtype))


def normalized_margin(margins: ArrayLike, norms: ArrayLike) -> jax.Array:
    r"""Margins divided by the product of the layers' weight norms.

    .. math::
        m / \prod_\ell \|w^\ell\|

    For a homogeneous network this does not change when a layer is rescaled. It is
    computed from logarithms, so that the product of many norms cannot overflow.

    Args:
      margins: float[...]; the papers take the smallest margin of the training set.
      norms: float[layers], the L2 norm of each layer, all above 0.

    Returns:
      float[...], with the shape of ``margins``.

    Examples:
      >>> print(normalized_margin(jnp.array([6.0, -3.0]), jnp.array([2.0, 1.5])))
      [ 2. -1.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 3.
    """
    margins = _to_float32(margins)
    log_product = jnp.log(_to_float32(norms)).sum()
    return jnp.sign(margins) * jnp.exp(jnp.log(jnp.abs(margins)) - log_product)


def smoothed_normalized_margin(mean_loss: ArrayLike, norms: ArrayLike) -> jax.Array:
    r"""A smooth stand-in for the normalized margin, from the loss.

    .. math::
        h(L) / \prod_\ell \|w^\ell\|, \qquad h(x) = -\log(e^x - 1)

    For one example h inverts the logistic loss and gives the margin back; for several
    the smallest margins dominate. With the summed loss it bounds them all from below.

    Args:
      mean_loss: float[...], logistic loss or cross entropy; 0 gives infinity.
      norms: float[layers], as in :func:`normalized_margin`.

    Returns:
      float[...], with the shape of ``mean_loss``; negative for a loss above log 2.

    Examples:
      >>> loss = jax.nn.softplus(-jnp.array(6.0))  # the logistic loss of margin 6
      >>> print(f"{smoothed_normalized_margin(loss, jnp.array([2.0, 1.5])):.3f}")
      2.000

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 5; Lyu and Li 2020, arXiv:1906.05890.
    """
    loss = _to_float32(mean_loss)
    # log(e^x - 1) = x + log(1 - e^-x), which neither overflows nor cancels.
    return normalized_margin(-(loss + jnp.log(-jnp.expm1(-loss))), norms)


def expected_calibration_error(
    logits: ArrayLike, labels: ArrayLike, num_bins: int = 15
) -> jax.Array:
    r"""Expected calibration error of the predicted class, in bins of equal width.

    .. math::
        ECE = \sum_m \frac{|B_m|}{n} \, |acc(B_m) - conf(B_m)|

    Bin m holds the examples whose confidence, the probability of the predicted class,
    lies in ((m-1)/M, m/M]: a confidence on an edge belongs to the bin below it (edges
    are rounded to the confidence's dtype). Of equal scores the first is predicted.

    Args:
      logits: float[..., classes] with ``labels`` int[...], or, for binary problems,
        float[...] with labels of the same shape (positive where above 0). For
        probabilities p give log p, or log p - log(1 - p) if binary.
      labels: see above. One-hot labels would be read as many binary ones.
      num_bins: M, at least 1.

    Returns:
      float[], 0 to 1; NaN if any logit is.

    Raises:
      ValueError: if the shapes do not fit or ``num_bins`` is below 1.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]))
      >>> print(f"{expected_calibration_error(logits, jnp.array([0, 1, 1])):.4f}")
      0.3333

    References:
      Guo et al. 2017, arXiv:1706.04599, section 2; LAWN, ICLR submission, section 4.6.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1; got {num_bins}.")
    logits, labels = _to_float32(logits), jnp.asarray(labels)
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
      k: length of the recommended list, at least 1.
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

    The gain is :math:`1 / \log_2(r + 2)` for the 0-based rank r of the positive if it
    is below k, else 0; the ideal gain is 1. Ties count by their expectation, the mean
    gain over the ranks g, ..., g + e of :func:`hit_ratio`, and NaN never helps.

    Args:
      scores: float[..., candidates], higher is better.
      k: length of the recommended list, at least 1.
      target: int or int[...], index of the positive in each row.
      mask: bool[..., candidates], True where there is a candidate; None for all.

    Returns:
      float[...], 0 to 1 for each row; NaN as in :func:`hit_ratio`.

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

    The chance that a random positive i is scored above a random negative j, ties
    counting one half (the Mann-Whitney statistic of P positives and N negatives):

    .. math::
        AUC = \frac{1}{P N} \sum_{i, j} [s_i > s_j] + \tfrac12 [s_i = s_j]

    Args:
      scores: float[...], higher is more positive; all examples count as one set.
      labels: [...], positive where above 0: both 0/1 and -1/1 will do.

    Returns:
      float[], 0 to 1. NaN without a positive or a negative, or if any score is NaN.

    Raises:
      ValueError: if the shapes differ.

    Examples:
      >>> print(auc(jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1])))
      0.875

    References:
      Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    _require_same_shape("scores", scores, "labels", labels)
    dtype = _to_float32(scores).dtype
    order = jnp.argsort(scores.ravel())
    scores, positive = scores.ravel()[order], labels.ravel()[order] > 0
    # Exact integer counts of the negatives among the lowest 0, 1, ..., n scores.
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
    """The mean gain over the ranks below k that ties leave open to the positive."""
    if k < 1:
        raise ValueError(f"`k` must be at least 1; got {k}.")
    scores = _to_float32(scores)
    is_target = jax.nn.one_hot(target, scores.shape[-1], dtype=bool)
    is_target = jnp.broadcast_to(is_target, scores.shape)
    valid = jnp.broadcast_to(True if mask is None else mask, scores.shape)
    score = jnp.where(is_target, scores, 0).sum(-1, keepdims=True)
    rivals = valid & ~is_target
    # "Not at most" rather than "above": NaN then counts against the positive.
    above = (rivals & ~(scores <= score)).sum(-1, keepdims=True)
    tied = (rivals & (scores == score)).sum(-1, keepdims=True)
    rank = np.arange(min(k, scores.shape[-1]))
    gains = jnp.broadcast_to(gain(rank), above.shape[:-1] + rank.shape)
    rank = jnp.broadcast_to(rank, gains.shape)
    gains = jnp.where((rank >= above) & (rank <= above + tied), gains, 0)
    mean = gains.astype(scores.dtype).sum(-1) / (tied[..., 0] + 1)
    mean = jnp.where(jnp.isnan(score[..., 0]), 0, mean)
    return jnp.where((is_target & valid).any(-1), mean, jnp.nan)
