# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Helpers that make the `groups` argument."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lawn_optax._types import Groups, GroupsFn, PyTree
from lawn_optax.groups._doubts import stacked_axes
from lawn_optax.groups._labels import (
    Free,
    PerSlice,
    labels_of,
    neuron_labels,
    normal_axes,
)
from lawn_optax.groups._matrices import judge
from lawn_optax.groups._tree import Leaf, leaves_of

Axis = int | tuple[int, ...]


def neuron(axis: Axis | Callable[[str], Axis] = -1) -> GroupsFn:
    """One norm per output unit of each kernel.

    A leaf that has one element per unit, such as a bias, joins the units of its
    module's kernel; other vectors are free.

    Args:
      axis: Output axis or axes of a kernel: -1 for Flax and Haiku, 0 for Equinox, (-2,
        -1) for Flax attention kernels (features, heads, head_dim); or a callable from
        the path of a leaf to its output axes.

    Returns:
      A callable for `groups`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}
      >>> print(lawn.describe(params, lawn.groups.neuron()))
      group         norms  elements  leaves
      dense/kernel      4        16  dense/bias (4), dense/kernel (3, 4)
    """
    return lambda params: neuron_labels(params, axis)


def stacked(*paths: str, axis: Axis = 0, base: Groups = "layer") -> GroupsFn:
    """One norm per index of a stacked axis, such as that of scanned layers or experts.

    For experts in scanned layers, nest one in the other, in any order:
    ``stacked("layers", base=stacked("layers/experts", axis=1))`` gives one norm per
    layer and expert.

    Args:
      *paths: Paths of the stacked leaves; without any, all leaves are stacked.
      axis: The stacked axis, or several, of the leaves as they are in the parameters,
        also in a `stacked` that is the base of another. A leaf that lacks it is free.
      base: Groups of the leaves within one slice, as if they had no stacked axis, and
        groups of all other leaves.

    Returns:
      A callable for `groups`, which raises ValueError if a path matches no leaf or if
      nested calls stack the same axis of a leaf.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"blocks": {"kernel": jnp.ones((6, 3, 3)), "bias": jnp.ones((6, 3))}}
      >>> print(lawn.describe(params, lawn.groups.stacked("blocks")))
      group   norms  elements  leaves
      blocks      6        72  blocks/bias (6, 3), blocks/kernel (6, 3, 3)
    """
    wanted = (axis,) if isinstance(axis, int) else tuple(axis)

    def groups(params: PyTree) -> PyTree:
        leaves, treedef = leaves_of(params), jax.tree.structure(params)
        chosen = matches(params, paths) if paths else [True] * len(leaves)
        stacks = [
            _positions(leaf, wanted) if inside else None
            for leaf, inside in zip(leaves, chosen, strict=True)
        ]
        slices = [
            _Slice(leaf.value, axes) if axes else leaf.value
            for leaf, axes in zip(leaves, stacks, strict=True)
        ]
        labels = labels_of(base, treedef.unflatten(slices))
        return treedef.unflatten(
            label if axes is None else _stack(label, leaf, axes)
            for label, leaf, axes in zip(labels, leaves, stacks, strict=True)
        )

    return groups


class _Slice(jax.ShapeDtypeStruct):
    """A leaf without its stacked axes."""

    def __init__(self, leaf: Any, axes: tuple[int, ...]):
        left = [a for a in range(np.ndim(leaf)) if a not in axes]
        shape = tuple(np.shape(leaf)[a] for a in left)
        super().__init__(shape, jnp.result_type(leaf))
        whole = getattr(leaf, "whole", tuple(range(np.ndim(leaf))))
        self.whole = tuple(whole[a] for a in left)  # its axes, as in the parameter
        self.taken = (*getattr(leaf, "taken", ()), *(whole[a] for a in axes))


