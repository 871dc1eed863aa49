# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Groups that are probably not meant, such as one norm for a stack of layers."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lawn_optax.groups._matrices import (
    MATRICES,
    VECTORS,
    is_called_matrix,
    is_vector,
    judge,
)
from lawn_optax.groups._resolve import Block, Grouping
from lawn_optax.groups._tree import Leaf

Shape = tuple[int, ...]

# One matrix that is kept in two arrays: the parts of a recurrent cell for its input and
# for its state, which act as one on both; the parts of a complex matrix.
HALVES = {"ih", "hh"}, {"re", "im"}, {"real", "imag"}

# Along the first axis of a 1D convolution's kernel. Such sizes are no sign of a stack.
WIDTHS = {2, 3, 5, 7, 9}


class _Stack(NamedTuple):
    """Subtrees whose arrays look like those of stacked layers."""

    paths: tuple[str, ...]  # () for all modules
    axis: int
    leaves: tuple[int, ...]
    sure: bool  # whether it has vectors that only a stack makes arrays of two axes
    apart: bool = False  # whether the matrices of one module need norms of their own


def warn_of_doubts(grouping: Grouping) -> None:
    """One warning with all doubts; Python shows equal ones once."""
    if found := doubts(grouping):
        warnings.warn(
            "Some groups of `lawn_optax` are probably not what you want:\n  "
            + "\n  ".join(found)
            + '\nTo keep them: `warnings.filterwarnings("ignore", "Some groups of")`.',
            stacklevel=2,
        )


def doubts(grouping: Grouping) -> list[str]:
    """A line with a remedy for each group that is probably not meant.

    Groups that the user has labelled are not doubted.
    """
    found = [block for block in grouping.blocks if block.found]
    ours = {
        i: axes
        for block in found
        for i, axes in zip(block.leaves, block.axes, strict=True)
    }
    lines, stacked = [], set()
    stacks = _stacks(grouping.members, grouping.slices)
    for paths, axis, leaves, sure, apart in stacks:
        kept = [ours[i] for i in leaves if i in ours]
        whole = {_whole_axis(grouping, i, ours.get(i, ()), axis) for i in leaves}
        axis, inside = min(whole)
        if kept and len(whole) == 1 and not any(axis in axes for axes in kept):
            stacked.update(leaves)
            size = grouping.shapes[leaves[0]][axis]
            arguments = [f'"{path}"' for path in paths]
            arguments += [f"axis={axis}"] if axis else []
            arguments += ['base="leaf"'] if apart else []
            call = f"`groups.stacked({', '.join(arguments)})`"
            how = ", as the `base` of your `groups.stacked`" if inside else ""
            name = ", ".join(paths) or "All modules"
            line = f"{name}: axis {axis} has {size} entries in every "
            line += f"array, as in {size} stacked layers"
            if sure:
                line += ", which here share their norms. For one norm per layer"
            else:
                line += " or experts. If it is their axis, for one norm each"
            line += f"{how}: {call}."
            lines.append((name, line))
    mixed = [
        (block.name, line)
        for block in found
        if not stacked.intersection(block.leaves) and (line := _mixed(grouping, block))
    ]
    return [*_shortly(lines), *_shortly(mixed)]


def _whole_axis(
    grouping: Grouping, i: int, kept: tuple[int, ...], axis: int
) -> tuple[int, bool]:
    """The axis of a leaf that is `axis` of its slices, and whether it has slices."""
    shape, part = grouping.shapes[i], grouping.slices[i] or ()
    stacked = kept[: len(shape) - len(part)]  # The others are those of neurons.
    left = [a for a in range(len(shape)) if a not in stacked]
    return left[axis], bool(stacked)


def _shortly(lines: list[tuple[str, str]]) -> list[str]:
    """The first of (name, line), and the names of the others."""
    rest = [f"Likewise: {', '.join(name for name, _ in lines[3:])}."]
    return [line for _, line in lines[:3]] + (rest if lines[3:] else [])


def stacked_axes(
    leaves: Sequence[Leaf], shapes: Sequence[Shape | None]
) -> list[int | None]:
    """The axis of each leaf that is surely that of stacked layers."""
    axes: list[int | None] = [None] * len(leaves)
    for stack in _stacks(leaves, shapes):
        for i in stack.leaves if stack.sure else ():
            axes[i] = stack.axis
    return axes


