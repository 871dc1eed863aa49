# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""AdamP and SGDP: updates without radial part where weights look scale-invariant.

Scale-invariant weights are orthogonal to their gradient. This is tested for each output
unit and, if a unit fails the test, for the whole leaf.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import AxisName, Groups, check_params
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import Grouping, absent, resolve


class ProjectedState(NamedTuple):
    """State of the projection in `adamp` and `sgdp`."""

    phase: PhaseState
    inner_state: optax.OptState


def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    groups: Groups | None = None,
    switch_step: Step = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam whose update loses its radial part where weights look scale-invariant.

    For each leaf of two axes or more, with gradient g and Adam's direction r::

        cos(w_i, g_i) < delta / sqrt(dim w_i) for all units i:   r_i <- r_i less its
                                                                 part along w_i
        else cos(w, g) < delta / sqrt(dim w):                    r <- r less its part
                                                                 along w

    (cosines without sign). The norm is not fixed: it grows less than under Adam.
    Derivatives through an update are NaN where a gradient is zero, as those of
    `optax.adam` are.

    Args:
      learning_rate: Step size per update, or a schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Number added to the root of the second moment.
      weight_decay: Coefficient of the decoupled decay of all leaves.
      delta: Largest cosine that counts as a right angle, in units of the cosine of a
        random vector, ``1 / sqrt(dim w)``.
      wd_ratio: Factor of the weight decay where the update was projected.
      groups: The units of a leaf. By default ``only_matrices("neuron")``, the last
        axis; `lawn_optax.groups.neuron` chooses others. Leaves that it leaves free are
        not projected at all.
      switch_step: Number of updates before it projects, or a `switch_when` trigger.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: In `init`, if no leaf has units or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> w, grads = jnp.array([[3.0], [4.0]]), jnp.array([[0.8], [-0.6]])
      >>> tx = lawn.baselines.adamp(0.1)
      >>> updates, _ = tx.update(grads, tx.init(w), w)
      >>> print(updates.ravel())  # -0.1 [1, -1] less its part along w
      [-0.112 0.084]

    References:
      Heo et al. 2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights", arXiv:2006.08217, Algorithm 2.
    """
    direction = optax.scale_by_adam(b1, b2, eps)
    invariant = _project_invariant(
        "adamp",
        direction,
        delta,
        weight_decay,
        wd_ratio,
        groups,
        switch_step,
        axis_name,
    )
    return optax.with_extra_args_support(
        optax.chain(invariant, optax.scale_by_learning_rate(learning_rate))
    )


def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    nesterov: bool = False,
    *,
    weight_decay: float = 0.0,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    groups: Groups | None = None,
    switch_step: Step = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum, projected as in `adamp`.

    Args:
      learning_rate: Step size per update, or a schedule.
      momentum: Decay of the momentum, less than 1.
      nesterov: Whether to use Nesterov momentum.
      weight_decay: Coefficient of the decoupled decay. It is divided by ``1 -
        momentum`` as in the authors' code, so that it equals L2 regularisation at rest.
      delta: Largest cosine that counts as a right angle; see `adamp`.
      wd_ratio: Factor of the weight decay where the update was projected.
      groups: The units of a leaf; see `adamp`.
      switch_step: Number of updates before it projects, or a `switch_when` trigger.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: In `init`, if no leaf has units or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> w, grads = jnp.array([[3.0], [4.0]]), jnp.array([[1.0], [-0.7]])
      >>> tx = lawn.baselines.sgdp(1.0)
      >>> updates, _ = tx.update(grads, tx.init(w), w)  # a cosine of 0.033 < 0.1 / 1.41
      >>> print(updates.ravel())  # minus the gradient, less its part along w
      [-0.976 0.732]

    References:
      Heo et al. 2021, "AdamP: Slowing Down the Slowdown for Momentum Optimizers on
      Scale-invariant Weights", arXiv:2006.08217, Algorithm 1.
    """
    decay = weight_decay / (1 - momentum)
    direction = optax.trace(momentum, nesterov)
    invariant = _project_invariant(
        "sgdp", direction, delta, decay, wd_ratio, groups, switch_step, axis_name
    )
    return optax.with_extra_args_support(
        optax.chain(invariant, optax.scale_by_learning_rate(learning_rate))
    )


