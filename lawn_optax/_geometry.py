# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Inner products, tangent projection and retraction per group, without an optimizer.

Numbers that belong to groups are lists with one array per block, of the block's shape:
a scalar, or one entry per slice. (If they were one vector, the kernel of every leaf
would slice it at another place, so that no two leaves of equal shape could share a
kernel: on a ResNet-50 the step took 1.7 times longer to compile.) Trees are lists of
leaves in the order of `Grouping.paths`; a gradient or update may be absent.

With a = <u,w>/<w,w>, the projected step w + u - a w has the norm

    |(1-a) w + u|^2 = <w,w> + <u,u> - a <u,w>

so three inner products determine the retraction onto the sphere of radius c, before a
weight is written: with r = c / |(1-a) w + u| the update is

    r u + (r (1-a) - 1) w.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lawn_optax._guards import quotient
from lawn_optax._types import AxisName, PyTree
from lawn_optax._versions import inner_product, varying_axes
from lawn_optax.groups._resolve import Block, Grouping, absent

Leaves = Sequence[Any]

_FEW = 32  # Terms of a sum that is written out; longer sums are left to XLA.


def reduction_axes(axis_name: AxisName, params: PyTree, ws: Leaves) -> list[tuple]:
    """Mesh axes over which each leaf's sums are completed, per leaf.

    Without `axis_name` they are the axes that the parameter varies on inside
    `shard_map`. They are not all mesh axes, because the sums of a replicated leaf would
    then be counted once per device.
    """
    if axis_name is None:
        return [() if absent(w) else tuple(sorted(varying_axes(w))) for w in ws]
    if isinstance(axis_name, str):
        return [(axis_name,)] * len(ws)
    if isinstance(axis_name, tuple):
        return [axis_name] * len(ws)
    named = jax.tree.structure(params).flatten_up_to(axis_name(params))
    return [(n,) if isinstance(n, str) else tuple(n or ()) for n in named]


def inner_products(
    grouping: Grouping, xs: Leaves, ys: Leaves, axes: Sequence[tuple]
) -> list[jax.Array]:
    """Real inner products <x,y> per block, over the leaves that have both x and y."""
    sums = []
    for block in grouping.blocks:
        total = jnp.zeros(block.shape, grouping.dtype)
        for i, kept in zip(block.leaves, block.axes, strict=True):
            if not (absent(xs[i]) or absent(ys[i])):
                part = dot(xs[i], ys[i], grouping.dtype, kept)
                total = total + (jax.lax.psum(part, axes[i]) if axes[i] else part)
        sums.append(total)
    return sums


