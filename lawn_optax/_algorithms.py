# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The papers' algorithms with their defaults: SGD-, Adam-, LAMB- and LAMB+-LAWN.

Each takes the arguments of Optax's optimizer of the same name, in that order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lawn_optax._constraint import ScaleFn
from lawn_optax._guards import quotient
from lawn_optax._reset import Reset
from lawn_optax._switch import Step, switch_at
from lawn_optax._types import (
    AxisName,
    Groups,
    LearningRate,
    Mask,
    Projections,
    Scalar,
    check_static,
)
from lawn_optax._versions import add_decayed_weights
from lawn_optax._wrap import constrain


def sgd(
    learning_rate: LearningRate,
    momentum: Scalar | None = 0.9,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    weight_decay: LearningRate = 0.0,
    mask: Mask = None,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD-LAWN: SGD with momentum, free first, then at fixed weight norms.

    Args:
      learning_rate: Step size, a number or a schedule; the switch does not restart the
        schedule.
      momentum: Decay of the momentum, or None for none.
      nesterov: Whether to use Nesterov momentum.
      accumulator_dtype: Type of the momentum; None is the type of the parameters.
      weight_decay: Coefficient of the decay that is added to the gradient in the free
        phase, a number or a schedule.
      mask: Leaves that decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one; None means all.
      switch_step: Number of free updates, or a `switch_when` trigger; see `wrap`.
      groups: Weights that share one norm; see `wrap`.
      reset: Treatment of the momentum at the switch; see `reset_at`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation with a `LawnState`, whose `update` needs `params`.

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
    if momentum is None:
        direction = optax.identity()
    else:
        direction = optax.trace(momentum, nesterov, accumulator_dtype)
    return _algorithm(
        "sgd",
        optax.chain(*_free_decay(weight_decay, mask, switch_step), direction),
        learning_rate,
        switch_step,
        groups,
        reset,
        axis_name,
    )


def adam(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    weight_decay: LearningRate = 0.0,
    mask: Mask = None,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    projections: Projections = 2,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam-LAWN: Adam, free first, then at fixed weight norms.

    Args:
      learning_rate: Step size, a number or a schedule; the switch does not restart the
        schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Number added to the root of the second moment; `optax.adam` has 1e-8.
      eps_root: Number added to the second moment under the root.
      mu_dtype: Type of the first moment; None is the type of the parameters.
      nesterov: Whether to use Nesterov momentum.
      weight_decay: Coefficient of the decay that is added after the moments in the free
        phase, as in `optax.adamw`; a number or a schedule.
      mask: Leaves that decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one; None means all.
      switch_step: Number of free updates, or a `switch_when` trigger; see `wrap`.
      groups: Weights that share one norm; see `wrap`.
      reset: Treatment of the moments at the switch; see `reset_at`.
      projections: 2 projects gradient and update, 1 the gradient only.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation with a `LawnState`, whose `update` needs `params`.

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
    direction = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return _algorithm(
        "adam",
        optax.chain(direction, *_free_decay(weight_decay, mask, switch_step)),
        learning_rate,
        switch_step,
        groups,
        reset,
        axis_name,
        projections=projections,
    )


def lamb(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    weight_decay: LearningRate = 0.0,
    mask: Mask = None,
    *,
    phi: Callable[[jax.Array], jax.Array] = lambda norm: norm,
    switch_step: Step = 0,
    groups: Groups = "layer",
    reset: Reset = "restart",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """LAMB-LAWN: LAMB, free first, then at fixed weight norms.

    Let r be Adam's direction: projected to the tangent space in the constrained phase,
    plus ``weight_decay * w`` in the free one. Each group's update is then::

        - learning_rate * phi(|w|) / |r| * r

    before the retraction. The trust ratio is one per group (kernel and bias together)
    where `optax.lamb` has one per leaf. It is 1 where w or r is zero, and a leaf that
    `groups` leaves free has its own.

    Args:
      learning_rate: Step size, a number or a schedule; the switch does not restart the
        schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Number added to the root of the second moment.
      eps_root: Number added to the second moment under the root.
      weight_decay: Coefficient of the decay in r, in the free phase, a number or a
        schedule.
      mask: Leaves that decay, as in `optax.adamw`: a tree of bools, or a function from
        the parameters to one; None means all.
      phi: Function of the weight norm in the trust ratio.
      switch_step: Number of free updates, or a `switch_when` trigger; see `wrap`.
      groups: Weights that share one norm and one trust ratio; see `wrap`.
      reset: Treatment of the moments at the switch; see `reset_at`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation with a `LawnState`, whose `update` needs `params`.

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
    direction = optax.scale_by_adam(b1, b2, eps, eps_root)
    return _algorithm(
        "lamb",
        optax.chain(direction, *_free_decay(weight_decay, mask, switch_step)),
        learning_rate,
        switch_step,
        groups,
        reset,
        axis_name,
        trust_ratio=_trust_ratio(phi),
    )


def lamb_plus(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    weight_decay: LearningRate = 0.0,
    mask: Mask = None,
    *,
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
    direction = optax.scale_by_adam(b1, b2, eps, eps_root)
    return _algorithm(
        "lamb_plus",
        optax.chain(direction, *_free_decay(weight_decay, mask, switch_step)),
        learning_rate,
        switch_step,
        groups,
        reset,
        axis_name,
        trust_ratio=_trust_ratio(phi, cap=1.0),
    )


def _algorithm(
    name: str,
    direction: optax.GradientTransformation,
    learning_rate: LearningRate,
    switch_step: Step,
    groups: Groups,
    reset: Reset,
    axis_name: AxisName,
    projections: Projections = 2,
    trust_ratio: ScaleFn | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`wrap` around the direction, times the ratio and minus the learning rate."""

    def scale(count: jax.Array) -> ScaleFn:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate

        def factor(update_sq, dot, weight_sq, active):
            minus_rate = jnp.full_like(update_sq, -jnp.asarray(rate, update_sq.dtype))
            if trust_ratio is None:
                return minus_rate
            return minus_rate * trust_ratio(update_sq, dot, weight_sq, active)

        return factor

    return constrain(
        name,
        direction,
        switch_step,
        groups=groups,
        reset=reset,
        projections=projections,
        axis_name=axis_name,
        scale=scale,
        has_trust_ratio=trust_ratio is not None,
    )


def _trust_ratio(
    phi: Callable[[jax.Array], jax.Array], cap: float = jnp.inf
) -> ScaleFn:
    check_static("phi", phi, "a function of the weight norm", types=Callable)

    def trust_ratio(update_sq, dot, weight_sq, active):
        radial = quotient(dot * dot, weight_sq, active & (weight_sq > 0))
        length_sq = jnp.maximum(update_sq - radial, 0)  # after the projection
        known = (weight_sq > 0) & (length_sq > 0)
        # One guard for both roots and the quotient: each more costs compile time.
        norm, length = (
            jnp.sqrt(jnp.where(known, x, 1)) for x in (weight_sq, length_sq)
        )
        ratio = jnp.where(known, phi(norm) / length, 1)
        return jnp.minimum(ratio, cap)

    return trust_ratio


def _free_decay(
    weight_decay: LearningRate, mask: Mask, step: Step
) -> list[optax.GradientTransformation]:
    """Weight decay that ends at the switch, as a list of at most one transformation."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return []
    decay = add_decayed_weights(weight_decay, mask)
    return [switch_at(step, optax.identity(), before=decay)]
