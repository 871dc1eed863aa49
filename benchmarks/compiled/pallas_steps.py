"""The library's methods with the Pallas kernels of `benchmarks.compiled.kernels`.

See `formulas` for what these steps share with those for XLA.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import lawn_optax as lawn
from benchmarks.compiled import formulas
from benchmarks.compiled.formulas import Factor, Leaves, Step, Tree
from benchmarks.compiled.kernels import Launch, Program, Work, run

MANY = 32  # leaves of a launch; the arguments of a kernel must fit into 4 KiB

# (chunk, and of its leaves: gradients, m, v, weights; corrections) -> weights, m, v
Part = Callable[..., tuple[Leaves, ...]]


class Chunk:
    """Whole groups whose leaves share launches."""

    def __init__(self, tree: Tree, groups: list[int]):
        members = [tree.groups[k].leaves for k in groups]
        self.leaves = [i for group in members for i in group]
        self.norms = jnp.stack([tree.norms[k] for k in groups])
        numbers = [k for k, group in enumerate(members) for _ in group]
        sizes = [tree.weights[i].size for i in self.leaves]
        self.launch = Launch(tuple(sizes), tuple(numbers))


def chunks(tree: Tree, most: int) -> Iterator[Chunk]:
    """Groups in their order, with at most so many leaves at a time, or one group."""
    taken, leaves = list[int](), 0
    for k, group in enumerate(tree.groups):
        if taken and leaves + len(group.leaves) > most:
            yield Chunk(tree, taken)
            taken, leaves = [], 0
        taken.append(k)
        leaves += len(group.leaves)
    yield Chunk(tree, taken)


def sgd_two_launches(rate: float) -> Step:
    """SGD-LAWN from six inner products, with two launches for many leaves."""

    def sums(_: Program) -> Work:
        return lambda g, t, w: ((), (g * g, g * t, g * w, t * t, t * w, w * w))

    def move(program: Program, norms: Any, *sums: Any) -> Work:
        products = (program.total(x) for x in sums)
        a, p, q = formulas.sgd_coefficients(rate, program.own(norms), *products)
        return lambda g, t, w: (formulas.sgd(g, t, w, a, p, q), ())

    def step(params: Any, state: lawn.LawnState, grads: Any) -> Any:
        tree = formulas.begin(params, state, grads)
        after, trace = list(tree.weights), jax.tree.leaves(state.inner_state)
        for chunk in chunks(tree, MANY):
            launch = chunk.launch
            lists = [
                [xs[i] for i in chunk.leaves] for xs in (tree.gradients, trace, after)
            ]
            _, products = run(launch, sums, lists, sums=6)
            vectors = [chunk.norms, *products]
            (ts, ws), _ = run(launch, move, lists, vectors, overwritten=(1, 2))
            for i, t, w in zip(chunk.leaves, ts, ws, strict=True):
                trace[i], after[i] = t, w
        return formulas.end(tree, state, after, trace=trace)

    return step


def adam_three_launches(factor: Factor) -> Step:
    """Adam-LAWN or LAMB-LAWN with three launches for many leaves.

    The first sums <g,w> and <w,w>. The second writes the moments and sums <u,u> and
    <u,w>. The third computes u anew from the moments, and writes the weights.
    """

    def sums(_: Program) -> Work:
        return lambda g, w: ((), (g * w, w * w))

    def move(program: Program, norms: Any, corrections: Any, *sums: Any) -> Work:
        uu, uw, ww = (program.total(x) for x in sums)
        norm = program.own(norms)
        p, q = formulas.retraction(uu, uw, ww, norm, factor(uu, uw, ww, norm))
        both = corrections[0], corrections[1]

        def work(m: jax.Array, v: jax.Array, w: jax.Array) -> Any:
            u = formulas.direction(m, v, both)
            return (w + (p * u + q * w),), ()

        return work

    def part(
        chunk: Chunk, gs: Leaves, ms: Leaves, vs: Leaves, ws: Leaves, corrections: Any
    ) -> tuple[Leaves, ...]:
        launch = chunk.launch
        _, (gw, ww) = run(launch, sums, [gs, ws], sums=2)
        vectors = [chunk.norms, corrections, gw, ww]
        (ms, vs), (uu, uw) = _moments(launch, Program.total, gs, ms, vs, ws, vectors)
        vectors = [chunk.norms, corrections, uu, uw, ww]
        (ws,), _ = run(launch, move, [ms, vs, ws], vectors, overwritten=(2,))
        return ws, ms, vs

    return _adam(MANY, part)


def adam_moments_kernel(factor: Factor) -> Step:
    """Adam-LAWN or LAMB-LAWN with a kernel per group for the moments and their sums.

    XLA does the rest. Its last pass computes the direction anew from the moments.
    """

    def part(
        chunk: Chunk, gs: Leaves, ms: Leaves, vs: Leaves, ws: Leaves, corrections: Any
    ) -> tuple[Leaves, ...]:
        total = lambda xs: sum(jnp.vdot(x, w) for x, w in zip(xs, ws, strict=True))  # noqa: E731
        gw, ww = (jnp.reshape(total(xs), (1,)) for xs in (gs, ws))
        vectors = [chunk.norms, corrections, gw, ww]
        moments = _moments(chunk.launch, Program.own, gs, ms, vs, ws, vectors)
        (ms, vs), (uu, uw) = moments
        products = jnp.sum(uu), jnp.sum(uw), ww[0], chunk.norms[0]
        p, q = formulas.retraction(*products, factor(*products))
        us = [
            formulas.direction(m, v, corrections) for m, v in zip(ms, vs, strict=True)
        ]
        return [w + (p * u + q * w) for w, u in zip(ws, us, strict=True)], ms, vs

    return _adam(1, part)


def _moments(
    launch: Launch,
    read: Callable[[Program, Any], jax.Array],
    gs: Leaves,
    ms: Leaves,
    vs: Leaves,
    ws: Leaves,
    vectors: list[jax.Array],
) -> tuple[list[Leaves], list[jax.Array]]:
    """The new moments, and <u,u> and <u,w> with one entry per program.

    The vectors have the norms, the corrections, <g,w> and <w,w>. `read` finds a group's
    number in the last two.
    """

    def prepare(program: Program, norms: Any, corrections: Any, *sums: Any) -> Work:
        gw, ww = (read(program, x) for x in sums)
        a = formulas.radial(gw, ww, program.own(norms))
        both = corrections[0], corrections[1]

        def work(g: jax.Array, m: jax.Array, v: jax.Array, w: jax.Array) -> Any:
            m, v = formulas.moments(g, m, v, w, a)
            u = formulas.direction(m, v, both)
            return (m, v), (u * u, u * w)

        return work

    return run(launch, prepare, [gs, ms, vs, ws], vectors, overwritten=(1, 2), sums=2)


def _adam(most: int, part: Part) -> Step:
    """A step that does one chunk after the other."""

    def step(params: Any, state: lawn.LawnState, grads: Any) -> Any:
        tree = formulas.begin(params, state, grads)
        inner = formulas.inner(state)
        count = inner.count + 1
        corrections = formulas.corrections(count)
        mu, nu = jax.tree.leaves(inner.mu), jax.tree.leaves(inner.nu)
        after = list(tree.weights)
        for chunk in chunks(tree, most):
            lists = (tree.gradients, mu, nu, after)
            results = part(
                chunk, *([xs[i] for i in chunk.leaves] for xs in lists), corrections
            )
            for xs, changed in zip((after, mu, nu), results, strict=True):
                for i, x in zip(chunk.leaves, changed, strict=True):
                    xs[i] = x
        return formulas.end(tree, state, after, count=count, mu=mu, nu=nu)

    return step
