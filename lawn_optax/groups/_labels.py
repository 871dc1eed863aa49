# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""A label for each leaf: leaves with equal labels share a norm.

Labels come from paths and shapes alone, never from values, so the same code serves
concrete arrays, tracers and `jax.ShapeDtypeStruct`.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax

from lawn_optax._types import Groups, GroupsFn, PyTree, check_static
from lawn_optax.groups._matrices import judge
from lawn_optax.groups._tree import Leaf, leaves_of


@dataclasses.dataclass(frozen=True)
class PerSlice:
    """A label for one norm per index of the kept `axes` instead of a single norm."""

    label: Hashable
    axes: tuple[int, ...]
    stacked: int = 0  # how many of the axes, from the first on, stack whole arrays
    note: str = ""  # what `describe` says about the leaf


@dataclasses.dataclass(frozen=True)
class Free:
    """A label that leaves its leaf free, with the reason that `describe` prints."""

    reason: str


class Found(str):
    """A label that was found, not chosen: `describe` and `init` may doubt it."""


def label_tree(params: PyTree, label: Callable[[Leaf], Any]) -> PyTree:
    """A tree with a label for each leaf of `params`."""
    labels = [label(leaf) for leaf in leaves_of(params)]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def _layer(params: PyTree) -> PyTree:
    leaves = leaves_of(params)
    below = "params" if all(leaf.name.startswith("params/") for leaf in leaves) else ""
    root = [leaf for leaf in leaves if leaf.module == below]
    alone = {leaf.name for leaf in root if _is_alone(leaf, root, len(leaves))}
    return label_tree(
        params,
        lambda leaf: Found(leaf.name if leaf.name in alone else leaf.module),
    )


def _is_alone(leaf: Leaf, root: list[Leaf], size: int) -> bool:
    """Whether a leaf at the root is a scalar, such as a temperature, and no bias."""
    if math.prod(leaf.shape) != 1:
        return False
    kernels = [x.shape for x in root if len(x.shape) > 1 and math.prod(x.shape) > 1]
    if kernels:
        may_be_bias = leaf.last.startswith("b") or leaf.last.isdigit()
        return not (may_be_bias and any(1 in (s[0], s[-1]) for s in kernels))
    return len(root) < size  # the root has modules, but no kernel of its own


def _leaf(params: PyTree) -> PyTree:
    return label_tree(params, lambda leaf: Found(leaf.name))


def _all(params: PyTree) -> PyTree:
    return label_tree(params, lambda _: "all")


def neuron_labels(
    params: PyTree, axis: int | tuple[int, ...] | Callable[[str], Any] = -1
) -> PyTree:
    """One norm per output unit; see `lawn_optax.groups.neuron`."""
    leaves = leaves_of(params)
    units: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    kernels: dict[int, PerSlice] = {}
    verdicts = judge(leaves, [leaf.shape for leaf in leaves])
    for i, (leaf, (vector, _)) in enumerate(zip(leaves, verdicts, strict=True)):
        chosen = axis(leaf.name) if callable(axis) else axis
        axes = (chosen,) if isinstance(chosen, int) else tuple(chosen)
        if not vector and len(leaf.shape) > len(axes):
            axes = normal_axes(axes, leaf.shape, leaf.name)
            kernels[i] = PerSlice(Found(leaf.name), axes)
            kept = tuple(leaf.shape[a] for a in axes)
            units.setdefault(leaf.module, []).append((leaf.name, kept))

    def label(leaf):
        same = [
            PerSlice(Found(name), axes)
            for name, kept in units.get(leaf.module, [])
            if (axes := _unit_axes(leaf.shape, kept))
        ]
        if len(same) == 1:
            return same[0]
        return Free("no kernel in its module has these units")

    labels = [kernels[i] if i in kernels else label(x) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(jax.tree.structure(params), labels)


def _unit_axes(shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a bias that run over the units, () if it has not one entry for each.

    Its other axes have one element: Equinox's convolutions have biases (units, 1, 1).
    """
    axes: list[int] = []
    for a, size in enumerate(shape):
        if len(axes) < len(kept) and size == kept[len(axes)]:
            axes.append(a)
        elif size != 1:
            return ()
    return tuple(axes) if len(axes) == len(kept) else ()


def normal_axes(
    axes: tuple[int, ...], shape: tuple[int, ...], name: str
) -> tuple[int, ...]:
    """The axes counted from the first one."""
    try:
        return tuple(range(len(shape))[axis] for axis in axes)
    except IndexError:
        raise ValueError(
            f"`groups` keeps the axes {axes} of {name}, whose shape is {shape}"
        ) from None


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
