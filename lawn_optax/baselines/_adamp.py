# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""AdamP and SGDP: updates without radial part where weights look scale-invariant.

Weights without effect on scale have gradients at right angles to them; whether they do
is asked in two views of a leaf, one norm per output unit and one for all of it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._types import Groups, check_params
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import Grouping, absent, resolve


class InvariantState(NamedTuple):
    """State of what `adamp` and `sgdp` have in front of the learning rate."""

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
) -> optax.GradientTransformationExtraArgs:
    """Adam whose update loses its radial part where weights look scale-invariant.

    For each leaf of two axes or more, with gradient g and Adam's direction r::

        cos(w_i, g_i) < delta / sqrt(dim w_i) for all units i:   r_i <- r_i less its
                                                                 part along w_i
        else cos(w, g) < delta / sqrt(dim w):                    r <- r less its part
                                                                 along w

    (cosines without sign). The norm is not fixed: it grows less than under Adam.

    Args:
      learning_rate: Step size per update, or a schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      weight_decay: Decoupled, of all leaves.
      delta: How near a right angle counts, in units of a random vector's cosine.
      wd_ratio: What weight decay is multiplied by where the update was projected.
      groups: The units of a leaf. By default ``only_matrices("neuron")``, the last
        axis; `lawn_optax.groups.neuron` chooses others. What it leaves free is not
        projected in either view.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Raises:
      ValueError: In ``init``, if no leaf has units or labels do not fit.

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
    invariant = _project_invariant(direction, delta, weight_decay, wd_ratio, groups)
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
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum, projected as in `adamp`.

    Args:
      learning_rate: Step size per update, or a schedule.
      momentum: Decay of the sum of gradients, less than 1.
      nesterov: Whether the direction looks ahead.
      weight_decay: Decoupled, divided by ``1 - momentum`` as in the authors' code, so
        that it equals L2 regularisation at rest.
      delta: See `adamp`.
      wd_ratio: See `adamp`.
      groups: See `adamp`.

    Returns:
      A transformation whose ``update`` needs ``params``.

    Raises:
      ValueError: In ``init``, if no leaf has units or labels do not fit.

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
    invariant = _project_invariant(direction, delta, decay, wd_ratio, groups)
    return optax.with_extra_args_support(
        optax.chain(invariant, optax.scale_by_learning_rate(learning_rate))
    )


def _project_invariant(
    inner: optax.GradientTransformation,
    delta: float,
    weight_decay: float,
    wd_ratio: float,
    groups: Groups | None,
) -> optax.GradientTransformationExtraArgs:
    inner = optax.with_extra_args_support(inner)
    units: Groups = only_matrices("neuron") if groups is None else groups

    def init_fn(params):
        resolve(units, params)
        return InvariantState(inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, "The AdamP or SGDP update")
        grouping = resolve(units, params)
        whole = _whole(grouping)
        gs = grouping.flatten(updates, "updates")
        ws: list[Any] = [
            None if absent(g) else w
            for g, w in zip(gs, jax.tree.leaves(params), strict=True)
        ]
        axes = geometry.reduction_axes(None, params, ws)
        updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        us = grouping.flatten(updates, "updates of the inner optimizer")
        by_unit = [jnp.all(x) for x in _at_right_angles(grouping, gs, ws, axes, delta)]
        by_leaf = [
            jnp.all(x) & ~unit
            for x, unit in zip(
                _at_right_angles(whole, gs, ws, axes, delta), by_unit, strict=True
            )
        ]
        for view, on in ((grouping, by_unit), (whole, by_leaf)):
            uw = geometry.inner_products(view, us, ws, axes)
            ww = geometry.inner_products(view, ws, ws, axes)
            shaped = [jnp.full_like(x, o, bool) for x, o in zip(ww, on, strict=True)]
            us = geometry.tangent(view, us, ws, uw, ww, shaped)
        share: list[Any] = [1.0] * len(us)
        for block, unit, leaf in zip(grouping.blocks, by_unit, by_leaf, strict=True):
            for i in block.leaves:
                share[i] = jnp.where(unit | leaf, wd_ratio, 1.0)
        us = [
            u if absent(u) else (u + weight_decay * s * w).astype(u.dtype)
            for u, w, s in zip(us, ws, share, strict=True)
        ]
        return grouping.treedef.unflatten(us), InvariantState(inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _whole(grouping: Grouping) -> Grouping:
    """The same blocks with one norm each."""
    blocks = [
        dataclasses.replace(block, axes=((),) * len(block.leaves), shape=(), start=k)
        for k, block in enumerate(grouping.blocks)
    ]
    return dataclasses.replace(grouping, blocks=tuple(blocks))


def _at_right_angles(
    grouping: Grouping, gs: Any, ws: Any, axes: Any, delta: float
) -> list[jax.Array]:
    """Whether |cos(w, g)| < delta / sqrt(dim w), per norm; also where either is 0."""
    gw = geometry.inner_products(grouping, gs, ws, axes)
    gg = geometry.inner_products(grouping, gs, gs, axes)
    ww = geometry.inner_products(grouping, ws, ws, axes)
    out = []
    for block, n, *products in zip(
        grouping.blocks, grouping.block_sizes, gw, gg, ww, strict=True
    ):
        inner, g2, w2 = products
        lengths = jnp.sqrt(g2) * jnp.sqrt(w2)
        near = jnp.abs(inner) * (n / block.size) ** 0.5 < delta * lengths
        out.append(near | (lengths == 0))
    return out
