# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Layers that are stored in one array, trained as if each had its own."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from lawn_optax._types import PyTree, as_transformation, check_params
from lawn_optax.groups._tree import leaves_of, path_string


class Parts(NamedTuple):
    """How the arrays of a fused layer are divided."""

    axis: int  # of every array of the layer, the bias included
    sizes: int | tuple[int, ...]  # number of equal parts, or the length of each

    @classmethod
    def of(cls, path: str, value: Any) -> Parts:
        """The parts that `fused` gives for a path."""
        try:
            axis, sizes = value
            if np.ndim(sizes):
                return cls(operator.index(axis), tuple(map(operator.index, sizes)))
            return cls(operator.index(axis), operator.index(sizes))
        except (TypeError, ValueError):
            raise TypeError(
                "`fused` must have an axis and a number of parts, or their lengths, "
                f"for each path, such as {{{path!r}: (-1, 3)}}, got {value!r}."
            ) from None


Fused = Mapping[str, tuple[int, int | tuple[int, ...]]]


def unfuse(
    inner: optax.GradientTransformation, fused: Fused
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on the parts of fused layers, each as a layer of its own.

    A kernel that holds query, key and value, or gate and up projection, side by side
    has one norm under ``"layer"``, and Muon orthogonalises it as one matrix. With
    `unfuse` both see the parts. The training is that of a network that stores the parts
    apart.

    Args:
      inner: The whole optimizer, `wrap` and other constraints included.
      fused: Axis and parts of each fused layer, by whole components of its path, such
        as ``{"attention/qkv": (-1, 3), "gate_up": (-1, (64, 32))}``: a number of equal
        parts, or the length of each. The axis is that of all arrays of the layer: -1
        for Flax and Haiku, 0 for Equinox; count from the end if layers are stacked.

    Returns:
      A transformation whose state and `update` have the parts; see `unfused`. Extra
      arguments reach `inner` as they are.

    Raises:
      ValueError: In `init`, if a path matches nothing, or the parts do not fit.
      TypeError: If `fused` has another form.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> fused = {"qkv": (-1, 3)}
      >>> tx = lawn.unfuse(lawn.wrap(optax.adam(0.1)), fused)
      >>> params = {"qkv": {"kernel": jnp.ones((4, 12)), "bias": jnp.ones(12)}}
      >>> state = tx.init(params)
      >>> print(lawn.describe(lawn.unfused(params, fused)))
      group  norms  elements  leaves
      qkv/0      1        20  qkv/0/bias (4), qkv/0/kernel (4, 4)
      qkv/1      1        20  qkv/1/bias (4), qkv/1/kernel (4, 4)
      qkv/2      1        20  qkv/2/bias (4), qkv/2/kernel (4, 4)
    """
    inner = as_transformation(inner, "inner")

    def init_fn(params):
        return inner.init(unfused(params, fused))

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, "unfuse")
        layers = _Layers(params, fused)
        parts, state = inner.update(
            layers.split(updates), state, layers.split(params), **extra_args
        )
        return layers.join(parts, params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def unfused(params: PyTree, fused: Fused) -> PyTree:
    """The parameters with a list of parts in the place of each fused layer.

    Args:
      params: Parameters, or `jax.ShapeDtypeStruct` of them.
      fused: Axis and parts of each fused layer; see `unfuse`.

    Returns:
      A tree for `describe`, `captured_norms` and masks.

    Raises:
      ValueError: If a path matches nothing, or the parts do not fit.
    """
    layers = _Layers(params, fused)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
        return jax.eval_shape(layers.split, params)
    return layers.split(params)


class _Layers:
    """Where the fused layers are in trees of the structure of the parameters."""

    def __init__(self, params: PyTree, fused: Fused):
        if not isinstance(fused, Mapping):
            raise TypeError(
                "`fused` must be a dict from paths to parts, such as "
                f"{{'qkv': (-1, 3)}}, got {fused!r}."
            )
        found = {path: Parts.of(path, parts) for path, parts in fused.items()}
        self.parts: list[Parts | None] = []
        unmatched = set(found)

        def match(path: tuple[Any, ...]) -> str | None:
            name = f"/{path_string(path)}"
            fits = [path for path in found if name.endswith(f"/{path}")]
            return max(fits, key=len, default=None)

        nodes, self.treedef = jax.tree_util.tree_flatten_with_path(
            params,
            is_leaf=lambda path, _: match(path) is not None,
            is_leaf_takes_path=True,
        )
        for path, node in nodes:
            name = match(path)
            self.parts.append(found[name] if name else None)
            if name:
                unmatched.discard(name)
                for leaf in jax.tree.leaves(node):
                    _bounds(np.shape(leaf), found[name], path_string(path))
        if unmatched and jax.tree.leaves(params):
            names = [leaf.name for leaf in leaves_of(params)]
            known = ", ".join(names)
            if any(f"/{path}/" in f"/{name}/" for path in unmatched for name in names):
                raise ValueError(
                    "`fused` needs a node for each layer, but these names are "
                    "flattened. Nest them, for example by "
                    "`flax.traverse_util.unflatten_dict(params, sep='/')`. Leaves: "
                    + known
                )
            raise ValueError(
                f"No layer has the path {', '.join(map(repr, sorted(unmatched)))} of "
                f"`fused`. Leaves: {known}"
            )

    def split(self, tree: PyTree) -> PyTree:
        """The tree with a list of parts in the place of each fused layer."""
        nodes = self.treedef.flatten_up_to(tree)
        return self.treedef.unflatten(
            node if parts is None else _split(node, parts)
            for node, parts in zip(nodes, self.parts, strict=True)
        )

    def join(self, tree: PyTree, params: PyTree) -> PyTree:
        """The reverse of `split`, for updates of the parameters."""
        nodes = self.treedef.flatten_up_to(tree)
        whole = self.treedef.flatten_up_to(params)
        return self.treedef.unflatten(
            node if parts is None else _join(node, parts, like)
            for node, parts, like in zip(nodes, self.parts, whole, strict=True)
        )


def _bounds(shape: tuple[int, ...], parts: Parts, path: str) -> list[tuple[int, int]]:
    """Where each part begins and ends along the axis."""
    axis, sizes = parts
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"`fused` divides axis {axis} of {path}, of shape {shape}.")
    length = shape[axis]
    if isinstance(sizes, int):
        if sizes < 1 or length % sizes:
            raise ValueError(
                f"`fused` divides axis {axis} of {path}, of shape {shape}, into "
                f"{sizes} equal parts, but {sizes} does not divide {length}."
            )
        sizes = (length // sizes,) * sizes
    if min(sizes) < 1 or sum(sizes) != length:
        raise ValueError(
            f"`fused` divides axis {axis} of {path}, of shape {shape}, into parts of "
            f"{tuple(sizes)}, which do not add up to {length}."
        )
    ends = list(itertools.accumulate(sizes, initial=0))
    return list(itertools.pairwise(ends))


def _split(node: PyTree, parts: Parts) -> list[PyTree]:
    leaves, treedef = jax.tree.flatten(node)
    pieces = []
    for leaf in leaves:
        bounds = _bounds(np.shape(leaf), parts, "an update")
        leaf = _uncut(jnp.asarray(leaf), parts.axis, bounds)
        pieces.append(
            [
                jax.lax.slice_in_dim(leaf, begin, end, axis=parts.axis)
                for begin, end in bounds
            ]
        )
    if not leaves:  # an absent update
        count = parts.sizes if isinstance(parts.sizes, int) else len(parts.sizes)
        return [node] * count
    return [treedef.unflatten(piece) for piece in zip(*pieces, strict=True)]


def _uncut(x: jax.Array, axis: int, bounds: list[tuple[int, int]]) -> jax.Array:
    """The array, whole along an axis whose explicit mesh axes do not divide a part."""
    spec = list(_spec(x))
    names = spec[axis] if spec else None
    if names is None:
        return x
    sizes = jax.typeof(x).sharding.mesh.shape
    count = math.prod(sizes[n] for n in ((names,) if isinstance(names, str) else names))
    if all((end - begin) % count == 0 for begin, end in bounds):
        return x
    spec[axis] = None
    return jax.sharding.reshard(x, PartitionSpec(*spec))


def _join(pieces: list[PyTree], parts: Parts, params: PyTree) -> PyTree:
    joined = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=parts.axis), *pieces)
    if not any(any(_spec(w)) for w in jax.tree.leaves(params)):
        return joined
    return jax.tree.map(
        lambda x, w: x if x is None else jax.sharding.reshard(x, _spec(w)),
        joined,
        params,
        is_leaf=lambda x: x is None,
    )


def _spec(x: Any) -> Any:
    """The explicit mesh axes of an array; () without a mesh of them."""
    return getattr(jax.typeof(x).sharding, "spec", ())
