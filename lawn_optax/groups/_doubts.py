# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Groups that are probably not meant, such as one norm for a stack of layers."""

import warnings
from collections.abc import Iterator, Sequence

from lawn_optax.groups._matrices import MATRICES, VECTORS
from lawn_optax.groups._resolve import Block, Grouping

Shape = tuple[int, ...]


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
    for path, axis, leaves in _stacks(
        grouping.paths, grouping.modules, grouping.slices
    ):
        kept = [ours[i] for i in leaves if i in ours]
        whole = all(grouping.slices[i] == grouping.shapes[i] for i in leaves)
        if kept and whole and not any(axis in axes for axes in kept):
            stacked.update(leaves)
            size = grouping.shapes[leaves[0]][axis]
            arguments = [f'"{path}"'] if path else []
            arguments += [f"axis={axis}"] if axis else []
            lines.append(
                f"{path or 'All modules'}: axis {axis} has {size} entries in every "
                f"array, as in {size} stacked layers, which here share their norms. "
                f"For one norm per layer: `groups.stacked({', '.join(arguments)})`."
            )
    mixed = [
        (block, line)
        for block in found
        if not stacked.intersection(block.leaves) and (line := _mixed(grouping, block))
    ]
    lines += [line for _, line in mixed[:3]]
    if rest := [block.name for block, _ in mixed[3:]]:
        lines.append(f"Likewise: {', '.join(rest)}.")
    return lines


def stacked_axes(
    names: Sequence[str], modules: Sequence[str], shapes: Sequence[Shape | None]
) -> list[int | None]:
    """The axis of each leaf that looks like that of stacked layers."""
    axes: list[int | None] = [None] * len(names)
    for _, axis, leaves in _stacks(names, modules, shapes):
        for i in leaves:
            axes[i] = axis
    return axes


def _stacks(
    names: Sequence[str], modules: Sequence[str], shapes: Sequence[Shape | None]
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(path, axis, leaves) of the largest subtrees that look like stacked layers.

    Leaves without a shape have no norm and do not count.
    """
    subtrees: dict[str, list[int]] = {}
    known: dict[int, Shape] = {i: s for i, s in enumerate(shapes) if s is not None}
    for i in known:
        parts = names[i].split("/")
        for k in range(len(parts)):
            subtrees.setdefault("/".join(parts[:k]), []).append(i)
    deepest = {tuple(leaves): path for path, leaves in subtrees.items()}
    seen: set[int] = set()
    for leaves, path in sorted(deepest.items(), key=lambda item: -len(item[0])):
        if seen.isdisjoint(leaves):
            axis = _common_axis(leaves, names, modules, known)
            if axis is not None:
                seen.update(leaves)
                yield path, axis, leaves


def _common_axis(
    leaves: tuple[int, ...],
    names: Sequence[str],
    modules: Sequence[str],
    shapes: dict[int, Shape],
) -> int | None:
    """The axis of one size in all leaves of two or more modules, if it is a stack's.

    A stack of kernels and of vectors has arrays with two axes and with more. It has no
    kernel with two, and no bias that fits its kernel as it is, because the stacked axis
    comes first or second in both.
    """
    counts = {len(shapes[i]) for i in leaves}
    if len({modules[i] for i in leaves}) < 2 or min(counts) < 2 or len(counts) < 2:
        return None
    kernels = [i for i in leaves if names[i].rpartition("/")[2].lower() in MATRICES]
    if any(len(shapes[i]) == 2 for i in kernels):
        return None
    pairs = [
        (shapes[i], shapes[k])
        for k in leaves
        for i in leaves
        if modules[i] == modules[k] and 1 < len(shapes[i]) < len(shapes[k])
    ]
    if pairs and all(_fits(*pair) for pair in pairs):
        return None
    for axis in (0, 1):
        sizes = {shapes[i][axis] for i in leaves}
        if len(sizes) == 1 and min(sizes) > 1:
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
    if all(
        _is_suffix(long[i], long[k]) or _is_suffix(long[k], long[i])
        for i in arrays
        for k in arrays
    ):
        return ""
    listed = ", ".join(f"{grouping.paths[i]} {shapes[i]}" for i in arrays[:3])
    listed += f" and {len(arrays) - 3} more" if len(arrays) > 3 else ""
    line = f"{block.name}: one norm for {listed}. "
    counts = {len(shapes[i]) for i in arrays}
    smaller = [i for i in arrays if len(shapes[i]) == min(counts)]
    names = {grouping.paths[i].rpartition("/")[2].lower() for i in smaller}
    vectors = len(counts) > 1 and names <= VECTORS | {"b"}
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
    return line + 'For one norm per array: `groups="leaf"`.'


def _fits(bias: Shape, kernel: Shape) -> bool:
    """Whether a kernel and its bias may have these shapes."""
    long = tuple(n for n in bias if n != 1)
    return _is_suffix(bias, kernel) or long in ((), kernel[:1], kernel[-1:])


def _is_suffix(small: Shape, large: Shape) -> bool:
    return len(small) <= len(large) and large[len(large) - len(small) :] == small
