# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
r"""Losses that the LAWN papers compare and that Optax does not have in that form.

Use them beside those of Optax: cross entropy is
`optax.softmax_cross_entropy_with_integer_labels`, logistic loss
`optax.sigmoid_binary_cross_entropy`, binary focal loss `optax.sigmoid_focal_loss`. As
there, each example has its own loss: take the mean yourself, on which `flood` then
acts. Losses are computed and returned in float32 for lower precisions, and in float64
for float64.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._logits import require_same_shape, split_target, to_float32


def focal_loss(
    logits: ArrayLike, labels: ArrayLike, gamma: ArrayLike = 2.0
) -> jax.Array:
    r"""Multiclass focal loss on softmax probabilities.

    .. math::
        FL = -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(z)

    With ``s = z_y - log sum_(k != y) exp(z_k)`` we have ``p_y = sigma(s)``, so both
    factors come from s without cancellation, and the gradient is finite for every
    finite logit and gamma. For binary problems use `optax.sigmoid_focal_loss`: it is
    the same loss for a single logit.

    Args:
      logits: float[..., classes], at least 2 classes.
      labels: int[...], the target class of each example, 0 to classes - 1. A label
        outside gives NaN.
      gamma: Focusing exponent, at least 0; 0 is the cross entropy. The papers use 0.5,
        2 and 5.

    Returns:
      float[...], the loss of each example.

    Raises:
      TypeError: If the labels are not integers.
      ValueError: If the shapes do not fit, or gamma is negative or NaN.

    Examples:
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
      >>> print(focal_loss(logits, jnp.array([0, 2]), gamma=2.0).round(4))
      [0.1733 0.0089]

    References:
      Lin et al. 2017, arXiv:1708.02002, eq. 4 (and eq. 5 without the class weight);
      LAWN, ICLR submission, section 4.5 and Table 5.
    """
    if isinstance(gamma, (int, float)) and not gamma >= 0:
        raise ValueError(f"`gamma` must be a number of at least 0; got {gamma!r}.")
    target, others = split_target(logits, labels)
    log_odds = target - jax.nn.logsumexp(others, axis=-1)
    return jax.nn.softplus(-log_odds) * jnp.exp(-(gamma * jax.nn.softplus(log_odds)))


def smooth_labels(labels: ArrayLike, epsilon: ArrayLike) -> jax.Array:
    r"""Label smoothing as in the LAWN papers: the target keeps exactly 1 - epsilon.

    .. math::
        q_k = (1 - \epsilon) y_k + \frac{\epsilon}{K - 1} (1 - y_k)

    Epsilon is spread over the *other* K - 1 classes. `optax.smooth_labels` spreads
    its alpha over all K, the target included; the two agree for
    ``alpha = epsilon K / (K - 1)``. Give the result to
    `optax.softmax_cross_entropy`.

    Args:
      labels: float[..., classes], one-hot, at least 2 classes.
      epsilon: Probability taken from the target, 0 to 1. The papers use 0.05.

    Returns:
      float[..., classes], which sum to 1.

    Raises:
      ValueError: For fewer than 2 classes, or an epsilon outside 0 to 1.

    Examples:
      >>> print(smooth_labels(jax.nn.one_hot(1, 5), 0.1))
      [0.025 0.9   0.025 0.025 0.025]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.3; Szegedy et al. 2015,
      arXiv:1512.00567, section 7 (which spreads over all classes).
    """
    _check_probability("epsilon", epsilon)
    labels, epsilon = to_float32(labels), jnp.asarray(epsilon)
    if labels.ndim == 0 or labels.shape[-1] < 2:
        raise ValueError(
            f"`labels` must be one-hot over at least 2 classes on the last axis; got "
            f"shape {labels.shape}. For 0/1 labels use `smooth_binary_labels`."
        )
    return (1 - epsilon) * labels + epsilon / (labels.shape[-1] - 1) * (1 - labels)


def smooth_binary_labels(labels: ArrayLike, epsilon: ArrayLike) -> jax.Array:
    r"""Label smoothing for binary labels: 1 becomes 1 - epsilon, 0 becomes epsilon.

    `smooth_labels` for two classes, where the one other class gets all of
    epsilon: ``q = (1 - epsilon) y + epsilon (1 - y)``. In Optax's form this is
    ``alpha = 2 epsilon``. Give the result to
    `optax.sigmoid_binary_cross_entropy`.

    Args:
      labels: float[...] or int[...], 0 or 1.
      epsilon: Probability taken from the target, 0 to 1. The papers use 0.05.

    Returns:
      float[...].

    Raises:
      ValueError: For an epsilon outside 0 to 1.

    Examples:
      >>> print(smooth_binary_labels(jnp.array([1, 0]), 0.05))
      [0.95 0.05]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.3.
    """
    _check_probability("epsilon", epsilon)
    labels, epsilon = to_float32(labels), jnp.asarray(epsilon)
    return (1 - epsilon) * labels + epsilon * (1 - labels)


def flood(loss: ArrayLike, level: ArrayLike) -> jax.Array:
    r"""Flooding: ascend where the mean loss is below the flood level.

    .. math::
        \tilde L = |L - b| + b

    This is the form of Ishida et al. The LAWN papers print ``|L - b|``: the same
    gradient, but here the value above the level is the loss itself, to the bit, so
    that logged losses stay comparable. At ``L = b`` the gradient is that of L.

    Args:
      loss: float[], the mean loss of the batch.
      level: Flood level b, at least 0. The papers search 0.2, 0.3 and 0.4.

    Returns:
      float[], the flooded loss.

    Raises:
      ValueError: If the loss is not a scalar (flooding each example is another method),
        or the level is negative or NaN.

    Examples:
      >>> print(flood(jnp.array(0.5), 0.25), flood(jnp.array(0.125), 0.25))
      0.5 0.375

    References:
      Ishida et al. 2020, arXiv:2002.08709, eq. 1; Gupta et al. 2021, arXiv:2108.05839,
      section 2.3.
    """
    if isinstance(level, (int, float)) and not level >= 0:
        raise ValueError(f"`level` must be a number of at least 0; got {level!r}.")
    loss = jnp.asarray(loss)
    if loss.ndim:
        raise ValueError(
            f"`loss` must be the scalar mean over the batch; got shape {loss.shape}. "
            "Take the mean first."
        )
    return jnp.where(loss >= level, loss, 2 * level - loss)


def exponential_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Multiclass exponential loss, the tail of cross entropy.

    .. math::
        L = \sum_{k \ne y} \exp(-(z_y - z_k))

    This is ``exp(L) - 1`` of the cross entropy L. Only differences of logits enter, so
    a common shift does no harm. Neither value nor gradient is NaN for finite logits,
    but a margin below about -88 (float32) gives infinity.

    Args:
      logits: float[..., classes], at least 2 classes.
      labels: int[...], the target class of each example, 0 to classes - 1. A label
        outside gives NaN.

    Returns:
      float[...], the loss of each example.

    Raises:
      TypeError: If the labels are not integers.
      ValueError: If the shapes do not fit.

    Examples:
      >>> print(exponential_loss(jnp.array([[2.0, 0.0, 0.0]]), jnp.array([0])).round(4))
      [0.2707]

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 1 ("exponential-type loss
      functions"); Lyu and Li 2020, arXiv:1906.05890 (theory of their margins).
    """
    target, others = split_target(logits, labels)
    # The gradient of exp(logsumexp(others) - target) would be inf * 0 on overflow.
    return jnp.exp(others - target[..., None]).sum(-1)


def binary_exponential_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""Binary exponential loss, exp(-margin).

    .. math::
        L = \exp(-\tilde y z), \qquad \tilde y = \pm 1

    A margin below about -88 (float32) overflows to infinity.

    Args:
      logits: float[...], one score per example.
      labels: [...], positive where above 0: 0/1 and -1/1 both work, soft labels do not.

    Returns:
      float[...], the loss of each example.

    Raises:
      ValueError: If the shapes differ.

    Examples:
      >>> loss = binary_exponential_loss(jnp.array([2.0, 2.0]), jnp.array([1, 0]))
      >>> print(*(f"{x:.3f}" for x in loss))
      0.135 7.389

    References:
      Lyu and Li 2020, arXiv:1906.05890.
    """
    logits, labels = to_float32(logits), jnp.asarray(labels)
    require_same_shape("logits", logits, "labels", labels)
    return jnp.exp(jnp.where(labels > 0, -logits, logits))


def _check_probability(name: str, value: ArrayLike) -> None:
    if isinstance(value, (int, float)) and not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1; got {value!r}.")
