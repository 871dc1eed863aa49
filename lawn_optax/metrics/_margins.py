# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Margins of predictions, plain and normalised."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._logits import require_same_shape, split_target, to_float32


def binary_margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The logit, signed so that a right prediction is positive.

    ``m = z`` for a positive label, ``-z`` for a negative one. Its mean or
    median is a statistic for `lawn_optax.switch_when`.

    Args:
      logits: float[...], one score per example.
      labels: [...], positive where above 0: 0/1 and -1/1 both work, soft labels do not.

    Returns:
      float[...].

    Raises:
      ValueError: If the shapes differ.

    Examples:
      >>> print(binary_margin(jnp.array([2.0, -1.0, 3.0]), jnp.array([1, 1, 0])))
      [ 2. -1. -3.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.1 ("logit") and Appendix B.
    """
    logits, labels = to_float32(logits), jnp.asarray(labels)
    require_same_shape("logits", logits, "labels", labels)
    return jnp.where(labels > 0, logits, -logits)


def multiclass_margin(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The target's score minus the best other score, ``z_y - max_(k != y) z_k``.

    Args:
      logits: float[..., classes], at least 2 classes.
      labels: int[...], the target class of each example, 0 to classes - 1. A label
        outside gives NaN.

    Returns:
      float[...], positive where the example is classified correctly.

    Raises:
      TypeError: If the labels are not integers.
      ValueError: If the shapes do not fit.

    Examples:
      >>> logits = jnp.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
      >>> print(multiclass_margin(logits, jnp.array([0, 2])))
      [ 2. -3.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.1 ("logit") and Appendix B.
    """
    target, others = split_target(logits, labels)
    return target - others.max(-1)


def margin_quantiles(margins: ArrayLike, q: ArrayLike = 0.5) -> jax.Array:
    """Quantiles of all margins together, by default the median ("Margin p50").

    Interpolates between neighbours. A NaN among the margins makes every quantile NaN.

    Args:
      margins: float[...], of any shape; no axis is kept.
      q: float or float[quantiles], each 0 to 1.

    Returns:
      float with the shape of `q`.

    Examples:
      >>> print(margin_quantiles(jnp.array([-1.0, 0.0, 2.0, 9.0]), jnp.array([0.5, 1])))
      [1. 9.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, Figure 1; LAWN, ICLR submission, section 3.
    """
    margins = to_float32(margins)
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
      float[...], with the shape of `margins`.

    Examples:
      >>> print(normalized_margin(jnp.array([6.0, -3.0]), jnp.array([2.0, 1.5])))
      [ 2. -1.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 3.
    """
    margins = to_float32(margins)
    log_product = jnp.log(to_float32(norms)).sum()
    zero = margins == 0  # its logarithm has no derivative
    size = jnp.log(jnp.abs(jnp.where(zero, 1, margins)))
    scaled = jnp.sign(margins) * jnp.exp(size - log_product)
    most = jnp.log(jnp.finfo(margins.dtype).max)  # 0 * inf would be NaN
    slope = jnp.exp(jnp.minimum(-log_product, most))
    return jnp.where(zero, margins * slope, scaled)


def l2_margin(margins: ArrayLike, norms: ArrayLike) -> jax.Array:
    r"""Margins divided by the norm of all weights to the power of the number of layers.

    .. math::
        m / \|w\|^{\#\ell}, \qquad \|w\|^2 = \sum_\ell \|w^\ell\|^2

    Its maximum is another form of the implicit bias of a homogeneous network. It does
    not change when all layers are rescaled by one factor. For n layers it is at most
    `normalized_margin` divided by ``n ** (n / 2)``, which it is where the norms of the
    layers are equal.

    Args:
      margins: float[...], as in `normalized_margin`.
      norms: float[layers], as in `normalized_margin`.

    Returns:
      float[...], with the shape of `margins`.

    Examples:
      >>> print(l2_margin(jnp.array([50.0, -25.0]), jnp.array([3.0, 4.0])))
      [ 2. -1.]

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 15; Lyu and Li 2020, arXiv:1906.05890.
    """
    norms = to_float32(norms)
    largest = norms.max(initial=0)  # so that no square overflows
    largest = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    whole = largest * jnp.sqrt(jnp.sum(jnp.square(norms / largest)))
    return normalized_margin(margins, jnp.full(norms.shape, whole))


def smoothed_normalized_margin(mean_loss: ArrayLike, norms: ArrayLike) -> jax.Array:
    r"""A smooth stand-in for the normalized margin, from the loss.

    .. math::
        h(L) / \prod_\ell \|w^\ell\|, \qquad h(x) = -\log(e^x - 1)

    For one example h inverts the logistic loss and gives the margin back; for several
    the smallest margins dominate. With the summed loss it bounds them all from below.

    Args:
      mean_loss: float[...], logistic loss or cross entropy; 0 gives infinity.
      norms: float[layers], as in `normalized_margin`.

    Returns:
      float[...], with the shape of `mean_loss`; negative for a loss above log 2.

    Examples:
      >>> loss = jax.nn.softplus(-jnp.array(6.0))  # the logistic loss of margin 6
      >>> print(f"{smoothed_normalized_margin(loss, jnp.array([2.0, 1.5])):.3f}")
      2.000

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 5; Lyu and Li 2020, arXiv:1906.05890.
    """
    loss = to_float32(mean_loss)
    # log(e^x - 1) = x + log(1 - e^-x), which neither overflows nor cancels.
    return normalized_margin(-(loss + jnp.log(-jnp.expm1(-loss))), norms)
