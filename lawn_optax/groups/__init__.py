# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Helpers that make the `groups` argument, which says what shares one norm.

`groups` is a name, "layer", "leaf", "neuron" or "all", or a callable from the
parameters to a tree of labels. Leaves with equal labels share a norm, and a leaf
labelled None is free. The helpers here return such callables and take another `groups`
as their `base`::

    lawn.wrap(tx, groups=groups.not_paths("embed", base=groups.stacked("blocks")))

Paths name whole components, joined by "/": "attn" or "blocks/attn" match the leaf
``decoder/blocks/attn/kernel``, "att" does not.
"""

from lawn_optax.groups._labels import PerSlice
from lawn_optax.groups._select import (
    neuron,
    not_paths,
    only_matrices,
    only_paths,
    stacked,
)

__all__ = [
    "PerSlice",
    "neuron",
    "not_paths",
    "only_matrices",
    "only_paths",
    "stacked",
]