def _stacks(every: Sequence[Leaf], shapes: Sequence[Shape | None]) -> Iterator[_Stack]:
    """The largest subtrees of two or more modules that look like stacked layers.

    Leaves without a shape have no norm and do not count.
    """
    subtrees: dict[str, list[int]] = {}
    known: dict[int, Shape] = {i: s for i, s in enumerate(shapes) if s is not None}
    for i in known:
        parts = every[i].name.split("/")
        for k in range(len(parts)):
            subtrees.setdefault("/".join(parts[:k]), []).append(i)
    deepest = {tuple(leaves): path for path, leaves in subtrees.items()}
    seen: set[int] = set()
    for leaves, path in sorted(deepest.items(), key=lambda item: -len(item[0])):
        pairs = [(every[i], known[i]) for i in leaves]
        if len({leaf.module for leaf, _ in pairs}) > 1 and seen.isdisjoint(leaves):
            axis = _axis_of_vectors(pairs)
            sure = axis is not None and _has_vectors(pairs, axis)
            if axis is None:
                axis = _axis_of_matrices(path, pairs)
            if axis is not None:
                seen.update(leaves)
                yield _Stack((path,) if path else (), axis, leaves, sure)
    for leaves, path in sorted(deepest.items(), key=lambda item: len(item[0])):
        stack = _beside_router(path, [(i, every[i], known[i]) for i in leaves])
        if stack and seen.isdisjoint(leaves):
            seen.update(leaves)
            yield stack


def _beside_router(path: str, leaves: list[tuple[int, Leaf, Shape]]) -> _Stack | None:
    """The arrays that are stacked beside a router, a matrix to choose one of them.

    They may be those of one module or of several. The router has no stacked axis, so
    that the subtree is no stack.
    """
    kernels = [(leaf, shape) for _, leaf, shape in leaves if len(shape) > 2]
    counts = {shape[0] for _, shape in kernels}
    if len(kernels) < 2 or len(counts) > 1:
        return None
    (count,) = counts
    modules = [leaf.module for leaf, _ in kernels]
    experts = {
        i: (leaf, shape)
        for i, leaf, shape in leaves
        if leaf.module in modules and len(shape) > 1 and shape[0] == count
    }
    pairs = [*experts.values()]
    if 0 not in (_axis_of_vectors(pairs), _axis_of_matrices(path, pairs)):
        return None
    if any("att" in module[len(path) :].lower() for module in modules):
        return None  # its heads, which a small matrix may gate
    sizes = {size for _, shape in pairs for size in shape}
    rest = [(leaf, shape) for i, leaf, shape in leaves if i not in experts]
    if not any(len(s) == 2 and count in s and sizes.issuperset(s) for _, s in rest):
        return None
    names = dict.fromkeys(
        leaf.name if any(_is_below(leaf.module, x) for x, _ in rest) else leaf.module
        for leaf, _ in pairs
    )
    return _Stack((*names,), 0, (*experts,), False, len({*modules}) < len(modules))


def _is_below(module: str, leaf: Leaf) -> bool:
    return not module or f"{leaf.name}/".startswith(f"{module}/")


def _axis_of_vectors(leaves: list[tuple[Leaf, Shape]]) -> int | None:
    """The axis of one size in all leaves, if it is that of kernels and of vectors.

    A stack of them has arrays with two axes and with more. It has no kernel with two,
    and no bias that fits its kernel as it is, because the stacked axis comes first or
    second in both.
    """
    counts = {len(shape) for _, shape in leaves}
    kernels = [shape for leaf, shape in leaves if leaf.last in MATRICES]
    if min(counts) < 2 or len(counts) < 2 or any(len(s) == 2 for s in kernels):
        return None
    pairs = [(small, large) for _, small, large in _pairs(leaves)]
    if pairs and all(_fits(*pair) for pair in pairs):
        return None
    for axis in (0, 1):
        sizes = {shape[axis] for _, shape in leaves}
        # The size of last axes is that of the features.
        ends = {shape[-1] for _, shape in leaves if len(shape) > axis + 1}
        if len(sizes) == 1 and min(sizes) > 1 and not sizes & ends:
            return axis
    return None


def _has_vectors(leaves: list[tuple[Leaf, Shape]], axis: int) -> bool:
    """Whether a leaf is a vector without the axis, by a name or by a kernel beside."""
    return any(is_vector(leaf) for leaf, _ in leaves) or any(
        _fits(*(s[:axis] + s[axis + 1 :] for s in pair)) and not is_called_matrix(leaf)
        for leaf, *pair in _pairs(leaves)
    )


