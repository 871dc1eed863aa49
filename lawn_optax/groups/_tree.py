# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The leaves of a parameter tree: their paths, and the modules that they belong to."""

import functools
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from lawn_optax._types import PyTree

# Nodes around one array, by the library and the class that they derive from: nnx's
# variables, linen's Partitioned, Haliax's named arrays. Their own key is no part of a
# path, so that a tree has the same groups with them and without.
BOXES = {
    ("flax", "Variable"),
    ("flax", "VariableState"),
    ("flax", "AxisMetadata"),
    ("haliax", "NamedArray"),
}


class Leaf(NamedTuple):
    """A leaf and where it is."""

    name: str  # its path, such as "decoder/Dense_0/kernel"
    module: str  # path of the module whose leaves "layer" joins
    value: Any
    kinds: tuple[str, ...]  # classes of the box around it, or ()
    owned: bool  # whether an attribute of an nnx module holds it

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf; () for what has none."""
        return tuple(np.shape(self.value))

    @property
    def last(self) -> str:
        """The last component of its path, in lower case."""
        return self.name.rpartition("/")[2].lower()


def path_string(path: tuple[Any, ...]) -> str:
    """A readable path such as ``Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_of(params: PyTree) -> list[Leaf]:
    """All leaves in the order of `jax.tree.leaves`."""
    found: list[Leaf] = []

    def walk(node, names, own, kinds, owned):  # own: whether it is a module by itself
        children = _children(node)
        if len(children) == 1 and not children[0][0]:
            module = names if own else names[:-1]
            found.append(Leaf("/".join(names), "/".join(module), node, kinds, owned))
            return
        classes = _classes(type(node))
        if len(children) == 1 and BOXES & classes:
            mine = tuple(name for _, name in classes)
            walk(children[0][1], names, own, mine, owned)
            return
        owned = owned or ("flax", "Pytree") in classes
        for (key,), child in children:
            parts = _parts(key, child)
            item = _is_item(node, key) or (len(parts) > 1 and parts[-1].isdigit())
            walk(child, (*names, *parts), item, kinds, owned)

    walk(params, (), False, (), False)
    return found


def _children(node: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """(keys, child) pairs; the node itself, without a key, if it is a leaf."""
    flat = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return flat[0]


@functools.cache
def _classes(kind: type) -> frozenset[tuple[str, str]]:
    """(library, name) of a class and of the classes that it derives from."""
    return frozenset((c.__module__.partition(".")[0], c.__name__) for c in kind.__mro__)


def _parts(key: Any, child: Any) -> tuple[str, ...]:
    """The components that a key adds to a path.

    The names of flattened trees are split: ``("dense", "kernel")``, "dense/kernel",
    "layers.0.weight". A module may have a dot in its name, so only names of leaves are
    split at dots.
    """
    text = path_string((key,))
    name = getattr(key, "key", None)
    if isinstance(name, tuple):
        return tuple(map(str, name)) or (text,)
    if isinstance(name, str) and jax.tree_util.all_leaves([child]):
        return tuple(part for part in re.split("[./]", text) if part) or (text,)
    return (text,)


def _is_item(node: Any, key: Any) -> bool:
    """Whether a key leads to an item of a list, which is a module by itself."""
    if isinstance(key, jax.tree_util.DictKey):  # nnx.State keys lists by integers
        return isinstance(key.key, int)
    return isinstance(key, jax.tree_util.SequenceKey) and not isinstance(node, tuple)
