# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""A label for each leaf: leaves with equal labels share a norm.

Labels come from paths and shapes alone, never from values, so the same code serves
concrete arrays, tracers and `jax.ShapeDtypeStruct`.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from lawn_optax._types import Groups, GroupsFn, PyTree, check_static


@dataclasses.dataclass(frozen=True)
class PerSlice:
    """A label for one norm per index of the kept `axes` instead of a single norm."""

    label: Hashable
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Free:
    """A label that leaves its leaf free, with the reason that `describe` prints."""

    reason: str


def leaf_paths(params: PyTree) -> list[tuple[tuple[Any, ...], Any]]:
    """(key path, leaf) pairs, without boxes around one array (nnx, Partitioned)."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    below = collections.Counter(
        path[:k] for path, _ in leaves for k in range(len(path))
    )

    def unboxed(path: tuple[Any, ...]) -> tuple[Any, ...]:
        # In nnx.State and linen's Partitioned a path ends with `.value`, the only field
        # of its node. An Equinox field of that name has others beside it, or follows
        # an attribute.
        boxed = (
            len(path) > 1
            and isinstance(path[-1], jax.tree_util.GetAttrKey)
            and path[-1].name == "value"
            and not isinstance(path[-2], jax.tree_util.GetAttrKey)
            and below[path[:-1]] == 1
        )
        return path[:-1] if boxed else path

    return [(unboxed(path), leaf) for path, leaf in leaves]


def path_string(path: tuple[Any, ...]) -> str:
    """A readable path such as ``Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def module_path(params: PyTree, path: tuple[Any, ...]) -> str:
    """The module of a leaf: its parent, but items of a list are modules themselves."""
    if path and _is_list_item(params, path):
        return path_string(path)
    return path_string(path[:-1])


def _is_list_item(params: PyTree, path: tuple[Any, ...]) -> bool:
    last = path[-1]
    if isinstance(last, jax.tree_util.DictKey):  # nnx.State keys lists by integers
        return isinstance(last.key, int)
    if not isinstance(last, jax.tree_util.SequenceKey):
        return False
    node = params
    for key in path[:-1]:
        if isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key]
        elif isinstance(key, jax.tree_util.GetAttrKey):
            node = getattr(node, key.name)
        else:  # a node type that hides its children: one module
            return False
    return isinstance(node, list)


def label_tree(params: PyTree, label: Callable[[tuple[Any, ...], Any], Any]) -> PyTree:
    """A tree with the label ``label(path, leaf)`` for each leaf of `params`."""
    labels = [label(path, leaf) for path, leaf in leaf_paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def _layer(params: PyTree) -> PyTree:
    return label_tree(params, lambda path, _: module_path(params, path))


def _leaf(params: PyTree) -> PyTree:
    return label_tree(params, lambda path, _: path_string(path))


def _all(params: PyTree) -> PyTree:
    return label_tree(params, lambda path, _: "all")


def neuron_labels(
    params: PyTree, axis: int | tuple[int, ...] | Callable[[str], Any] = -1
) -> PyTree:
    """One norm per output unit; see `lawn_optax.groups.neuron`."""
    units: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    leaves = []
    for path, leaf in leaf_paths(params):
        name, shape = path_string(path), np.shape(leaf)
        chosen = axis(name) if callable(axis) else axis
        axes = (chosen,) if isinstance(chosen, int) else tuple(chosen)
        module, kernel = module_path(params, path), len(shape) > len(axes)
        leaves.append((module, name, shape, axes, kernel))
        if kernel:
            kept = tuple(shape[a] for a in axes)
            units.setdefault(module, []).append((name, kept))

    def label(module, name, shape, axes, kernel):
        if kernel:
            return PerSlice(name, axes)
        same = [k for k, kept in units.get(module, []) if kept == shape and shape]
        if len(same) == 1:
            return PerSlice(same[0], tuple(range(len(shape))))
        return Free("no kernel in its module has these units")

    labels = [label(*leaf) for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


_NAMED: dict[str, GroupsFn] = {
    "layer": _layer,
    "leaf": _leaf,
    "neuron": neuron_labels,
    "all": _all,
}


def labels_of(groups: Groups, params: PyTree) -> list[Any]:
    """One label per leaf of `params`, None or `Free` for free ones."""
    check_static(
        "groups",
        groups,
        "a name or a callable from the parameters to labels",
        types=(str, Callable),
    )
    if callable(groups):
        labels = groups(params)
    elif groups in _NAMED:
        labels = _NAMED[groups](params)
    else:
        raise ValueError(
            f"`groups` must be one of {', '.join(map(repr, _NAMED))} or a callable "
            f"from the parameters to labels, got {groups!r}."
        )
    # Here None is a label, not an empty subtree. A label may stand for a subtree.
    is_label = lambda x: x is None or isinstance(x, PerSlice | Free)  # noqa: E731
    try:
        full = jax.tree.map(
            lambda label, part: jax.tree.map(lambda _: _Boxed(label), part),
            labels, params, is_leaf=is_label,
        )  # fmt: skip
        boxes = jax.tree.structure(params).flatten_up_to(full)
    except ValueError as error:
        raise ValueError(
            "The labels of `groups` must have the tree structure of the parameters, or "
            f"a prefix of it, got\n  labels: {jax.tree.structure(labels)}\n"
            f"  params: {jax.tree.structure(params)}"
        ) from error
    return [box.label for box in boxes]


@dataclasses.dataclass(frozen=True)
class _Boxed:  # keeps None and PerSlice leaves of a tree
    label: Any
