"""Properties that hold for any tree, dtypes, groups, switch step and inner optimizer.

The examples are the same in every run. The environment variable LAWN_TEST_SEED=7 draws
others, LAWN_TEST_SEED=new takes a fresh seed; a failure prints it.
"""

import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

import lawn_optax as lawn
from lawn_optax.groups._resolve import resolve

SEED = os.environ.get("LAWN_TEST_SEED", "")
SEED = random.SystemRandom().randrange(2**32) if SEED == "new" else int(SEED or 0)


def property_test(**strategies):
    """`given` with few examples, whose choice a seed of 0 fixes."""

    def decorate(test):
        test = settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=SEED == 0,
            # No shrinking: it compiles for minutes, and the trees are small.
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(test))
        return seed(SEED)(test) if SEED else test

    return decorate


SHAPES = [(), (1,), (3,), (4,), (0,), (0, 3), (2, 3), (4, 3), (3, 1), (2, 2, 3)]
# Random rounding of one number relative to it: half a unit in the last place.
ROUNDOFF = {
    "bfloat16": 2.0**-9,
    "float16": 2.0**-12,
    "float32": 2.0**-24,
    "complex64": 2.0**-24,
}
leaf = st.tuples(st.sampled_from(SHAPES), st.sampled_from(list(ROUNDOFF)))
tree = st.recursive(
    leaf | st.none(),
    lambda node: (
        st.lists(node, min_size=1, max_size=3)
        | st.tuples(node, node)
        | st.dictionaries(st.sampled_from("abc"), node, min_size=1, max_size=3)
    ),
    max_leaves=6,
).map(
    lambda node: {
        "top": {"drawn": node, "own": ((4,), "bfloat16")},
        "sure": ((2, 3), "float32"),
    }
)


def labelled(numbers):
    """Random labels, the same for the same tree: few names, so that leaves share."""

    def groups(params):
        leaves, treedef = jax.tree.flatten(params)
        draw = np.random.default_rng(numbers)
        labels = [[None, "x", "y", 0][draw.integers(4)] for _ in leaves]
        return treedef.unflatten(labels)

    return groups


choice = st.sampled_from(["layer", "leaf", "neuron", "all"]) | st.sampled_from(
    [
        lawn.groups.only_matrices(),
        lawn.groups.not_paths("top"),
        lawn.groups.stacked("sure", base="neuron"),
        labelled(1),
        labelled(2),
    ]
)
inner = st.sampled_from(
    [
        optax.sgd(0.1),
        optax.sgd(0.5, momentum=0.9, nesterov=True),
        optax.adam(0.05, eps=1e-4),  # 1e-8 underflows in float16
    ]
)
numbers = st.integers(0, 2**16)
STEPS = 4
PROBLEM = {
    "tree": tree,
    "choice": choice,
    "inner": inner,
    "switch_step": st.integers(0, STEPS - 1),
    "numbers": numbers,
}


def is_leaf(node):
    return node is None or (isinstance(node, tuple) and isinstance(node[-1], str))


def arrays(tree, numbers, zeros=True):
    """Random numbers of about 1; some leaves are zero if asked for."""
    draw = np.random.default_rng(numbers)

    def make(node):
        if node is None:
            return None
        size, dtype = node
        x = draw.normal(size=size)
        if dtype == "complex64":
            x = x + 1j * draw.normal(size=size)
        if zeros and draw.random() < 0.15:
            x = np.zeros_like(x)
        return jnp.asarray(x, dtype)

    return jax.tree.map(make, tree, is_leaf=is_leaf)


def wide(x):
    """Real float64 numbers, a complex one as two."""
    x = np.asarray(x)
    if np.iscomplexobj(x):
        return np.stack([x.real, x.imag], -1).astype(np.float64)
    return x.astype(np.float64)


def norms64(params, grouping):
    """Norm, roundoff of its narrowest leaf, and number of elements of each norm."""
    leaves, out = jax.tree.leaves(params), []
    for block in grouping.blocks:
        squares, worst = np.zeros(block.shape), 0.0
        for i, axes in zip(block.leaves, block.axes, strict=True):
            x = wide(leaves[i])
            rest = tuple(a for a in range(x.ndim) if a not in axes)
            squares = squares + np.sum(x**2, axis=rest)
            worst = max(worst, ROUNDOFF[str(leaves[i].dtype)])
        out += [(norm, worst) for norm in np.sqrt(squares).ravel()]
    return np.array(out).reshape(-1, 2).T


def structure(tree):
    return jax.tree.structure(tree), [
        (x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)
    ]


def constrained_or_refused(groups, params):
    """The grouping, or None where nothing is constrained and `init` says so."""
    try:
        return resolve(groups, params)
    except ValueError:
        tx = lawn.wrap(optax.sgd(0.1), groups=groups)
        for call in (tx.init, lambda params: lawn.describe(params, groups)):
            with pytest.raises(ValueError, match="No parameter is constrained"):
                call(params)
        return None


