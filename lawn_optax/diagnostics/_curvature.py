# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Curvature of a loss: its Hessian, how that varies among examples, and escape.

With H_i the Hessian of example i, H their mean and h = H v, the covariance of H_i
acts on a vector without a difference of large numbers:

    mean(H_i^2) v - H^2 v = mean(H_i (H_i v - h))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lawn_optax._types import PyTree
from lawn_optax.diagnostics._lanczos import Eigenvalue, top_eigenvalue
from lawn_optax.diagnostics._per_example import count, fold, widen


def top_hessian_eigenvalue(
    loss: Callable[[Any], jax.Array],
    params: PyTree,
    key: jax.Array,
    *,
    iterations: int = 20,
) -> Eigenvalue:
    """The largest eigenvalue of the loss's Hessian, its sharpness.

    It is found by Lanczos' method on Hessian-vector products, which cost about three
    gradients each. Three vectors of the size of the parameters are kept, however many
    iterations are done. It is the largest eigenvalue, not the largest in magnitude:
    gradient descent is stable along its eigenvector at rates below ``2 / value``.

    Args:
      loss: ``loss(params)``, a scalar: the mean over a batch, or over the data.
      params: Real parameters. Below float32 the loss is evaluated in their type, which
        limits the accuracy of the products; pass float32 copies where that matters.
      key: Random key of the starting vector.
      iterations: Number of Hessian-vector products, 1 or more; static. More of them
        lower the residual.

    Returns:
      `value`, at most the largest eigenvalue up to rounding, and `residual`: some
      eigenvalue is within that of `value`. If it is not much smaller than `value`, do
      more iterations. float32[] each (float64 if a leaf is).

    Raises:
      TypeError: If a leaf is not a real floating-point number, or `iterations` is
        traced.
      ValueError: If `iterations` is below 1, or there are no parameters.

    Examples:
      >>> import jax, jax.numpy as jnp, lawn_optax as lawn
      >>> loss = lambda w: 0.5 * jnp.vdot(jnp.array([3.0, 1.0, -5.0]), w**2)
      >>> top = lawn.diagnostics.top_hessian_eigenvalue
      >>> print(top(loss, jnp.ones(3), jax.random.key(0)).value.round(4))
      3.0

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.2 and Appendix F (H).
    """
    of_wide, wide = widen(loss, params)
    return top_eigenvalue(lambda v: _product(of_wide, wide, v), wide, key, iterations)


def hessian_noise(
    loss: Callable[[Any, Any], jax.Array],
    params: PyTree,
    examples: PyTree,
    key: jax.Array,
    *,
    iterations: int = 20,
    chunk_size: int = 32,
) -> Eigenvalue:
    """The largest eigenvalue of the Hessian's covariance among the examples.

    The covariance is ``mean(H_i^2) - H^2``, with `H_i` the Hessian of example i and H
    their mean. It is the Sigma of the escape condition, see `escape_growth`; its root
    is the non-uniformity of Wu et al. The covariance of the gradients,
    `gradient_noise`, is something else, of another dimension.

    Args:
      loss: ``loss(params, example)``, a scalar.
      params: Real parameters; see `top_hessian_eigenvalue`.
      examples: Arrays whose first axis is the example; a sample of the training data is
        enough.
      key: Random key of the starting vector.
      iterations: Number of iterations, which cost three Hessian-vector products per
        example each; static.
      chunk_size: Number of examples at once; memory grows by one copy of the parameters
        for each.

    Returns:
      `value` and `residual`, as in `top_hessian_eigenvalue`.

    Raises:
      TypeError: In the cases of `top_hessian_eigenvalue`.
      ValueError: In the cases of `top_hessian_eigenvalue`, or if the first axes of
        `examples` differ.

    Examples:
      >>> import jax, jax.numpy as jnp, lawn_optax as lawn
      >>> loss = lambda w, h: 0.5 * h * w**2  # Hessians 1 and 5, covariance 4
      >>> args = loss, jnp.array(1.0), jnp.array([1.0, 5.0]), jax.random.key(0)
      >>> print(lawn.diagnostics.hessian_noise(*args).value)
      4.0

    References:
      Wu, Ma and E 2018, "How SGD Selects the Global Minima in Over-parameterized
      Learning: A Dynamical Stability Perspective", NeurIPS.
    """
    of_wide, wide = widen(loss, params)
    twice = _Twice(of_wide, wide, examples, chunk_size)
    return top_eigenvalue(lambda v: twice(v, -1, 1)[1], wide, key, iterations)


