# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The norms that groups keep where these are not the captured ones."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from lawn_optax import _geometry as geometry
from lawn_optax._types import AxisName, Groups, PyTree
from lawn_optax.groups._resolve import Block, Grouping, resolve


class Group(NamedTuple):
    """What the norm of a group may depend on: the argument of a callable `radius`.

    A group with one norm per slice ("neuron", `stacked`) is described by one slice.
    """

    name: str  # as `describe` prints it
    norm: jax.Array  # float32[] or one per slice; the norm of the weights now
    size: int  # number of elements that share one norm
    shape: tuple[int, ...]  # shape of its largest leaf


Radius = None | float | jax.Array | Callable[[Group], ArrayLike]


def check_radius(radius: Radius) -> None:
    """Raises an error if `radius` is neither a positive number nor a callable."""
    if radius is None or callable(radius) or isinstance(radius, jax.Array):
        return
    if not isinstance(radius, numbers.Real) or isinstance(radius, bool):
        raise TypeError(
            "`radius` must be a number, a callable from a `Group` to a number, or None "
            f"for the captured norms, got {type(radius).__name__}."
        )
    if not 0 < radius < math.inf:
        raise ValueError(f"`radius` must be positive and finite, got {radius}.")


def radii(
    radius: Radius, grouping: Grouping, block: Block, norm: jax.Array
) -> jax.Array:
    """The norms that a block is to have, of its shape; `norm` is its norm now.

    Under `jit` a radius that is not positive and finite gives 0.
    """
    if radius is None:
        return norm
    value = radius
    if callable(radius):
        value = radius(_group(grouping, block, norm))
    value = jnp.asarray(value, grouping.dtype)
    if value.ndim > len(block.shape) or any(
        n not in (1, m)
        for n, m in zip(reversed(value.shape), reversed(block.shape), strict=False)
    ):
        raise ValueError(
            f"The radius of group {block.name!r} has the shape {value.shape}, but the "
            f"group has norms of the shape {block.shape}. Return a scalar, or `norm` "
            "times a number."
        )
    good = (value > 0) & jnp.isfinite(value)
    wrong = ~good & (norm > 0)
    if not isinstance(wrong, Tracer) and np.any(wrong):
        raise ValueError(
            f"The radius of group {block.name!r} must be positive and finite, got "
            f"{value}."
        )
    return jnp.broadcast_to(jnp.where(good, value, 0), block.shape)


def _group(grouping: Grouping, block: Block, norm: jax.Array) -> Group:
    def in_slice(i: int, kept: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n for a, n in enumerate(grouping.shapes[i]) if a not in kept)

    shapes = [in_slice(i, k) for i, k in zip(block.leaves, block.axes, strict=True)]
    elements = sum(grouping.real_sizes[i] for i in block.leaves)
    return Group(block.name, norm, elements // block.size, max(shapes, key=math.prod))


def to_norms(
    params: PyTree,
    radius: Radius,
    *,
    groups: Groups = "layer",
    axis_name: AxisName = None,
) -> PyTree:
    """Scales each group of weights to a norm, before training or at any time.

    Scale-invariant layers compute the same function afterwards; others do not.

    Args:
      params: Parameters.
      radius: Norm of each group: a number, or a callable from a `Group` to a number;
        see `wrap`.
      groups: Weights that share one norm; see `wrap`.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      Parameters of the same structure, shapes and types. Free leaves and groups of
      norm zero, which have no direction, are unchanged.

    Raises:
      ValueError: If no leaf is constrained, labels do not fit, or a radius is not
        positive or has the wrong shape.
      TypeError: If `radius` is neither a number nor a callable.

    Examples:
      Unit root mean square in each layer:

      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"dense": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.zeros(4)}}
      >>> params = lawn.to_norms(params, lambda group: group.size**0.5)
      >>> print(params["dense"]["kernel"][0])
      [1.4142135 1.4142135]
    """
    check_radius(radius)
    grouping = resolve(groups, params)
    weights: list[Any] = grouping.flatten(params, "params")
    axes = geometry.reduction_axes(axis_name, params, weights)
    factors = []
    for block, square in zip(
        grouping.blocks,
        geometry.inner_products(grouping, weights, weights, axes),
        strict=True,
    ):
        found = geometry.has_norm(square)
        norm = jnp.sqrt(jnp.where(found, square, 1))
        wanted = radii(radius, grouping, block, norm)
        factors.append(jnp.where(found & (wanted > 0), wanted / norm, 1))
    scaled = geometry.multiply(grouping, factors, weights)
    return grouping.treedef.unflatten(scaled)