@pytest.mark.slow
@property_test(**PROBLEM)
def test_every_captured_norm_holds_and_every_update_is_finite(
    tree, choice, inner, switch_step, numbers
):
    note(f"LAWN_TEST_SEED={SEED}")
    params = arrays(tree, numbers)
    grouping = constrained_or_refused(choice, params)
    if grouping is None:
        return
    tx = lawn.wrap(inner, switch_step, groups=choice)
    update, state = jax.jit(tx.update), tx.init(params)
    before = structure(state)
    for step in range(STEPS):
        gradients = arrays(tree, numbers + step + 1, zeros=False)
        assert lawn.describe(params, choice, state)
        at_switch = norms64(params, grouping)[0]
        updates, state = update(gradients, state, params)
        assert structure(state) == before
        for u, g in zip(
            jax.tree.leaves(updates), jax.tree.leaves(gradients), strict=True
        ):
            assert u.dtype == g.dtype and u.shape == g.shape
            assert np.isfinite(wide(u)).all()
        params = optax.apply_updates(params, updates)

        captured = np.asarray(state.norms, np.float64)
        if step < switch_step:
            assert not captured.any()
            continue
        if step == switch_step:
            np.testing.assert_allclose(captured, at_switch, rtol=1e-6, atol=0)
        now, roundoff = norms64(params, grouping)
        # The step rounds three times (the result, the update, their sum), each off by
        # at most roundoff times a length of c or, for the update, 2 c; float32 sums and
        # roots add a few of their own. Subnormal float16 weights are off by 3e-8 each.
        held = captured > 0
        allowed = (4 * roundoff + 1e-6) * captured + 6e-8 * np.sqrt(50)
        assert (np.abs(now - captured) <= allowed)[held].all(), (now, captured)
    assert f"since update {switch_step} of {STEPS}" in lawn.describe(
        params, choice, state
    )


@pytest.mark.slow
@property_test(**PROBLEM)
def test_free_leaves_follow_the_inner_optimizer(
    tree, choice, inner, switch_step, numbers
):
    note(f"LAWN_TEST_SEED={SEED}")
    params = arrays(tree, numbers)
    grouping = constrained_or_refused(choice, params)
    if grouping is None:
        return
    free = [i for i, _ in grouping.free]
    tx = lawn.wrap(inner, switch_step, groups=choice)
    twin = lawn.reset_at(switch_step, inner)  # moments restart at the switch, too
    step = jax.jit(lambda g, ours, theirs, p: (tx.update(g, ours, p),
                                               twin.update(g, theirs, p)))  # fmt: skip
    ours, theirs = tx.init(params), twin.init(params)
    for number in range(STEPS):
        gradients = arrays(tree, numbers + number + 1, zeros=False)
        (mine, ours), (plain, theirs) = step(gradients, ours, theirs, params)
        mine_leaves, plain_leaves = jax.tree.leaves(mine), jax.tree.leaves(plain)
        unheld = [  # zero at the switch, so free as well
            i
            for block in grouping.blocks
            if not np.any(ours.norms[block.start : block.start + block.size])
            for i in block.leaves
        ]
        if number < switch_step:
            assert len(free) + len(unheld) == len(mine_leaves)
        for i in free + unheld:
            u, v = wide(mine_leaves[i]), wide(plain_leaves[i])
            # The same operations; XLA may fuse them differently, to a last digit.
            ulp = 4 * ROUNDOFF[str(plain_leaves[i].dtype)]
            np.testing.assert_allclose(u, v, rtol=ulp, atol=1e-7, equal_nan=False)
        params = optax.apply_updates(params, mine)


@property_test(tree=tree, choice=choice, numbers=numbers)
def test_the_groups_are_a_partition_of_the_leaves(tree, choice, numbers):
    note(f"LAWN_TEST_SEED={SEED}")
    params = arrays(tree, numbers)
    grouping = constrained_or_refused(choice, params)
    if grouping is None:
        return
    members = [i for block in grouping.blocks for i in block.leaves]
    everyone = sorted(members + [i for i, _ in grouping.free])
    assert everyone == list(range(len(jax.tree.leaves(params))))
    starts = np.cumsum([0, *(block.size for block in grouping.blocks)])
    assert [block.start for block in grouping.blocks] == list(starts[:-1])
    # Values, traced or concrete, never matter; describe names every leaf.
    assert resolve(choice, jax.eval_shape(lambda: params)) == grouping
    report = lawn.describe(params, choice)
    assert all(path in report for path in grouping.paths)
    measured = lawn.diagnostics.group_norms(params, groups=choice)
    np.testing.assert_allclose(measured, norms64(params, grouping)[0], rtol=1e-6)