def _positions(leaf: Leaf, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a leaf, or of its slice, that are stacked; () if it lacks one."""
    value = leaf.value
    whole = getattr(value, "whole", tuple(range(len(leaf.shape))))
    taken = getattr(value, "taken", ())
    every = range(len(whole) + len(taken))
    if not all(-len(every) <= axis < len(every) for axis in wanted):
        return ()
    axes = [every[axis] for axis in wanted]
    for axis in axes:
        if axis in taken or axes.count(axis) > 1:
            raise ValueError(
                f"Axis {axis} of {leaf.name} is stacked twice. `axis` counts the axes "
                "of the parameters, also in a `stacked` that is the base of another."
            )
    return tuple(whole.index(axis) for axis in axes)


def _stack(label: Any, leaf: Leaf, axes: tuple[int, ...]) -> Any:
    if label is None or isinstance(label, Free):
        return label
    if not axes:
        return Free("no axis to slice")
    left = [a for a in range(len(leaf.shape)) if a not in axes]
    if not isinstance(label, PerSlice):
        return PerSlice(label, axes, len(axes))
    kept = normal_axes(label.axes, tuple(leaf.shape[a] for a in left), leaf.name)
    return dataclasses.replace(
        label,
        axes=(*axes, *(left[a] for a in kept)),
        stacked=len(axes) + label.stacked,
    )


def only_matrices(base: Groups = "layer") -> GroupsFn:
    """Leaves biases, norm layers' scales and other vectors free.

    A leaf with two axes or more is no matrix if its name is bias, scale, offset, beta
    or gamma, if it has one entry per unit of a kernel beside it, or if it is in a norm
    layer. The axes of stacked layers do not count. `describe` shows the reasons, and
    notes doubtful leaves, which count as matrices.

    Args:
      base: Groups of the matrices.

    Returns:
      A callable for `groups`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"query": {"kernel": jnp.ones((8, 2, 4)), "bias": jnp.ones((2, 4))}}
      >>> print(lawn.describe(params, lawn.groups.only_matrices()))
      group  norms  elements  leaves
      query      1        64  query/kernel (8, 2, 4)
      <BLANKLINE>
      free        elements  why
      query/bias         8  not a matrix: its name is bias
    """

    def groups(params: PyTree) -> PyTree:
        leaves, labels = leaves_of(params), labels_of(base, params)
        shapes = [_without_stack(*x) for x in zip(leaves, labels, strict=True)]
        axes = stacked_axes(leaves, shapes)
        shapes = [
            shape if a is None else (*shape[:a], *shape[a + 1 :])
            for shape, a in zip(shapes, axes, strict=True)
        ]
        return jax.tree.unflatten(
            jax.tree.structure(params),
            [
                Free(reason) if reason else _noted(label, note)
                for label, (reason, note) in zip(
                    labels, judge(leaves, shapes), strict=True
                )
            ],
        )

    return groups


def _without_stack(leaf: Leaf, label: Any) -> tuple[int, ...]:
    if not isinstance(label, PerSlice):
        return leaf.shape
    axes = normal_axes(label.axes[: label.stacked], leaf.shape, leaf.name)
    return tuple(n for a, n in enumerate(leaf.shape) if a not in axes)


def _noted(label: Any, note: str) -> Any:
    if not note or label is None or isinstance(label, Free):
        return label
    if not isinstance(label, PerSlice):
        label = PerSlice(label, ())
    return dataclasses.replace(label, note=note)


def not_paths(*paths: str, base: Groups = "layer") -> GroupsFn:
    """Leaves the named parameters free, such as embeddings, routers or gates.

    Args:
      *paths: Whole path components, such as "embed" or "decoder/head".
      base: Groups of the other leaves.

    Returns:
      A callable for `groups`, which raises ValueError if a path matches no leaf.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"embed": jnp.ones((5, 2)), "out": {"kernel": jnp.ones((2, 5))}}
      >>> print(lawn.describe(params, lawn.groups.not_paths("embed")))
      group  norms  elements  leaves
      out        1        10  out/kernel (2, 5)
      <BLANKLINE>
      free   elements  why
      embed        10  named in not_paths
    """
    return _only(
        base,
        lambda params: [not match for match in matches(params, paths)],
        "named in not_paths",
    )


def only_paths(*paths: str, base: Groups = "layer") -> GroupsFn:
    """Leaves all parameters free but those that are named.

    For the papers' final homogeneous subnet, name the last layer and the homogeneous
    layers (linear, ReLU) directly before it; they cannot be read off the parameters.

    Args:
      *paths: Whole path components, such as "head" or "decoder/head".
      base: Groups of the named leaves.

    Returns:
      A callable for `groups`, which raises ValueError if a path matches no leaf.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"conv": {"kernel": jnp.ones((3, 4))}, "head": jnp.ones((4, 2))}
      >>> print(lawn.describe(params, lawn.groups.only_paths("head", base="leaf")))
      group  norms  elements  leaves
      head       1         8  head (4, 2)
      <BLANKLINE>
      free         elements  why
      conv/kernel        12  not named in only_paths

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 2.1 and eq. 1.
    """
    chosen = lambda params: matches(params, paths)  # noqa: E731
    return _only(base, chosen, "not named in only_paths")


def _only(
    base: Groups, chosen: Callable[[PyTree], list[bool]], reason: str
) -> GroupsFn:
    def groups(params: PyTree) -> PyTree:
        labels = zip(labels_of(base, params), chosen(params), strict=True)
        return jax.tree.unflatten(
            jax.tree.structure(params),
            [label if keep else Free(reason) for label, keep in labels],
        )

    return groups


def matches(params: PyTree, paths: tuple[str, ...]) -> list[bool]:
    names = [f"/{leaf.name}/" for leaf in leaves_of(params)]
    for path in paths:
        if names and not any(f"/{path}/" in name for name in names):
            known = ", ".join(name.strip("/") for name in names)
            raise ValueError(f"No leaf has {path!r} in its path. Leaves: {known}")
    return [any(f"/{path}/" in name for path in paths) for name in names]