def _pairs(leaves: list[tuple[Leaf, Shape]]) -> list[tuple[Leaf, Shape, Shape]]:
    """(leaf, its shape, a shape with more axes) for two leaves of one module."""
    return [
        (leaf, small, large)
        for leaf, small in leaves
        for other, large in leaves
        if leaf.module == other.module and 1 < len(small) < len(large)
    ]


def _axis_of_matrices(path: str, leaves: list[tuple[Leaf, Shape]]) -> int | None:
    """The axis of one size in all leaves, if they have as many axes, three or more.

    Convolutions, and attention by heads, have as many axes without a stack. There, the
    common size is that of a small kernel or of the features, so it occurs twice in a
    shape or is the largest of it. Projections of the same features agree in axis 1,
    which counts the heads, but also in axis 0.
    """
    shapes = [shape for _, shape in leaves]
    if len({*map(len, shapes)}) > 1 or len(shapes[0]) < 3:
        return None
    if "att" in path.rpartition("/")[2].lower():
        return None
    if any("conv" in leaf.name.lower() for leaf, _ in leaves):
        return None
    for axis in (0, 1):
        size = shapes[0][axis]
        if (
            size > 1
            and size not in WIDTHS
            and all(s[axis] == size for s in shapes)
            and all(s.count(size) == 1 and size < max(s) for s in shapes)
            and (axis == 0 or len({s[0] for s in shapes}) > 1)
        ):
            return axis
    return None


def _mixed(grouping: Grouping, block: Block) -> str:
    """The remedy, if arrays of the group do not fit as a kernel and its bias do."""
    shapes = {
        i: tuple(n for a, n in enumerate(grouping.shapes[i]) if a not in kept)
        for i, kept in zip(block.leaves, block.axes, strict=True)
    }
    long = {i: tuple(n for n in shape if n != 1) for i, shape in shapes.items()}
    arrays = [i for i in block.leaves if len(long[i]) > 1]
    names = {i: grouping.members[i].last for i in arrays}
    if len(arrays) < 2 or _are_halves([*names.values()]):
        return ""
    fit = all(
        _is_suffix(long[i], long[k]) or _is_suffix(long[k], long[i])
        for i in arrays
        for k in arrays
    )
    members = [grouping.members[i] for i in block.leaves]
    verdicts = judge(members, [shapes[i] for i in block.leaves])
    if fit and verdicts.count(("", "")) < 2:
        return ""
    listed = ", ".join(f"{grouping.paths[i]} {shapes[i]}" for i in arrays[:3])
    listed += f" and {len(arrays) - 3} more" if len(arrays) > 3 else ""
    line = f"{block.name}: one norm for {listed}. "
    counts = {len(shapes[i]) for i in arrays}
    smaller = [i for i in arrays if len(shapes[i]) == min(counts)]
    vectors = len(counts) > 1 and {names[i] for i in smaller} <= VECTORS | {"b"}
    for axis in (0, 1):
        sizes = {shapes[i][axis] for i in arrays if len(shapes[i]) > axis}
        if not block.shape and len(sizes) == 1 and (vectors or min(counts) > 2):
            path = "" if block.name == "/" else f'"{block.name}", '
            along = f"axis={axis}, " if axis else ""
            base = "" if vectors else 'base="leaf", '
            call = f"{path}{along}{base}".rstrip(", ")
            return line + (
                f"If axis {axis} stacks layers or experts: `groups.stacked({call})`; "
                'if not: `groups="leaf"`.'
            )
    if block.name == "/":
        return line + (
            "Give each layer a dict (or another node) of its own, or use "
            '`groups="leaf"`.'
        )
    return (
        line
        + f'For one norm per array: `{"base" if block.shape else "groups"}="leaf"`.'
    )


def _are_halves(names: list[str]) -> bool:
    """Whether two arrays are one matrix, by the last words of their names."""
    return len(names) == 2 and {name.rpartition("_")[2] for name in names} in HALVES


def _fits(bias: Shape, kernel: Shape) -> bool:
    """Whether a kernel and its bias may have these shapes."""
    long = tuple(n for n in bias if n != 1)
    return _is_suffix(bias, kernel) or long in ((), kernel[:1], kernel[-1:])


def _is_suffix(small: Shape, large: Shape) -> bool:
    return len(small) <= len(large) and large[len(large) - len(small) :] == small
