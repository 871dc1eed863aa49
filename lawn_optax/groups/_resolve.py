# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The groups of a parameter tree, made from the labels of its leaves.

A grouping is static: it is resolved while tracing, from shapes and never from values.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lawn_optax._types import Groups, PyTree
from lawn_optax.groups._labels import Found, Free, PerSlice, labels_of, normal_axes
from lawn_optax.groups._tree import Leaf, leaves_of

COMPLEX = (np.dtype("complex64"), np.dtype("complex128"))
NO_ARRAY = "not an array"  # why a function or a name is free

# Kinds of variables that no optimizer trains, by their names in nnx and in linen.
UNTRAINED = {
    *("BatchStat", "Cache", "Intermediate", "OptState", "RngState"),
    *("batch_stats", "cache", "intermediates"),
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Leaves that share a norm, or one norm per slice."""

    name: str
    leaves: tuple[int, ...]  # positions among the flattened parameters
    axes: tuple[tuple[int, ...], ...]  # kept axes of each leaf; () for one norm
    shape: tuple[int, ...]  # sizes of the kept axes, in that order; () is one norm
    start: int  # where its norms begin in the vector of all norms
    found: bool = False  # whether its label was found, not chosen by the user

    @property
    def size(self) -> int:
        """Number of norms of the block."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Grouping:
    """All blocks of a parameter tree, and the leaves that belong to none."""

    treedef: Any
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    real_sizes: tuple[int, ...]  # elements per leaf; a complex one counts twice
    blocks: tuple[Block, ...]
    free: tuple[tuple[int, str], ...]  # (leaf, reason)
    dtype: Any  # type of the vector of norms
    members: tuple[Leaf, ...]  # names and modules, as "layer" finds them; no values
    slices: tuple[tuple[int, ...] | None, ...]  # shapes without stacked axes; None if
    # the type of a leaf allows no norm
    notes: tuple[tuple[int, str], ...]  # (leaf, what the choice of groups says)

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
        """32 bits that identify the grouping; the names of the groups do not matter."""
        text = repr([[(self.paths[i], a) for i, a in zip(b.leaves, b.axes, strict=True)]
                     for b in self.blocks])  # fmt: skip
        digest = hashlib.sha256(text.encode()).digest()
        return int.from_bytes(digest[:4], "big", signed=True)

    def flatten(self, tree: PyTree, name: str) -> list[Any]:
        """Leaves of a tree like the parameters; some of them may be `absent`."""
        try:
            return self.treedef.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must have the tree structure of `params`, "
                + self._difference(tree)
            ) from error

    def _difference(self, tree: PyTree) -> str:
        """How a tree differs from the parameters, by paths if it does so in them."""
        names = [leaf.name for leaf in leaves_of(tree)]
        lacking = [path for path in self.paths if path not in names]
        others = [name for name in names if name not in self.paths]
        told = [
            f"{verb} {', '.join(paths[:5])}"
            + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
            for verb, paths in (("lacks", lacking), ("has besides", others))
            if paths
        ]
        if told:
            return f"but it {' and '.join(told)}."
        return f"got {jax.tree.structure(tree)} for {self.treedef}."

    def flatten_moving(
        self, updates: PyTree, params: PyTree
    ) -> tuple[list[Any], list[Any]]:
        """Leaves of updates and parameters, None for a parameter without an update."""
        leaves = self.flatten(updates, "updates")
        pairs = list(zip(leaves, jax.tree.leaves(params), strict=True))
        for path, (u, w) in zip(self.paths, pairs, strict=True):
            if not absent(u) and np.shape(u) != np.shape(w):
                raise ValueError(
                    f"The gradient of {path or '/'} must have the shape of its "
                    f"parameter, {np.shape(w)}, got {np.shape(u)}. Average gradients "
                    "over the batch or over replicas first. What takes one gradient "
                    "per example comes before, not inside: `optax.chain(optax.contrib."
                    "differentially_private_aggregate(...), lawn.wrap(optax.sgd(...)))`"
                )
        return leaves, [None if absent(u) else w for u, w in pairs]

    def free_leaves(self) -> "Grouping":
        """A grouping in which each free leaf is a block, and no other leaf is."""
        blocks = [
            Block(self.paths[i], (i,), ((),), (), start)
            for start, (i, _) in enumerate(self.free)
        ]
        return dataclasses.replace(self, blocks=tuple(blocks), free=())


def absent(leaf: Any) -> bool:
    """Whether None, a `MaskedNode` or another empty container stands for a leaf.

    Functions and names, which models of Equinox have as leaves, count as absent too.
    """
    if jax.tree_util.all_leaves([leaf]):
        return _dtype(leaf) is None
    return not jax.tree.leaves(leaf)


