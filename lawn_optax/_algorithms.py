# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The papers' algorithms with their defaults: SGD-, Adam-, LAMB- and LAMB+-LAWN."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._geometry import AxisName
from lawn_optax._grouping import Groups, resolve
from lawn_optax._phase import (
    Step,
    advance,
    as_trigger,
    begin,
    check_params,
    init_phase,
    switch_at,
)
from lawn_optax._reset import Reset, check_reset, reset_state
from lawn_optax._wrap import Sphere, WrapState, init_sphere, wrap

Scalar = float | jax.Array
LearningRate = Scalar | optax.Schedule


def sgd(
    learning_rate: LearningRate,
    momentum: Scalar | None = 0.9,
    nesterov: bool = False,
    *,
    weight_decay: Scalar = 0.0,
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
    inner = optax.chain(
        *_free_decay(weight_decay, switch_step),
        optax.sgd(learning_rate, momentum, nesterov),
    )
    return wrap(inner, switch_step, groups=groups, reset=reset, axis_name=axis_name)


def adam(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
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
    inner = optax.chain(
        optax.scale_by_adam(b1, b2, eps),
        *_free_decay(weight_decay, switch_step),
        optax.scale_by_learning_rate(learning_rate),
    )
    return wrap(
        inner, switch_step, groups=groups, reset=reset, projections=projections,
        axis_name=axis_name,
    )  # fmt: skip


def _free_decay(weight_decay: Scalar, step: Step) -> list[optax.GradientTransformation]:
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return []
    decay = optax.add_decayed_weights(weight_decay)
    return [switch_at(step, optax.identity(), before=decay)]


def lamb(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
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
        learning_rate, b1, b2, eps, weight_decay, phi, jnp.inf, switch_step, groups,
        reset, axis_name,
    )  # fmt: skip


def lamb_plus(
    learning_rate: LearningRate,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    *,
    weight_decay: Scalar = 0.0,
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
        learning_rate, b1, b2, eps, weight_decay, phi, 1.0, switch_step, groups,
        reset, axis_name,
    )  # fmt: skip


def _lamb(
    learning_rate, b1, b2, eps, weight_decay, phi, cap, switch_step, groups, reset,
    axis_name,
):  # fmt: skip
    check_reset(reset)
    trigger = as_trigger(switch_step)
    adam_direction = optax.scale_by_adam(b1, b2, eps)

    def init_fn(params):
        return WrapState(
            init_phase(trigger),
            *init_sphere(groups, params),
            adam_direction.init(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, "lamb")
        constrained, first = begin(trigger, state.phase)
        grouping = resolve(groups, params).with_free_leaves()
        held = jnp.pad(state.norms, (0, grouping.num_norms - state.norms.size))
        sphere, gs = Sphere.capture(
            grouping, axis_name, params, updates, held, constrained, first
        )
        treedef = grouping.treedef
        inner = reset_state(adam_direction, state.inner_state, params, first, reset)
        updates, inner = adam_direction.update(
            treedef.unflatten(sphere.project(gs)), inner, params
        )
        lr = learning_rate
        lr = jnp.asarray(lr(state.phase.count) if callable(lr) else lr, grouping.dtype)
        decay = jnp.where(constrained, 0, jnp.asarray(weight_decay, grouping.dtype))

        # Both phases are linear in r and w: r + decay w in the free one, r - a w in the
        # other. So three sums give the norms of both, and of the weights after them.
        rs, rr, rw = sphere.sums(grouping.flatten(updates, "updates"))
        ww, on = sphere.ww, sphere.on
        radial = jnp.where(on, -jnp.where(ww > 0, rw / ww, 0), decay)
        length = jnp.sqrt(jnp.maximum(rr + radial * (2 * rw + radial * ww), 0))
        ratio = jnp.where((ww > 0) & (length > 0), phi(jnp.sqrt(ww)) / length, 1)
        scale = -lr * jnp.minimum(ratio, cap)
        shrink = jnp.where(
            on, sphere.norms / jnp.hypot(jnp.sqrt(ww), scale * length), 1
        )
        p = shrink * scale
        q = jnp.where(on, shrink * (1 + scale * radial) - 1, scale * radial)
        us = geometry.combine(grouping, rs, sphere.ws, p, q, jnp.ones_like(on))

        norms = sphere.norms[: state.norms.size]
        phase = advance(trigger, state.phase, first, extra_args)
        return treedef.unflatten(us), WrapState(phase, norms, state.fingerprint, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