def _project_invariant(
    name: str,
    inner: optax.GradientTransformation,
    delta: float,
    weight_decay: float,
    wd_ratio: float,
    groups: Groups | None,
    switch_step: Step,
    axis_name: AxisName,
) -> optax.GradientTransformationExtraArgs:
    inner = optax.with_extra_args_support(inner)
    trigger = as_trigger(switch_step)
    units: Groups = only_matrices("neuron") if groups is None else groups

    def init_fn(params):
        resolve(units, params)  # raises here if labels do not fit
        return ProjectedState(init_phase(trigger), inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, name)
        constrained, first = phase_now(trigger, state)
        by_unit = resolve(units, params)
        by_leaf = _whole(by_unit)
        gradients, weights = by_unit.flatten_moving(updates, params)
        axes = geometry.reduction_axes(axis_name, params, weights)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        leaves = by_unit.flatten(updates, "updates of the inner optimizer")
        units_pass = [
            jnp.all(x) & constrained
            for x in _at_right_angles(by_unit, gradients, weights, axes, delta)
        ]
        leaf_passes = [
            jnp.all(x) & constrained & ~unit
            for x, unit in zip(
                _at_right_angles(by_leaf, gradients, weights, axes, delta),
                units_pass,
                strict=True,
            )
        ]
        for view, passes in ((by_unit, units_pass), (by_leaf, leaf_passes)):
            dots = geometry.inner_products(view, leaves, weights, axes)
            weight_sq = geometry.inner_products(view, weights, weights, axes)
            active = [
                jnp.full_like(x, passed, bool)
                for x, passed in zip(weight_sq, passes, strict=True)
            ]
            leaves = geometry.tangent(view, leaves, weights, dots, weight_sq, active)
        ratio: list[Any] = [1.0] * len(leaves)
        for block, unit, leaf in zip(
            by_unit.blocks, units_pass, leaf_passes, strict=True
        ):
            for i in block.leaves:
                ratio[i] = jnp.where(unit | leaf, wd_ratio, 1.0)
        leaves = [
            u if absent(u) else (u + weight_decay * s * w).astype(u.dtype)
            for u, w, s in zip(leaves, weights, ratio, strict=True)
        ]
        phase = next_phase(trigger, state.phase, first, extra_args)
        return by_unit.treedef.unflatten(leaves), ProjectedState(phase, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _whole(grouping: Grouping) -> Grouping:
    """The same blocks with one norm each."""
    blocks = [
        dataclasses.replace(block, axes=((),) * len(block.leaves), shape=(), start=k)
        for k, block in enumerate(grouping.blocks)
    ]
    return dataclasses.replace(grouping, blocks=tuple(blocks))


def _at_right_angles(
    grouping: Grouping,
    gradients: list[Any],
    weights: list[Any],
    axes: list[tuple],
    delta: float,
) -> list[jax.Array]:
    """Whether |cos(w, g)| < delta / sqrt(dim w), per norm; true where either is 0."""
    dots = geometry.inner_products(grouping, gradients, weights, axes)
    gradient_sq = geometry.inner_products(grouping, gradients, gradients, axes)
    weight_sq = geometry.inner_products(grouping, weights, weights, axes)
    out = []
    for k, (block, elements) in enumerate(
        zip(grouping.blocks, grouping.block_sizes, strict=True)
    ):
        lengths = jnp.sqrt(gradient_sq[k]) * jnp.sqrt(weight_sq[k])
        cosine = jnp.abs(dots[k]) * (elements / block.size) ** 0.5
        out.append((cosine < delta * lengths) | (lengths == 0))
    return out
