# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Which leaves share one norm, decided from paths and shapes alone.

A grouping is static: it is resolved while tracing, never from parameter values, so
the same code serves concrete arrays, tracers and ``jax.ShapeDtypeStruct``.
"""

import collections
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
GroupsFn = Callable[[PyTree], PyTree]
Groups = str | GroupsFn


@dataclasses.dataclass(frozen=True)
class PerSlice:
    """A label with one norm per index of the kept ``axes`` instead of one norm."""

    label: Hashable
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Free:
    """A label that leaves its leaf free, with the reason that `describe` prints."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Block:
    """Leaves that share a norm, or one norm per slice."""

    name: str
    leaves: tuple[int, ...]  # positions among the flattened parameters
    axes: tuple[tuple[int, ...], ...]  # per leaf: the axes kept, () for one norm
    shape: tuple[int, ...]  # the sizes of the kept axes in that order; () is one norm
    start: int  # where its norms begin in the vector of all norms
    free: bool = False  # never constrained; LAMB has a trust ratio for such leaves, too

    @property
    def size(self) -> int:
        """How many norms the block has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Grouping:
    """All blocks of a parameter tree, and the leaves that belong to none."""

    treedef: Any
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    real_sizes: tuple[int, ...]  # elements per leaf, a complex one counted twice
    blocks: tuple[Block, ...]
    free: tuple[tuple[int, str], ...]  # (leaf, reason)
    dtype: Any  # of the vector of norms

    @property
    def num_norms(self) -> int:
        """Length of the vector of all norms."""
        return sum(block.size for block in self.blocks)

    @property
    def block_sizes(self) -> list[int]:
        """Real elements of each block."""
        return [sum(self.real_sizes[i] for i in block.leaves) for block in self.blocks]

    @functools.cached_property
    def fingerprint(self) -> int:
        """32 bits that differ between groupings, whatever the groups are called."""
        text = repr([[(self.paths[i], a) for i, a in zip(b.leaves, b.axes, strict=True)]
                     for b in self.blocks])  # fmt: skip
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def flatten(self, tree: PyTree, name: str) -> list[Any]:
        """Leaves of a tree shaped like the parameters, `absent` ones included."""
        try:
            return self.treedef.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must have the tree structure of `params`, got\n"
                f"  {name}: {jax.tree.structure(tree)}\n  params: {self.treedef}"
            ) from error

    def with_free_leaves(self) -> "Grouping":
        """The same with a block of its own for each free leaf, after the others."""
        alone = [
            Block(self.paths[i], (i,), ((),), (), self.num_norms + k, free=True)
            for k, (i, _) in enumerate(self.free)
        ]
        return dataclasses.replace(self, blocks=(*self.blocks, *alone), free=())


def absent(leaf: Any) -> bool:
    """Whether a None, MaskedNode or other empty container stands for a leaf."""
    return not jax.tree.leaves(leaf)


def leaf_paths(params: PyTree) -> list[tuple[tuple[Any, ...], Any]]:
    """(key path, leaf) pairs, seeing through boxes of one array (nnx, Partitioned)."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    below = collections.Counter(
        path[:k] for path, _ in leaves for k in range(len(path))
    )

    def unboxed(path: tuple[Any, ...]) -> tuple[Any, ...]:
        # nnx.State and linen's Partitioned end a path with `.value`, alone there. An
        # Equinox field of that name has fields beside it, or follows an attribute.
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
    """A tree of labels, one call of ``label(path, leaf)`` per leaf of ``params``."""
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
    """One label per leaf of ``params``, None or `Free` for free ones."""
    if isinstance(groups, str):
        if groups not in _NAMED:
            raise ValueError(
                f"`groups` must be one of {', '.join(map(repr, _NAMED))} or a callable "
                f"from the parameters to labels, got {groups!r}"
            )
        labels = _NAMED[groups](params)
    elif callable(groups):
        labels = groups(params)
    else:
        raise TypeError(
            "`groups` must be a name or a callable from the parameters to labels, got "
            f"{type(groups).__name__}. It is static: under `optax.inject_hyperparams` "
            "list it in `static_args`."
        )
    # None is a label here, not an empty subtree; a label may stand for a whole subtree.
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


def resolve(groups: Groups, params: PyTree) -> Grouping:
    """The grouping of ``params``; raises if there are leaves and all are free."""
    leaves = leaf_paths(params)
    paths = tuple(path_string(path) for path, _ in leaves)
    shapes = tuple(tuple(np.shape(leaf)) for _, leaf in leaves)
    dtypes = [jnp.result_type(leaf) for _, leaf in leaves]
    real_sizes = tuple(
        math.prod(shape) * (2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    free: dict[int, str] = {}
    members: dict[Hashable, list[tuple[int, tuple[int, ...]]]] = {}
    for i, label in enumerate(labels_of(groups, params)):
        if not jnp.issubdtype(dtypes[i], jnp.inexact):
            free[i] = f"not floating point ({dtypes[i]})"
        elif label is None:
            free[i] = "left free by `groups`"
        elif isinstance(label, Free):
            free[i] = label.reason
        else:
            axes = label.axes if isinstance(label, PerSlice) else ()
            key = label.label if isinstance(label, PerSlice) else label
            members.setdefault(key, []).append((i, _normal(axes, shapes[i], paths[i])))

    blocks: list[Block] = []
    for key, group in members.items():
        name = str(key) or "/"
        if any(block.name == name for block in blocks):  # such as 1 and "1"
            name = repr(key)
        kept = {tuple(shapes[i][a] for a in axes) for i, axes in group}
        if len(kept) > 1:
            raise ValueError(
                f"The leaves of group {name!r} must have kept axes of the same sizes, "
                "got " + ", ".join(f"{paths[i]}: {shapes[i]} keeps {axes}"
                                   for i, axes in group)
            )  # fmt: skip
        (shape,) = kept
        units = math.prod(shape)
        elements = sum(real_sizes[i] for i, _ in group) // max(units, 1)
        if units == 0 or elements < 2:
            reason = "one element" if units and elements else "no elements"
            free.update((i, f"{reason}: no tangent direction") for i, _ in group)
            continue
        start = blocks[-1].start + blocks[-1].size if blocks else 0
        members_, axes_ = zip(*group, strict=True)
        blocks.append(Block(name, members_, axes_, shape, start))

    if leaves and not blocks:
        lines = "\n".join(f"  {paths[i]}: {free[i]}" for i in sorted(free))
        raise ValueError(
            "No parameter is constrained: every leaf is free. Choose other `groups`.\n"
            + lines
        )
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    return Grouping(
        treedef=jax.tree.structure(params),
        paths=paths,
        shapes=shapes,
        real_sizes=real_sizes,
        blocks=tuple(blocks),
        free=tuple(sorted(free.items())),
        dtype=np.dtype(jnp.finfo(jnp.result_type(jnp.float32, *floating)).dtype),
    )


def _normal(axes: tuple[int, ...], shape: tuple[int, ...], path: str) -> tuple:
    try:
        return tuple(range(len(shape))[axis] for axis in axes)
    except IndexError:
        raise ValueError(
            f"`groups` keeps the axes {axes} of {path}, whose shape is {shape}"
        ) from None
