# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Which leaves are matrices, by their names and by the shapes beside them.

The number of axes is not enough. Biases of attention have two (heads, features),
biases of Equinox's convolutions three (units, 1, 1), and a stack of layers adds one.
"""

import collections
import re
from collections.abc import Sequence

from lawn_optax.groups._tree import Leaf

Shape = tuple[int, ...]

MATRICES = {"kernel", "w", "embedding"}
VECTORS = {"bias", "scale", "offset", "beta", "gamma"}
_MATRIX_WORD = r"w[a-z]?\d*|.*(kernel|weight|linear|einsum|proj|embed).*"


def is_vector(leaf: Leaf) -> bool:
    """Whether its name, or that of its module, says that a leaf is a vector."""
    named = leaf.last in VECTORS or leaf.last == "b" or "bias" in leaf.last
    return named or _is_norm_layer(leaf.module.rpartition("/")[2].lower())


def is_called_matrix(leaf: Leaf) -> bool:
    """Whether a word of its name is one that matrices have, such as "w1" or "proj"."""
    return any(re.fullmatch(_MATRIX_WORD, word) for word in leaf.last.split("_"))


def judge(leaves: Sequence[Leaf], shapes: Sequence[Shape]) -> list[tuple[str, str]]:
    """Why each leaf is no matrix, or "", and what is doubtful about that, or "".

    Args:
      leaves: All leaves.
      shapes: Their shapes without stacked axes.
    """
    modules = collections.defaultdict(list)
    for leaf, shape in zip(leaves, shapes, strict=True):
        modules[leaf.module].append((leaf, shape))
    return [
        _verdict(leaf, shape, [x for x in modules[leaf.module] if x[0] is not leaf])
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]


def _verdict(
    leaf: Leaf, shape: Shape, beside: list[tuple[Leaf, Shape]]
) -> tuple[str, str]:
    name, long = leaf.last, [n for n in shape if n != 1]
    if len(shape) < 2:
        return "not a matrix", ""
    if name in VECTORS:
        return f"not a matrix: its name is {name}", ""
    if name in MATRICES:
        return "", ""
    if any(other.last in VECTORS and s == shape for other, s in beside):
        return "not a matrix: it has the shape of the bias or scale beside it", ""
    if _is_norm_layer(leaf.module.rpartition("/")[2].lower()):
        return "not a matrix: it is in a norm layer", ""
    larger = [(other.last, s) for other, s in beside if len(s) > len(shape)]
    for kernel, s in larger:
        if long in ([], [s[0]], [s[-1]]):
            return f"not a matrix: one entry per unit of {kernel}", ""
        if s[-len(shape) :] == shape:
            if name == "b" or "bias" in name:
                return f"not a matrix: one entry per unit of {kernel}", ""
            if is_called_matrix(leaf):
                return "", ""
            return "", f"counted as a matrix, but it could be the bias of {kernel}"
    if len(long) < 2:
        return "", "counted as a matrix, but only one of its axes is longer than 1"
    return "", ""


def _is_norm_layer(module: str) -> bool:
    """Whether one word of the name is that of a norm layer; "normal" is not."""
    return any(re.fullmatch(r".*norms?\d*|[blg]n\d*", w) for w in module.split("_"))