def _dtype(leaf: Any) -> Any:
    """The type of an array or a number, else None."""
    try:
        return jnp.result_type(leaf)
    except TypeError:
        return None


def _why_free(dtype: Any) -> str:
    """Why a leaf of this type cannot have a norm, or ""."""
    if dtype is None:
        return NO_ARRAY
    if not jnp.issubdtype(dtype, jnp.inexact):
        return f"not floating point ({dtype})"
    if jnp.finfo(dtype).bits < 16:
        return f"too few digits to keep a norm ({dtype})"
    return ""


def resolve(groups: Groups, params: PyTree) -> Grouping:
    """The grouping of `params`; raises if there are leaves and all are free."""
    leaves = leaves_of(params)
    paths = tuple(leaf.name for leaf in leaves)
    dtypes = [_dtype(leaf.value) for leaf in leaves]
    free = {i: why for i, dtype in enumerate(dtypes) if (why := _why_free(dtype))}
    shapes = tuple(
        () if dtype is None else leaf.shape
        for leaf, dtype in zip(leaves, dtypes, strict=True)
    )
    real_sizes = tuple(
        math.prod(shape) * (2 if dtype in COMPLEX else 1)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    slices = [None if i in free else shape for i, shape in enumerate(shapes)]
    notes: dict[int, str] = {}
    members: dict[Hashable, list[tuple[int, tuple[int, ...]]]] = {}
    for i, label in enumerate(labels_of(groups, params)):
        if i in free:
            continue
        if label is None:
            free[i] = "left free by `groups`"
        elif isinstance(label, Free):
            free[i] = label.reason
        else:
            axes: tuple[int, ...] = ()
            if isinstance(label, PerSlice):
                axes = normal_axes(label.axes, shapes[i], paths[i])
                stacked = axes[: label.stacked]
                own = enumerate(shapes[i])
                slices[i] = tuple(n for a, n in own if a not in stacked)
                if label.note:
                    notes[i] = label.note
                label = label.label
            members.setdefault(label, []).append((i, axes))

    blocks: list[Block] = []
    for key, group in members.items():
        name = str(key) or "/"
        if any(block.name == name for block in blocks):  # 1 and "1", for example
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
        found = isinstance(key, Found)
        blocks.append(Block(name, members_, axes_, shape, start, found))

    if leaves and not blocks:
        lines = "\n".join(f"  {paths[i]}: {free[i]}" for i in sorted(free))
        raise ValueError(
            "No parameter is constrained: every leaf is free. Choose other `groups`.\n"
            + lines
        )
    _check_trained(leaves, blocks)
    floating = [dtype for dtype in dtypes if not _why_free(dtype)]
    return Grouping(
        treedef=jax.tree.structure(params),
        paths=paths,
        shapes=shapes,
        real_sizes=real_sizes,
        blocks=tuple(blocks),
        free=tuple(sorted(free.items())),
        dtype=np.dtype(jnp.finfo(jnp.result_type(jnp.float32, *floating)).dtype),
        members=tuple(leaf._replace(value=None) for leaf in leaves),
        slices=tuple(slices),
        notes=tuple(notes.items()),
    )


def _check_trained(leaves: list[Leaf], blocks: list[Block]) -> None:
    """Raises an error if a group has statistics, a cache or an optimizer's state."""
    tops = {leaf.name.partition("/")[0] for leaf in leaves}
    for leaf in (leaves[i] for block in blocks for i in block.leaves):
        top = leaf.name.partition("/")[0]
        kinds = UNTRAINED.intersection(leaf.kinds)
        kinds |= UNTRAINED.intersection({top} if "params" in tops else ())
        if kinds:
            raise ValueError(
                f"`params` must have nothing but trained parameters, but {leaf.name} "
                f"is of the kind {min(kinds)}. Pass `nnx.state(model, nnx.Param)` of "
                "an nnx model, or `variables['params']` of a linen model."
            )


def resolve_reported(groups: Groups, params: PyTree) -> Grouping:
    """`resolve` for reports, which refuses what an optimizer gets only in part."""
    leaves = leaves_of(params)
    if any(leaf.name.startswith("opt_state/") for leaf in leaves):
        raise ValueError(
            "`params` must be the parameters alone, got an optimizer or a train state: "
            "pass `train_state.params`, or `nnx.state(model, nnx.Param)` of an nnx "
            "model, and the rest as `state`."
        )
    grouping = resolve(groups, params)
    constrained = [leaves[i] for block in grouping.blocks for i in block.leaves]
    kinds = {leaf.kinds for leaf in constrained if leaf.owned}
    if len(kinds) > 1:
        raise ValueError(
            "The nnx model has variables of several kinds, so the report cannot know "
            "which of them the optimizer trains: pass `nnx.state(model, wrt)`, with "
            "the `wrt` of the optimizer."
        )
    return grouping
