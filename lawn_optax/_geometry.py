# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Inner products, tangent projection and retraction per group, knowing no optimizer.

Every number that belongs to a group is an entry of one vector, in the order of
`Grouping.blocks`. Trees are lists of leaves in the order of `Grouping.paths`; a
gradient or update may be absent (None).

With a = <u,w>/<w,w>, the projected step w + u - a w has the norm

    |(1-a) w + u|^2 = <w,w> + <u,u> - a <u,w>

so the retraction onto the sphere of radius c is known from three inner products,
before a weight is written: with r = c / |(1-a) w + u| the update is

    r u + (r (1-a) - 1) w.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lawn_optax._grouping import Block, Grouping, PyTree, absent

AxisName = None | str | tuple[str, ...] | Callable[[PyTree], PyTree]
Leaves = Sequence[Any]


def reduction_axes(axis_name: AxisName, params: PyTree, ws: Leaves) -> list[tuple]:
    """Mesh axes over which each leaf's sums are completed, per leaf.

    Without `axis_name`: the axes that the parameter varies on inside `shard_map`. Not
    every mesh axis: the sums of a replicated leaf would be counted once per device.
    """
    if axis_name is None:
        return [() if absent(w) else _varying(w) for w in ws]
    if isinstance(axis_name, str):
        return [(axis_name,)] * len(ws)
    if isinstance(axis_name, tuple):
        return [axis_name] * len(ws)
    named = jax.tree.structure(params).flatten_up_to(axis_name(params))
    return [(n,) if isinstance(n, str) else tuple(n or ()) for n in named]


def _varying(w: jax.Array) -> tuple[str, ...]:
    return tuple(sorted(getattr(jax.typeof(w), "vma", ())))


def inner_products(
    grouping: Grouping, xs: Leaves, ys: Leaves, axes: Sequence[tuple]
) -> jax.Array:
    """Real inner products <x, y>, one per norm, over the leaves that have both."""
    parts = []
    for block in grouping.blocks:
        total = jnp.zeros(block.shape, grouping.dtype)
        for i, kept in zip(block.leaves, block.axes, strict=True):
            if not (absent(xs[i]) or absent(ys[i])):
                part = _dot(xs[i], ys[i], kept, grouping.dtype)
                total = total + (jax.lax.psum(part, axes[i]) if axes[i] else part)
        parts.append(total.reshape(-1))
    return jnp.concatenate(parts) if parts else jnp.zeros((0,), grouping.dtype)


def _dot(x: jax.Array, y: jax.Array, kept: tuple[int, ...], dtype: Any) -> jax.Array:
    x, y = jnp.asarray(x), jnp.asarray(y)
    summed = tuple(a for a in range(x.ndim) if a not in kept)
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        x, y = x.astype(_complex(dtype)), y.astype(_complex(dtype))
        return jnp.sum(x.real * y.real + x.imag * y.imag, axis=summed)
    return jnp.sum(x.astype(dtype) * y.astype(dtype), axis=summed)


def _complex(dtype: Any) -> Any:
    return jnp.result_type(dtype, jnp.complex64)


def movable(grouping: Grouping, xs: Leaves) -> np.ndarray:
    """Which groups have two elements or more that an x moves, and are not free."""
    moves = [
        sum(grouping.real_sizes[i] for i in block.leaves if not absent(xs[i]))
        >= (np.inf if block.free else 2 * block.size)
        for block in grouping.blocks
    ]
    return np.repeat(moves, [block.size for block in grouping.blocks])


def has_norm(squared: jax.Array) -> jax.Array:
    """Whether a squared norm is usable: finite, and not lost to underflow.

    Below tiny/eps the squares of single weights are flushed to zero one by one, and
    the sum no longer has the relative accuracy of the type.
    """
    info = jnp.finfo(squared.dtype)
    return (squared > info.tiny / info.eps) & jnp.isfinite(squared)


def tangent(
    grouping: Grouping,
    xs: Leaves,
    ws: Leaves,
    xw: jax.Array,
    ww: jax.Array,
    on: jax.Array,
) -> list[Any]:
    """X - (<x,w>/<w,w>) w for the groups that are `on`; the others untouched.

    LAWN submission eq. 3. A coefficient that is not finite leaves x as it is: a NaN
    gradient reaches the inner optimizer exactly as it came.
    """
    coefficient = jnp.where(ww > 0, xw / ww, 0)
    on = on & jnp.isfinite(coefficient)
    # One barrier on the scalars keeps XLA from repeating the sums in each consumer.
    coefficient, on = jax.lax.optimization_barrier((coefficient, on))
    out = list(xs)
    for i, spread in _members(grouping, xs):
        x, w = _widen(xs[i], grouping.dtype), _widen(ws[i], grouping.dtype)
        y = x - spread(coefficient) * w
        out[i] = jnp.where(spread(on), y.astype(xs[i].dtype), xs[i])
    return out


def retraction(
    uu: jax.Array, uw: jax.Array, ww: jax.Array, norms: jax.Array, *, project: bool
) -> tuple[jax.Array, jax.Array]:
    """Coefficients (p, q) so that w + p u + q w has the norms, u projected if asked."""
    if project:
        a = jnp.where(ww > 0, uw / ww, 0)
        # Never below <w,w> in exact arithmetic; in floating point an update that is
        # long and nearly parallel to w cancels, and must not end in a negative root.
        squared = jnp.maximum(ww + uu - a * uw, ww)
    else:
        a = jnp.zeros_like(ww)
        squared = ww + 2 * uw + uu
    r = norms / jnp.sqrt(squared)
    return r, r * (1 - a) - 1


def combine(
    grouping: Grouping,
    us: Leaves,
    ws: Leaves,
    p: jax.Array,
    q: jax.Array,
    on: jax.Array,
    factor: jax.Array | None = None,
) -> list[Any]:
    """Gives p f u + q w for groups that are `on`, f u for others (f: 1 if None).

    The result keeps the type of u. Where that is narrower than float32 it is
    round(w + p f u + q w) - w, so that the new weight is the exact one rounded once.
    """
    p, q, on, factor = jax.lax.optimization_barrier((p, q, on, factor))
    out = list(us)
    for i, spread in _members(grouping, us):
        u, w = _widen(us[i], grouping.dtype), _widen(ws[i], grouping.dtype)
        u = u if factor is None else spread(factor) * u
        step = spread(p) * u + spread(q) * w
        if jnp.finfo(us[i].dtype).bits < 32:
            step = _rounded(w + step, ws[i].dtype) - w
        out[i] = jnp.where(spread(on), step, u).astype(us[i].dtype)
    return out


def _members(grouping: Grouping, xs: Leaves):
    """(leaf position, vector -> that leaf's entries, ready to broadcast)."""
    for block in grouping.blocks:
        for i, kept in zip(block.leaves, block.axes, strict=True):
            if not absent(xs[i]):
                yield i, _spreader(block, grouping.shapes[i], kept)


def _spreader(block: Block, shape: tuple[int, ...], kept: tuple[int, ...]):
    if not kept:
        return lambda vector: vector[block.start]
    broadcast = tuple(n if a in kept else 1 for a, n in enumerate(shape))
    stop = block.start + block.size
    return lambda vector: vector[block.start : stop].reshape(broadcast)


def _widen(x: jax.Array, dtype: Any) -> jax.Array:
    wide = _complex(dtype) if jnp.iscomplexobj(x) else dtype
    return jnp.asarray(x).astype(wide)


def _rounded(x: jax.Array, dtype: Any) -> jax.Array:
    # Not a pair of casts: XLA may keep the excess precision of those.
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)
