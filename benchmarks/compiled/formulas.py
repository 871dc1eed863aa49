"""The formulas of SGD-, Adam- and LAMB-LAWN, without what guards them in the library.

They serve steps that are written in other ways than the library's: the constrained
phase with one norm per layer and two projections, and the default hyperparameters of
`lawn.sgd`, `lawn.adam` and `lawn.lamb`. They lack the switch, the treatment of numbers
that are not finite, types other than float32, and the extra projection that LAMB-LAWN
has for groups of at most 64 elements.

The norm of a group is 0 where it is free; then the step is that of the base optimizer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import lawn_optax as lawn
from lawn_optax import _geometry as geometry
from lawn_optax.groups._resolve import Block, Grouping, resolve

MOMENTUM, B1, B2, EPS = 0.9, 0.9, 0.999, 1e-6
# (parameters, state, gradients) -> new parameters and state, as the library has them
Step = Callable[[Any, lawn.LawnState, Any], tuple[Any, lawn.LawnState]]
Numbers = list[jax.Array]  # one per group
Leaves = list[jax.Array]
# (<u,u>, <u,w>, <w,w>, norm of the group) -> factor of the group's direction u
Factor = Callable[..., jax.Array]


class Tree(NamedTuple):
    """Leaves of one step, and its groups."""

    grouping: Grouping  # its blocks are all groups, and each free leaf
    norms: Numbers
    weights: Leaves
    gradients: Leaves
    ones: jax.Array  # float32[2]; that they are ones, XLA cannot know

    @property
    def groups(self) -> tuple[Block, ...]:
        return self.grouping.blocks

    def products(self, xs: Leaves, ys: Leaves) -> Numbers:
        """The inner products of each group."""
        axes = [()] * len(xs)
        return geometry.inner_products(self.grouping, xs, ys, axes)

    def spread(self, numbers: Sequence[Any]) -> list[Any]:
        """For each leaf the number of its group, or a column of one number per row."""
        spread = dict[int, Any]()
        for group, number in zip(self.groups, numbers, strict=True):
            number = number[:, None] if group.shape else number
            spread |= dict.fromkeys(group.leaves, number)
        return [spread[i] for i in range(len(self.weights))]


def begin(params: Any, state: lawn.LawnState, grads: Any) -> Tree:
    """The leaves and the groups of a step."""
    grouping = resolve("layer", params)
    norms = geometry.split(grouping, state.norms)
    free = grouping.free_leaves().blocks
    norms += [jnp.zeros(())] * len(free)
    grouping = dataclasses.replace(grouping, blocks=(*grouping.blocks, *free))
    leaves = jax.tree.leaves(params), jax.tree.leaves(grads)
    return Tree(grouping, norms, *leaves, ones(state))


def ones(state: lawn.LawnState) -> jax.Array:
    """Two ones, float32[2], that XLA does not know and has in memory."""
    positive = jnp.array([0, 0]) <= state.phase.count
    return jax.lax.optimization_barrier(jnp.where(positive, 1.0, 2.0))


def inner(state: lawn.LawnState) -> Any:
    """The state of SGD's momentum, or of Adam's moments."""
    states: Any = state.inner_state
    return states[0]


def end(
    tree: Tree, state: lawn.LawnState, weights: Leaves, **changed: Any
) -> tuple[Any, lawn.LawnState]:
    """The new parameters and the new state, with lists of leaves as moments."""
    named = {
        name: tree.grouping.treedef.unflatten(value) if type(value) is list else value
        for name, value in changed.items()
    }
    phase = state.phase._replace(count=state.phase.count + 1)
    state = state._replace(phase=phase, inner_state=(inner(state)._replace(**named),))
    return tree.grouping.treedef.unflatten(weights), state


# ------------------------------------------------- formulas, of numbers or of elements


def radial(gw: jax.Array, ww: jax.Array, norm: jax.Array) -> jax.Array:
    """The coefficient of w in g."""
    return jnp.where(norm > 0, gw / jnp.where(norm > 0, ww, 1), 0)


def moments(
    g: jax.Array, m: jax.Array, v: jax.Array, w: jax.Array, a: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Adam's moments with the projected gradient g - a w."""
    g = g - a * w
    return (1 - B1) * g + B1 * m, (1 - B2) * (g * g) + B2 * v


def direction(m: jax.Array, v: jax.Array, corrections: Any) -> jax.Array:
    """Adam's direction u, before the learning rate."""
    return (m / corrections[0]) / (jnp.sqrt(v / corrections[1]) + EPS)


def retraction(
    uu: jax.Array, uw: jax.Array, ww: jax.Array, norm: jax.Array, factor: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Coefficients (p, q) of the new weights w + p u + q w."""
    on = norm > 0
    a = radial(factor * uw, ww, norm)
    squared = jnp.maximum(ww + factor * factor * uu - a * factor * uw, ww)
    r = norm / jnp.sqrt(jnp.where(on, squared, 1))
    return jnp.where(on, r * factor, factor), jnp.where(on, r * (1 - a) - 1, 0)


def constant(rate: float) -> Factor:
    """The factor of SGD and Adam."""
    return lambda uu, *_: jnp.full_like(uu, -rate)


def trust_ratio(rate: float) -> Factor:
    """The factor of LAMB."""

    def factor(
        uu: jax.Array, uw: jax.Array, ww: jax.Array, norm: jax.Array
    ) -> jax.Array:
        length_sq = uu - radial(uw, ww, norm) * uw
        known = (ww > 0) & (length_sq > 0)
        ratio = jnp.sqrt(jnp.where(known, ww, 1) / jnp.where(known, length_sq, 1))
        return -rate * jnp.where(known, ratio, 1)

    return factor


def corrections(count: jax.Array) -> jax.Array:
    """The bias corrections of both moments, float32[2]."""
    return 1 - jnp.array([B1, B2]) ** count


def sgd_coefficients(
    rate: float,
    norm: jax.Array,
    gg: jax.Array,
    gt: jax.Array,
    gw: jax.Array,
    tt: jax.Array,
    tw: jax.Array,
    ww: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(a, p, q) such that t' = g - a w + b t and w + p t' + q w are the new values.

    SGD is linear in the gradient g, the momentum t (with its decay b) and the weights
    w, so that their inner products give those of t'.
    """
    a = radial(gw, ww, norm)
    uu = (gg - a * gw) + 2 * MOMENTUM * (gt - a * tw) + MOMENTUM**2 * tt
    uw = jnp.where(norm > 0, 0, gw) + MOMENTUM * tw
    return a, *retraction(uu, uw, ww, norm, constant(rate)(uu))


def sgd(
    g: jax.Array, t: jax.Array, w: jax.Array, a: jax.Array, p: jax.Array, q: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The new momentum and the new weights, with `sgd_coefficients`."""
    t = (g - a * w) + MOMENTUM * t
    return t, w + (p * t + q * w)