def escape_growth(
    loss: Callable[[Any, Any], jax.Array],
    params: PyTree,
    examples: PyTree,
    key: jax.Array,
    *,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    num_examples: int | None = None,
    iterations: int = 20,
    chunk_size: int = 32,
) -> Eigenvalue:
    """Largest growth per update of SGD's distance from a minimum: above 0 it escapes.

    For plain SGD on the quadratic approximation at a minimum, with learning rate eta
    and batches of B drawn without replacement from m examples, each update multiplies
    the mean squared distance from the minimum by at most ``1 + growth``::

        growth = lambda_max{(I - eta H)^2 + eta^2 (m - B) / (B (m - 1)) Sigma} - 1

    The bound is reached along the eigenvector. Sigma is the covariance of the examples'
    Hessians (`hessian_noise`). The LAWN paper calls it that of the gradient noise,
    which has another dimension and does not give this growth.

    Directions in which all losses are flat make the growth at least 0, so it means
    escape only where ``value - residual`` is clearly above 0. Away from a minimum, any
    negative curvature has that effect at every rate. Compare with
    `top_hessian_eigenvalue`: above a rate of ``2 / value``, SGD escapes even without
    noise.

    Args:
      loss: ``loss(params, example)``, a scalar.
      params: Real parameters; see `top_hessian_eigenvalue`.
      examples: Arrays whose first axis is the example; see `hessian_noise`.
      key: Random key of the starting vector.
      learning_rate: Rate eta of SGD without momentum; may be traced.
      batch_size: Batch size B, 1 to m; may be traced.
      num_examples: Number m of training examples, where `examples` is a sample of them;
        None is the number of `examples`.
      iterations: Number of iterations, which cost three Hessian-vector products per
        example each; static.
      chunk_size: Number of examples at once; memory grows by one copy of the parameters
        for each.

    Returns:
      The growth and its residual, as in `top_hessian_eigenvalue`.

    Raises:
      TypeError: In the cases of `top_hessian_eigenvalue`.
      ValueError: In the cases of `hessian_noise`, or if `batch_size` is not 1 to m.

    Examples:
      >>> import jax, jax.numpy as jnp, lawn_optax as lawn
      >>> loss = lambda w, h: 0.5 * h * w**2  # Hessians 1 and 5
      >>> args = loss, jnp.array(1.0), jnp.array([1.0, 5.0]), jax.random.key(0)
      >>> growth = lawn.diagnostics.escape_growth
      >>> print(growth(*args, learning_rate=0.5, batch_size=2).value)  # (1 - 1.5)^2 - 1
      -0.75
      >>> print(growth(*args, learning_rate=0.5, batch_size=1).value)  # and 0.25 * 4
      0.25

    References:
      Gupta et al. 2021, arXiv:2108.05839, eq. 19; Wu, Ma and E 2018 (see
      `hessian_noise`).
    """
    m = count(examples) if num_examples is None else num_examples
    if isinstance(batch_size, int) and not 1 <= batch_size <= m:
        raise ValueError(
            f"`batch_size` must be 1 to {m}, the number of examples, got {batch_size}. "
            "If `examples` is a sample of them, give `num_examples`."
        )
    of_wide, wide = widen(loss, params)
    twice = _Twice(of_wide, wide, examples, chunk_size)
    dtype = jax.tree.leaves(wide)[0].dtype
    rate, size = jnp.asarray(learning_rate, dtype), jnp.asarray(batch_size, dtype)
    share = (m - size) / (size * max(m - 1, 1))

    def operator(v):
        # Without I: in 1 + growth, a small growth is lost to the rounding of float32.
        once, again = twice(v, 1 - share, share)
        return jax.tree.map(lambda h, q: rate * (rate * q - 2 * h), once, again)

    return top_eigenvalue(operator, wide, key, iterations)


class _Twice:
    """Applies the Hessian H, and then that of each example, H_i, to a mixture."""

    def __init__(self, loss, params, examples, chunk_size):
        self._loss, self._params = loss, params
        self._examples, self._size = examples, chunk_size

    def __call__(self, v, of_mean, of_own):
        """Gives h = H v and ``mean(H_i (of_mean h + of_own H_i v))``."""

        def chunk_loss(params, part):
            return jax.vmap(self._loss, (None, 0))(params, part).sum()

        def once(part):
            return _product(lambda p: chunk_loss(p, part), self._params, v)

        def again(part):
            def of_example(example):
                loss = lambda p: self._loss(p, example)  # noqa: E731
                own = _product(loss, self._params, v)
                mixed = jax.tree.map(lambda h, o: of_mean * h + of_own * o, mean, own)
                return _product(loss, self._params, mixed)

            return jax.tree.map(lambda x: x.sum(0), jax.vmap(of_example)(part))

        mean = self._mean(once)
        return mean, self._mean(again)

    def _mean(self, sums):
        add = lambda carry, part: jax.tree.map(jnp.add, carry, sums(part))  # noqa: E731
        zeros = jax.tree.map(jnp.zeros_like, self._params)
        total = fold(add, zeros, self._examples, self._size)
        return jax.tree.map(lambda x: x / count(self._examples), total)


def _product(loss, params, v):
    """The Hessian times a vector, forward over reverse, which stores no graph."""
    return jax.jvp(jax.grad(loss), (params,), (v,))[1]