def dot(
    x: jax.Array, y: jax.Array, dtype: Any, kept: tuple[int, ...] = ()
) -> jax.Array:
    """The real inner product of two arrays, one per slice along the axes kept."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        x, y = x.astype(_complex(dtype)), y.astype(_complex(dtype))
        real, imaginary = (x.real, y.real), (x.imag, y.imag)
        return dot(*real, dtype, kept) + dot(*imaginary, dtype, kept)
    x, y = x.astype(dtype), y.astype(dtype)
    summed = tuple(a for a in range(x.ndim) if a not in kept)
    split = jax.typeof(x * y).sharding
    if any(getattr(split, "spec", ())):
        # `dot_general` needs an output sharding for explicit mesh axes; `sum` does not.
        total = jnp.sum(x * y, axis=summed)
        # The state keeps all norms everywhere, so they must not be split as x is.
        everywhere = NamedSharding(split.mesh, PartitionSpec(*[None] * total.ndim))
        total = jax.sharding.reshard(total, everywhere)
        return jnp.transpose(total, [sorted(kept).index(axis) for axis in kept])
    whole = functools.partial(inner_product, kept=kept, summed=summed)
    if 1 < math.prod(x.shape[a] for a in summed) <= _FEW and x.ndim - 1 in kept:
        # On a CPU, XLA takes 50 times as long for such sums as for their terms, where
        # there are very many of them.
        few = functools.partial(_sum_of_few, kept=kept, summed=summed)
        return jax.lax.platform_dependent(x, y, cpu=few, default=whole)
    return whole(x, y)


def _sum_of_few(
    x: jax.Array, y: jax.Array, kept: tuple[int, ...], summed: tuple[int, ...]
) -> jax.Array:
    """`inner_product` as sums of pairs, and of their pairs, without a loop."""
    terms = jnp.transpose(x * y, (*summed, *kept))
    terms = list(terms.reshape(-1, *terms.shape[len(summed) :]))
    while len(terms) > 1:
        odd = terms[len(terms) // 2 * 2 :]
        terms = [*map(jnp.add, terms[::2], terms[1::2]), *odd]
    return terms[0]


def _complex(dtype: Any) -> Any:
    return jnp.result_type(dtype, jnp.complex64)


def join(parts: Leaves, dtype: Any) -> jax.Array:
    """Joins one array per block to one vector, as the optimizer state keeps it."""
    flat = [part.reshape(-1) for part in parts]
    return jnp.concatenate([jnp.zeros((0,), dtype), *flat])


def split(grouping: Grouping, vector: jax.Array) -> list[jax.Array]:
    """The reverse of `join`."""
    return [
        vector[block.start : block.start + block.size].reshape(block.shape)
        for block in grouping.blocks
    ]


def movable(block: Block, grouping: Grouping, xs: Leaves) -> bool:
    """Whether a block has at least two elements per norm in leaves that have an x."""
    moved = sum(grouping.real_sizes[i] for i in block.leaves if not absent(xs[i]))
    return moved >= 2 * block.size


def has_norm(squared: jax.Array) -> jax.Array:
    """Whether a squared norm is usable: finite, and not lost to underflow.

    Below tiny/eps the squares of some weights are flushed to zero, and the sum no
    longer has the relative accuracy of its type.
    """
    info = jnp.finfo(squared.dtype)
    return (squared > info.tiny / info.eps) & jnp.isfinite(squared)


def tangent(
    grouping: Grouping, xs: Leaves, ws: Leaves, xw: Leaves, ww: Leaves, on: Leaves
) -> list[Any]:
    """Gives x - (<x,w>/<w,w>) w for blocks that are `on`, and x for the others.

    LAWN submission, eq. 3. Where the coefficient is not finite x is returned, so that
    a NaN gradient reaches the inner optimizer exactly as it came.
    """
    out = list(xs)
    for k, i, spread in _members(grouping, xs):
        a = quotient(xw[k], ww[k], on[k] & (ww[k] > 0))
        found = jnp.isfinite(a)
        a = jnp.where(found, a, 0)
        x, w = _widen(xs[i], grouping.dtype), _widen(ws[i], grouping.dtype)
        y = (x - spread(a) * w).astype(xs[i].dtype)
        out[i] = _where(spread(on[k] & found), y, xs[i])
    return out


def retraction(
    uu: jax.Array,
    uw: jax.Array,
    ww: jax.Array,
    norms: jax.Array,
    *,
    project: bool,
    soften: Callable[[jax.Array], jax.Array] = lambda r: r,
) -> tuple[jax.Array, jax.Array]:
    """Coefficients (p, q) so that w + p u + q w has the norms, u projected if asked.

    Where there are none, p is infinite. `soften` changes the factor r that takes the
    new weights to their norm.
    """
    live = (norms > 0) & (ww > 0)
    if project:
        a = quotient(uw, ww, live)
        # In exact arithmetic this is at least <w,w>. In floating point, a long update
        # nearly parallel to w cancels, and the root must not become negative.
        squared = jnp.maximum(ww + uu - a * uw, ww)
    else:
        a = jnp.zeros_like(ww)
        squared = ww + 2 * uw + uu
    found = (norms > 0) & ~(squared <= 0)  # NaN goes on, so that it is seen
    r = soften(norms / jnp.sqrt(jnp.where(found, squared, 1)))
    # Where the square of a finite update overflows, the weights do not move. (If the
    # update had an infinite entry, <u,w> would not be finite either; p is infinite.)
    endless = jnp.isposinf(uu) | jnp.isposinf(squared)
    lost = endless & jnp.isfinite(uw) & jnp.isfinite(ww)
    stay = soften(norms / jnp.sqrt(jnp.where(live, ww, 1)))
    p = jnp.where(found & (lost | ~endless), jnp.where(lost, 0, r), jnp.inf)
    return p, jnp.where(lost, stay, r * (1 - a)) - 1


def combine(
    grouping: Grouping,
    us: Leaves,
    ws: Leaves,
    p: Leaves,
    q: Leaves,
    on: Leaves,
    factor: Leaves | None = None,
) -> list[Any]:
    """Gives p f u + q w for blocks that are `on`, f u for others; f is `factor` or 1.

    The result has the type of u. Where that is narrower than float32, the result is
    round(w + p f u + q w) - w, so that the new weight is the exact one rounded once.
    """
    # Elsewhere p and q may be infinite, and the derivative would be 0 * inf.
    p, q = (
        [jnp.where(now, x, 0) for now, x in zip(on, xs, strict=True)] for xs in (p, q)
    )
    out = list(us)
    for k, i, spread in _members(grouping, us):
        u, w = _widen(us[i], grouping.dtype), _widen(ws[i], grouping.dtype)
        u = u if factor is None else spread(factor[k]) * u
        step = spread(p[k]) * u + spread(q[k]) * w
        if jnp.finfo(us[i].dtype).bits < 32:
            step = rounded(w + step, ws[i].dtype) - w
        out[i] = _where(spread(on[k]), step, u).astype(us[i].dtype)
    return out


def multiply(grouping: Grouping, factor: Leaves, us: Leaves) -> list[Any]:
    """Gives f u, in the type of u; leaves outside all blocks are untouched."""
    out = list(us)
    for k, i, spread in _members(grouping, us):
        wide = spread(factor[k]) * _widen(us[i], grouping.dtype)
        out[i] = wide.astype(us[i].dtype)
    return out


def choose(grouping: Grouping, on: Leaves, xs: Leaves, ys: Leaves) -> list[Any]:
    """Gives x for blocks that are `on`, y for the others and outside all blocks."""
    out = list(ys)
    for k, i, spread in _members(grouping, ys):
        out[i] = _where(spread(on[k]), xs[i].astype(ys[i].dtype), ys[i])
    return out


def _members(grouping: Grouping, xs: Leaves):
    """(number of the block, of the leaf, and what broadcasts the block's numbers)."""
    for k, block in enumerate(grouping.blocks):
        for i, kept in zip(block.leaves, block.axes, strict=True):
            if not absent(xs[i]):
                spread = functools.partial(_spread, kept=kept, shape=grouping.shapes[i])
                yield k, i, spread


def _spread(
    values: jax.Array, kept: tuple[int, ...], shape: tuple[int, ...]
) -> jax.Array:
    if not kept:
        return values
    in_order = jnp.transpose(values, sorted(range(len(kept)), key=kept.__getitem__))
    return in_order.reshape([n if a in kept else 1 for a, n in enumerate(shape)])


def _where(on: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.where`, which wants `on` split over explicit mesh axes as y is."""
    sharding = jax.typeof(y).sharding
    if on.ndim and any(getattr(sharding, "spec", ())):
        on = jax.sharding.reshard(jnp.broadcast_to(on, y.shape), sharding)
    return jnp.where(on, x, y)


def _widen(x: jax.Array, dtype: Any) -> jax.Array:
    wide = _complex(dtype) if jnp.iscomplexobj(x) else dtype
    return jnp.asarray(x).astype(wide)


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """A wide array rounded to a narrow type, but still wide."""
    # XLA may keep the excess precision of a pair of casts.
    info = jnp.finfo(dtype)
    normal = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    if float(info.tiny) == float(jnp.finfo(x.dtype).tiny):
        return normal
    # float16 has numbers between 0 and its least normal one, for which that gives 0.
    step, small = float(info.tiny * info.eps), jnp.abs(x) < float(info.tiny)
    y = jnp.where(small, x, 0)  # Infinity minus infinity would be no number.
    return jnp.where(
        small, x + jax.lax.stop_gradient(jnp.round(y / step) * step - y), normal
    )
