"""The library's methods, written for XLA in other ways; see `formulas`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

import lawn_optax as lawn
from benchmarks.compiled import formulas
from benchmarks.compiled.formulas import Leaves, Numbers, Step, Tree
from lawn_optax import _geometry as geometry
from lawn_optax.groups._resolve import Block

SMALL = 4096  # elements of a leaf, or of a group, that gets a row of a matrix
LARGE = 2**16  # elements from which a sum has two rounds


def of_each(formula: Callable[..., Any], *numbers: Numbers) -> list[Numbers]:
    """The results of a formula, computed for one group at a time."""
    results = [formula(*of_group) for of_group in zip(*numbers, strict=True)]
    return [list(result) for result in zip(*results, strict=True)]


def of_all(formula: Callable[..., Any], *numbers: Numbers) -> list[Numbers]:
    """The same, computed for the vectors of all groups."""
    return [list(result) for result in formula(*map(jnp.stack, numbers))]


def products_in_a_matrix(tree: Tree, xs: Leaves, ys: Leaves) -> Numbers:
    """The inner products of each group, with a row of a matrix for each small leaf."""
    sums = {
        i: geometry.dot(xs[i], ys[i], jnp.float32)
        for i in range(len(xs))
        if xs[i].size > SMALL
    }
    small = [i for i in range(len(xs)) if i not in sums]
    if small:
        rows = [_matrix([[leaves[i]] for i in small]) for leaves in (xs, ys)]
        sums |= zip(small, jnp.sum(rows[0] * rows[1], axis=1), strict=True)
    return [
        functools.reduce(jnp.add, [sums[i] for i in group.leaves])
        for group in tree.groups
    ]


def products_merged(tree: Tree, xs: Leaves, ys: Leaves) -> Numbers:
    """The inner products of each group, in kernels that leaves of equal shape share.

    XLA merges kernels of equal shapes if they read the same array. A scalar does not
    count, so all terms are multiplied by the first of two ones. The second round of
    large sums is written out, so that it has equal shapes and reads the ones too.
    """

    sums = [_merged_dot(x, y, tree.ones[0]) for x, y in zip(xs, ys, strict=True)]
    return [
        functools.reduce(jnp.add, [sums[i] for i in group.leaves])
        for group in tree.groups
    ]


def own_step_merged(tx: optax.GradientTransformationExtraArgs) -> Step:
    """A step of the library's own code that reads the same array in every kernel.

    Inner products, projected gradients and updates are multiplied by a one, as in
    `products_merged`. Everything else is the library's: all optimizers and guards.
    """

    def step(params: Any, state: Any, grads: Any) -> Any:
        one = formulas.ones(state)[0]

        def times_one(function: Callable[..., Leaves]) -> Callable[..., Leaves]:
            return lambda *args: [x * one for x in function(*args)]

        with mock.patch.multiple(
            geometry,
            dot=lambda x, y, dtype, kept: _merged_dot(x, y, one),
            tangent=times_one(geometry.tangent),
            combine=times_one(geometry.combine),
        ):
            updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def sgd_six_products(
    rate: float, products: Callable[[Tree, Leaves, Leaves], Numbers] = Tree.products
) -> Step:
    """SGD-LAWN that reads gradient, momentum and weights once for all inner products.

    A second read writes momentum and weights.
    """

    def step(params: Any, state: lawn.LawnState, grads: Any) -> Any:
        tree = formulas.begin(params, state, grads)
        g, w, t = tree.gradients, tree.weights, jax.tree.leaves(state.inner_state)
        pairs = ((g, g), (g, t), (g, w), (t, t), (t, w), (w, w))
        sums = [products(tree, x, y) for x, y in pairs]
        formula = functools.partial(formulas.sgd_coefficients, rate)
        found = of_each(formula, tree.norms, *sums)
        lists = [g, t, w, *map(tree.spread, found)]
        trace, after = of_each(formulas.sgd, *lists)
        return formulas.end(tree, state, after, trace=trace)

    return step


def adam(
    rate: float,
    *,
    products: Callable[[Tree, Leaves, Leaves], Numbers] = Tree.products,
    apply: Callable[..., list[Numbers]] = of_each,
    barrier: bool = True,
    sum_weights: bool = True,
) -> Step:
    """Adam-LAWN as in the library: sums, inner step, sums, new weights.

    Args:
        rate: Learning rate.
        products: Function that makes the inner products of each group.
        apply: Function that applies a formula to the numbers of all groups.
        barrier: Whether XLA is kept from computing an update twice.
        sum_weights: Whether squares of weights are summed. Otherwise they are taken to
            have the norms that the last step gave them.
    """

    def step(params: Any, state: lawn.LawnState, grads: Any) -> Any:
        tree = formulas.begin(params, state, grads)
        inner = formulas.inner(state)
        count = inner.count + 1
        squares = None if sum_weights else [norm * norm for norm in tree.norms]
        lists = jax.tree.leaves(inner.mu), jax.tree.leaves(inner.nu)
        after, mu, nu = _adam(
            tree, *lists, count, rate, products, apply, barrier, squares
        )
        return formulas.end(tree, state, after, count=count, mu=mu, nu=nu)

    return step


def adam_small_groups_in_a_matrix(rate: float) -> Step:
    """Adam-LAWN with a row of a matrix for each small group, for the whole step."""

    def step(params: Any, state: lawn.LawnState, grads: Any) -> Any:
        tree = formulas.begin(params, state, grads)
        inner = formulas.inner(state)
        count = inner.count + 1
        sizes = tree.grouping.block_sizes
        small = [k for k, size in enumerate(sizes) if size <= SMALL]
        large = [k for k in range(len(sizes)) if k not in small]
        alone = [i for k in large for i in tree.groups[k].leaves]
        rows = [tree.groups[k].leaves for k in small]

        def pack(xs: Leaves) -> Leaves:
            matrix = [_matrix([[xs[i] for i in row] for row in rows])] if rows else []
            return [xs[i] for i in alone] + matrix

        def unpack(xs: Leaves) -> Leaves:
            leaves = dict(zip(alone, xs, strict=False))
            for j, row in enumerate(rows):
                begin = 0
                for w, i in ((tree.weights[i], i) for i in row):
                    leaves[i] = xs[-1][j, begin : begin + w.size].reshape(w.shape)
                    begin += w.size
            return [leaves[i] for i in range(len(tree.weights))]

        blocks = [
            dataclasses.replace(
                tree.groups[k],
                leaves=tuple(alone.index(i) for i in tree.groups[k].leaves),
            )
            for k in large
        ]
        norms = [tree.norms[k] for k in large]
        if rows:
            blocks.append(Block("rows", (len(alone),), ((0,),), (len(rows),), 0))
            norms.append(jnp.stack([tree.norms[k] for k in small]))
        packed = Tree(
            dataclasses.replace(tree.grouping, blocks=tuple(blocks)),
            norms,
            pack(tree.weights),
            pack(tree.gradients),
            tree.ones,
        )
        lists = pack(jax.tree.leaves(inner.mu)), pack(jax.tree.leaves(inner.nu))
        found = _adam(packed, *lists, count, rate, Tree.products, of_each, True)
        after, mu, nu = map(unpack, found)
        return formulas.end(tree, state, after, count=count, mu=mu, nu=nu)

    return step


def _adam(
    tree: Tree,
    mu: Leaves,
    nu: Leaves,
    count: jax.Array,
    rate: float,
    products: Callable[[Tree, Leaves, Leaves], Numbers],
    apply: Callable[..., list[Numbers]],
    barrier: bool,
    squares: Numbers | None = None,
) -> list[Leaves]:
    """The new weights and moments."""
    weights, factors = tree.weights, formulas.corrections(count)

    def radial(gw: jax.Array, ww: jax.Array, norm: jax.Array) -> tuple[jax.Array]:
        return (formulas.radial(gw, ww, norm),)

    def retraction(
        uu: jax.Array, uw: jax.Array, ww: jax.Array, norm: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return formulas.retraction(uu, uw, ww, norm, formulas.constant(rate)(uu))

    gw = products(tree, tree.gradients, weights)
    ww = products(tree, weights, weights) if squares is None else squares
    (a,) = apply(radial, gw, ww, tree.norms)
    lists = tree.gradients, mu, nu, weights, tree.spread(a)
    mu, nu = of_each(formulas.moments, *lists)
    updates = [formulas.direction(m, v, factors) for m, v in zip(mu, nu, strict=True)]
    if barrier:
        updates = [jax.lax.optimization_barrier(u) for u in updates]
    uu, uw = (products(tree, updates, xs) for xs in (updates, weights))
    coefficients = apply(retraction, uu, uw, ww, tree.norms)
    lists = weights, updates, *map(tree.spread, coefficients)
    after = [w + (p * u + q * w) for w, u, p, q in zip(*lists, strict=True)]
    return [after, mu, nu]


def _merged_dot(x: jax.Array, y: jax.Array, one: jax.Array) -> jax.Array:
    """An inner product, of which the second round has 512 terms if that divides."""
    terms = (x * y * one).reshape(-1)
    if terms.size > LARGE:
        rows = (n for n in (512, *range(1024, 127, -1)) if terms.size % n == 0)
        if count := next(rows, None):
            terms = jnp.sum(terms.reshape(count, -1), axis=1) * one
    return jnp.sum(terms)


def _matrix(rows: Sequence[Leaves]) -> jax.Array:
    """One row for each list of leaves, filled up with zeros."""
    flat = [jnp.concatenate([x.reshape(-1) for x in row]) for row in rows]
    width = max(row.size for row in flat)
    return jnp.stack([jnp.pad(row, (0, width - row.size)) for row in flat])
