# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The papers' algorithms with their defaults: SGD-, Adam-, LAMB- and LAMB+-LAWN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lawn_optax._constraint import Scale
from lawn_optax._reset import Reset
from lawn_optax._switch import Step, switch_at
from lawn_optax._types import AxisName, Groups, LearningRate, Mask, Scalar
from lawn_optax._wrap import constrain


def sgd(
    learning_rate: LearningRate,
    momentum: Scalar | None = 0.9,
    nesterov: bool = False,
    *,
    weight_decay: Scalar = 0.0,
    mask: Mask = None,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD-LAWN: SGD with momentum, free first, then at fixed weight norms.

    Args:
      learning_rate: Per update; a number or a schedule, which the switch leaves alone.
      momentum: Decay of the momentum, or None for none.
      nesterov: Whether to use Nesterov momentum.
      weight_decay: Coefficient of the decay added to the gradient in the free phase.
      mask: Which leaves decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one. None for all.
      switch_step: See `wrap`.
      groups: See `wrap`.
      reset: See `wrap`.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.sgd(0.1)
      >>> w = jnp.array([3.0, 4.0])
      >>> u, _ = tx.update(jnp.array([4.0, -3.0]), tx.init(w), w)
      >>> print(round(float(jnp.linalg.norm(w + u)), 5))
      5.0

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3 and Appendix C (no listing).
    """
    direction = optax.chain(
        *_free_decay(weight_decay, mask, switch_step),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
    )
    return constrain(
        direction,
        switch_step,
        groups=groups,
        reset=reset,
        projections=2,
        axis_name=axis_name,
        scale=_minus(learning_rate),
    )


def adam(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
    mask: Mask = None,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    projections: int = 2,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam-LAWN: Adam, free first, then at fixed weight norms.

    Args:
      learning_rate: Per update; a number or a schedule, which the switch leaves alone.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      weight_decay: Coefficient of the decay added after the moments, in the free phase.
      mask: Which leaves decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one. None for all.
      switch_step: See `wrap`.
      groups: See `wrap`.
      reset: See `wrap`.
      projections: See `wrap`.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.adam(0.1)
      >>> w = jnp.array([3.0, 4.0])
      >>> u, _ = tx.update(jnp.array([4.0, -3.0]), tx.init(w), w)
      >>> print(round(float(jnp.linalg.norm(w + u)), 5))
      5.0

    References:
      Gupta et al. 2021, arXiv:2108.05839, Algorithms 6, 7; LAWN, ICLR submission,
      Algorithm 1, which has both projections; eps as in Appendix D.
    """
    direction = optax.chain(
        optax.scale_by_adam(b1, b2, eps), *_free_decay(weight_decay, mask, switch_step)
    )
    return constrain(
        direction,
        switch_step,
        groups=groups,
        reset=reset,
        projections=projections,
        axis_name=axis_name,
        scale=_minus(learning_rate),
    )


def lamb(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
    mask: Mask = None,
    phi: Callable[[jax.Array], jax.Array] = lambda norm: norm,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAMB-LAWN: LAMB, free first, then at fixed weight norms.

    With Adam's direction r, projected to the tangent space in the constrained phase and
    r + weight_decay * w in the free one, each group's update is::

        - learning_rate * phi(|w|) / |r| * r

    before the retraction. The trust ratio is one per group (kernel and bias together)
    where ``optax.lamb`` has one per leaf; it is 1 where w or r is zero, and a leaf
    that `groups` leaves free has its own.

    Args:
      learning_rate: Per update; a number or a schedule, which the switch leaves alone.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      weight_decay: Coefficient of the decay in r, in the free phase.
      mask: Which leaves decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one. None for all.
      phi: Function of the weight norm in the trust ratio.
      switch_step: See `wrap`.
      groups: See `wrap`.
      reset: See `wrap`.
      axis_name: See `project_tangent`.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.lamb(0.1)
      >>> w = jnp.array([3.0, 4.0])
      >>> u, _ = tx.update(jnp.array([4.0, -3.0]), tx.init(w), w)
      >>> print(round(float(jnp.linalg.norm(w + u)), 5))
      5.0

    References:
      Gupta et al. 2021, arXiv:2108.05839, Algorithms 8, 9, with eps outside the root
      and phi of the weights before the update, as in You et al. 2020, arXiv:1904.00962.
    """
    return _lamb(
        learning_rate, b1, b2, eps, weight_decay, mask, phi, jnp.inf, switch_step,
        groups, reset, axis_name,
    )  # fmt: skip


def lamb_plus(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
    mask: Mask = None,
    phi: Callable[[jax.Array], jax.Array] = lambda norm: norm,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAMB+-LAWN: `lamb` with the trust ratio capped at 1.

    Arguments, result and state are those of `lamb`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> w = jnp.array([3.0, 4.0])
      >>> u, _ = (tx := lawn.lamb_plus(0.1)).update(
      ...     jnp.array([4.0, -3.0]), tx.init(w), w
      ... )
      >>> print(round(float(jnp.linalg.norm(w + u)), 5))
      5.0

    References:
      Gupta et al. 2021, arXiv:2108.05839, Appendix D.4.3.
    """
    return _lamb(
        learning_rate, b1, b2, eps, weight_decay, mask, phi, 1.0, switch_step, groups,
        reset, axis_name,
    )  # fmt: skip


def _lamb(
    learning_rate, b1, b2, eps, weight_decay, mask, phi, cap, switch_step, groups,
    reset, axis_name,
):  # fmt: skip
    direction = optax.chain(
        optax.scale_by_adam(b1, b2, eps), *_free_decay(weight_decay, mask, switch_step)
    )
    minus = _minus(learning_rate)

    def scale(count: jax.Array) -> Scale:
        def minus_rate_times_ratio(uu, uw, ww, on):
            radial = jnp.where(on & (ww > 0), uw * uw / ww, 0)
            length = jnp.sqrt(jnp.maximum(uu - radial, 0))  # of the projected direction
            known = (ww > 0) & (length > 0)
            ratio = jnp.where(known, phi(jnp.sqrt(ww)) / length, 1)
            return minus(count)(uu, uw, ww, on) * jnp.minimum(ratio, cap)

        return minus_rate_times_ratio

    return constrain(
        direction,
        switch_step,
        groups=groups,
        reset=reset,
        projections=2,
        axis_name=axis_name,
        scale=scale,
    )


def _minus(learning_rate: LearningRate) -> Callable[[jax.Array], Scale]:
    def scale(count: jax.Array) -> Scale:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return lambda uu, *_: jnp.full_like(uu, -jnp.asarray(rate, uu.dtype))

    return scale


def _free_decay(
    weight_decay: Scalar, mask: Mask, step: Step
) -> list[optax.GradientTransformation]:
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return []
    decay = optax.add_decayed_weights(weight_decay, mask)
    return [switch_at(step, optax.identity(), before=decay)]
