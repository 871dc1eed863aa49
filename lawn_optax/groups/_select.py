# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Helpers that make the `groups` argument."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lawn_optax._types import Groups, GroupsFn, PyTree
from lawn_optax.groups._labels import (
    Free,
    PerSlice,
    label_tree,
    labels_of,
    leaf_paths,
    neuron_labels,
    path_string,
)

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


def stacked(*paths: str, axis: int = 0, base: Groups = "layer") -> GroupsFn:
    """One norm per index of a stacked axis, such as that of scanned layers or experts.

    Args:
      *paths: Paths of the stacked leaves; without any, all leaves are stacked.
      axis: The stacked axis.
      base: Groups of the leaves within one slice, as if they had no stacked axis, and
        groups of all other leaves.

    Returns:
      A callable for `groups`.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"blocks": {"kernel": jnp.ones((6, 3, 3)), "bias": jnp.ones((6, 3))}}
      >>> print(lawn.describe(params, lawn.groups.stacked("blocks")))
      group   norms  elements  leaves
      blocks      6        72  blocks/bias (6, 3), blocks/kernel (6, 3, 3)
    """

    def groups(params: PyTree) -> PyTree:
        chosen = _matches(params, paths) if paths else [True] * len(leaf_paths(params))
        leaves, treedef = jax.tree.flatten(params)
        slices = [
            jax.ShapeDtypeStruct(
                tuple(np.delete(np.shape(x), axis)), jnp.result_type(x)
            )
            if inside and np.ndim(x)
            else x
            for x, inside in zip(leaves, chosen, strict=True)
        ]
        labels = labels_of(base, treedef.unflatten(slices))
        return treedef.unflatten(
            _stack(label, x, axis) if inside else label
            for label, x, inside in zip(labels, leaves, chosen, strict=True)
        )

    return groups


def _stack(label: Any, leaf: Any, axis: int) -> Any:
    if label is None or isinstance(label, Free):
        return label
    if not np.ndim(leaf):
        return Free("no axis to slice")
    axis = range(np.ndim(leaf))[axis]
    if not isinstance(label, PerSlice):
        return PerSlice(label, (axis,))
    kept = [range(np.ndim(leaf) - 1)[a] for a in label.axes]
    return PerSlice(label.label, (axis, *(a + (a >= axis) for a in kept)))


def only_matrices(base: Groups = "layer") -> GroupsFn:
    """Leaves biases, norm layers' scales and other vectors free.

    Args:
      base: Groups of the leaves with two axes or more.

    Returns:
      A callable for `groups`.
    """
    return _only(
        base,
        lambda params: [np.ndim(leaf) > 1 for _, leaf in leaf_paths(params)],
        "not a matrix",
    )


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
        lambda params: [not match for match in _matches(params, paths)],
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
    chosen = lambda params: _matches(params, paths)  # noqa: E731
    return _only(base, chosen, "not named in only_paths")


def _only(
    base: Groups, chosen: Callable[[PyTree], list[bool]], reason: str
) -> GroupsFn:
    def groups(params: PyTree) -> PyTree:
        labels = zip(labels_of(base, params), chosen(params), strict=True)
        kept = iter([label if keep else Free(reason) for label, keep in labels])
        return label_tree(params, lambda path, leaf: next(kept))

    return groups


def _matches(params: PyTree, paths: tuple[str, ...]) -> list[bool]:
    names = [f"/{path_string(path)}/" for path, _ in leaf_paths(params)]
    for path in paths:
        if names and not any(f"/{path}/" in name for name in names):
            known = ", ".join(name.strip("/") for name in names)
            raise ValueError(f"No leaf has {path!r} in its path. Leaves: {known}")
    return [any(f"/{path}/" in name for path in paths) for name in names]
