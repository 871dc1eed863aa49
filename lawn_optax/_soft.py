# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Softer constraints than a fixed norm: a ball, a radial brake, a floor for updates."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import Sphere
from lawn_optax._guards import quotient, root
from lawn_optax._radius import Radius
from lawn_optax._switch import PhaseState
from lawn_optax._transforms import on_sphere
from lawn_optax._types import AxisName, Groups, check_params
from lawn_optax.groups._doubts import warn_of_doubts
from lawn_optax.groups._resolve import Grouping, resolve

# (<u,u>, <u,w>, <w,w>) of a group -> a number for `change`
GroupFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class BallState(NamedTuple):
    """State of `max_norm`."""

    phase: PhaseState
    norms: jax.Array  # as in `SphereState`, but the largest that are allowed
    fingerprint: jax.Array  # int32[]; identifies the groups
    at_most: jax.Array  # bool[]; True, by which readers of a state know it


def max_norm(
    radius: Radius = None, *, groups: Groups = "layer", axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Shortens updates so that no group's norm is larger than a bound.

    Inside the ball updates pass unchanged; beyond it the new weights are scaled back,
    ``w + u <- min(1, c / |w + u|) (w + u)``. It acts from its first update on;
    `switch_at` delays it. Put it last in a chain, behind the learning rate.

    Args:
      radius: Largest norm c of each group: a number, or a callable from a `Group` (its
        norm at the first update, number of elements, shape) to a number. None is the
        norm at the first update. As in `wrap`, updates narrower than float32 at most
        halve a norm, so that they may need several to enter a much smaller ball.
      groups: Weights that share one norm; see `project_tangent`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`. Groups of norm zero at the first
      update are free for good.

    Raises:
      TypeError: If `radius` is neither a number nor a callable.
      ValueError: For a radius that is not positive; in `init`, if no leaf is
        constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.max_norm(5.0)
      >>> w = jnp.array([0.0, 3.0])
      >>> for u in (jnp.array([0.0, 1.0]), jnp.array([0.0, 7.0])):
      ...     updates, _ = tx.update(u, tx.init(w), w)
      ...     print(w + updates)
      [0. 4.]
      [0. 5.]

    References:
      Srivastava et al. 2014, "Dropout", section 5.1 (max-norm regularisation).
    """

    def change(sphere: Sphere, updates: list[Any]) -> list[Any]:
        inside = lambda r: jnp.minimum(r, 1)  # noqa: E731
        return sphere.retract(updates, project=False, soften=inside)

    def state(*fields: Any) -> BallState:
        return BallState(*fields, at_most=jnp.ones([], bool))

    return on_sphere(
        "max_norm", groups, axis_name, change, radius=radius, make_state=state
    )


def brake(
    outward: float | jax.Array = 0.5,
    inward: float | jax.Array = 1.0,
    *,
    groups: Groups = "layer",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Scales how much an update changes each group's norm ("radial brake").

    The weights go in the direction of w + u, and their norm goes a part of the way::

        |w| <- |w| + outward (|w + u| - |w|)        where it grows
        |w| <- |w| + inward  (|w + u| - |w|)        where it shrinks

    Scales of 1 change nothing. With scales of 0 the norm stays, but only to rounding:
    `renormalize` also corrects that. `switch_at` delays the brake.

    Args:
      outward: Scale of a growth, 0 or more.
      inward: Scale of a decrease, from 0 to 1.
      groups: Weights that share one norm; see `project_tangent`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation without a state, whose `update` needs `params`, to be put last in
      a chain, behind the learning rate. A group of norm zero moves freely.

    Raises:
      TypeError: If a scale is no number.
      ValueError: For a scale out of its range; in `init`, if no leaf is constrained or
        labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.brake(outward=0.5, inward=1.0)
      >>> w = jnp.array([0.0, 3.0])
      >>> for u in (jnp.array([0.0, 1.0]), jnp.array([0.0, -1.0])):
      ...     updates, _ = tx.update(u, tx.init(w), w)
      ...     print(w + updates)
      [0.  3.5]
      [0. 2.]

    References:
      "Radial brake", https://github.com/KellerJordan/modded-nanogpt/pull/294; the
      RadialBrake of NVIDIA's Emerging-Optimizers.
    """
    _check_scale("outward", outward)
    _check_scale("inward", inward, most=1)

    def lengthening(uu: jax.Array, uw: jax.Array, ww: jax.Array) -> jax.Array:
        """The number q, so that w + u becomes (1 + q) (w + u)."""
        square = jnp.maximum(ww + 2 * uw + uu, 0)
        found = geometry.has_norm(ww) & (square > 0)
        after = root(square)
        # The difference of the two roots would have lost the digits of a small step.
        growth = quotient(2 * uw + uu, after + root(ww), found)
        scale = jnp.where(growth > 0, outward, inward)
        return quotient((scale - 1) * growth, after, found)

    def change(grouping: Grouping, updates: list[Any], weights: list[Any], q: list):
        found = [jnp.isfinite(x) for x in q]  # Other updates are returned unchanged.
        p = [1 + x for x in q]
        return geometry.combine(grouping, updates, weights, p, q, found)

    return _by_group("brake", groups, axis_name, lengthening, change)


def min_update(
    ratio: float | jax.Array, *, groups: Groups = "layer", axis_name: AxisName = None
) -> optax.GradientTransformationExtraArgs:
    """Lengthens updates that are short beside the weights of their group.

    An update u becomes ``max(1, ratio |w| / |u|) u``: it is at least `ratio` times as
    long as the weights. Put it in front of the learning rate, so that the floor decays
    with the rate:
    ``optax.chain(optax.scale_by_adam(), min_update(0.35), optax.scale(-rate))``.

    Args:
      ratio: Least length of an update in units of the norm, 0 or more.
      groups: Weights whose update has one length; see `project_tangent`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation without a state, whose `update` needs `params`. An update of
      length zero, which has no direction, stays zero.

    Raises:
      TypeError: If the ratio is no number.
      ValueError: For a ratio that is negative or not finite; in `init`, if no leaf is
        constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> tx = lawn.min_update(0.5)
      >>> w = jnp.array([0.0, 4.0])
      >>> for u in (jnp.array([1.0, 0.0]), jnp.array([3.0, 0.0])):
      ...     print(tx.update(u, tx.init(w), w)[0])
      [2. 0.]
      [3. 0.]

    References:
      "u/w floor", https://github.com/KellerJordan/modded-nanogpt/pull/274.
    """
    _check_scale("ratio", ratio)

    def factor(uu: jax.Array, uw: jax.Array, ww: jax.Array) -> jax.Array:
        del uw
        found = geometry.has_norm(uu)
        least = ratio * root(ww / jnp.where(found, uu, 1))
        return jnp.where(found & (least > 1) & jnp.isfinite(least), least, 1)

    def change(grouping: Grouping, updates: list[Any], weights: list[Any], f: list):
        del weights
        return geometry.multiply(grouping, f, updates)

    return _by_group("min_update", groups, axis_name, factor, change)


def _check_scale(name: str, value: Any, most: float = math.inf) -> None:
    if isinstance(value, jax.Array | np.ndarray):  # It may be traced.
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if not (math.isfinite(value) and 0 <= float(value) <= most):
        limit = "finite and 0 or more" if most == math.inf else f"from 0 to {most}"
        raise ValueError(f"`{name}` must be {limit}, got {value}.")


def _by_group(
    name: str,
    groups: Groups,
    axis_name: AxisName,
    number: GroupFn,
    change: Callable[[Grouping, list[Any], list[Any], list[jax.Array]], list[Any]],
) -> optax.GradientTransformationExtraArgs:
    """The transformation that changes updates by one number per group."""

    def init_fn(params):
        warn_of_doubts(resolve(groups, params))  # raises here if labels do not fit
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        params = check_params(params, name)
        grouping = resolve(groups, params)
        leaves, weights = grouping.flatten_moving(updates, params)
        axes = geometry.reduction_axes(axis_name, params, weights)
        pairs = (leaves, leaves), (leaves, weights), (weights, weights)
        sums = [geometry.inner_products(grouping, x, y, axes) for x, y in pairs]
        found = [number(*of_group) for of_group in zip(*sums, strict=True)]
        leaves = change(grouping, leaves, weights, found)
        return grouping.treedef.unflatten(leaves), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
