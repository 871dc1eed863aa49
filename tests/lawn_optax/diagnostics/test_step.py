"""Figures of a step against float64 NumPy, at small angles, at zero, and in a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import diagnostics
from tests.support.asserts import close

group_norms = jax.jit(diagnostics.group_norms, static_argnames="groups")
radial_fraction = jax.jit(diagnostics.radial_fraction, static_argnames="groups")
angular_update = jax.jit(diagnostics.angular_update, static_argnames="groups")


def random_tree(seed, scale=1.0):
    numbers = np.random.default_rng(seed)
    sizes = {"a": {"kernel": (5, 3), "bias": (3,)}, "b": {"kernel": (3, 4)}}
    return jax.tree.map(
        lambda size: (scale * numbers.normal(size=size)).astype(np.float32),
        sizes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def vectors64(tree, per_unit=False):
    """One float64 vector per norm, in the order of the groups: layers, or units."""
    matrices = [
        np.concatenate(
            [np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1]) for leaf in part]
        )
        for part in ((tree["a"]["bias"], tree["a"]["kernel"]), (tree["b"]["kernel"],))
    ]
    if per_unit:
        return [column for matrix in matrices for column in matrix.T]
    return [matrix.ravel() for matrix in matrices]


def angle64(u, w):
    return np.arccos(
        np.clip((w + u) @ w / np.linalg.norm(w + u) / np.linalg.norm(w), -1, 1)
    )


def cosine64(u, w):
    return abs(u @ w) / np.linalg.norm(u) / np.linalg.norm(w)


@pytest.mark.parametrize("groups", ["layer", "neuron"])
def test_figures_of_moderate_steps_are_their_formulas(groups):
    w, u = random_tree(0), random_tree(1, 0.3)
    ws, us = (vectors64(tree, groups == "neuron") for tree in (w, u))
    assert len(ws) == {"layer": 2, "neuron": 7}[groups]
    close(group_norms(w, groups=groups), [np.linalg.norm(x) for x in ws])
    # A cosine near 0 is a difference of sums: absolute, not relative to itself.
    expected = [cosine64(*pair) for pair in zip(us, ws, strict=True)]
    close(radial_fraction(u, w, groups=groups), expected, atol=3e-7)
    expected = [angle64(*pair) for pair in zip(us, ws, strict=True)]
    close(angular_update(u, w, groups=groups), expected, rtol=1e-5)


@pytest.mark.parametrize("angle", [1e-6, 1e-4, 1e-2, 1.0, 3.0])
def test_angles_are_accurate_to_1e_4_where_acos_is_not(angle):
    w = vectors64(random_tree(0))[0]
    across = np.random.default_rng(1).normal(size=w.size)
    across -= across @ w / (w @ w) * w
    across *= np.linalg.norm(w) / np.linalg.norm(across)
    u = (np.cos(angle) - 1) * w + np.sin(angle) * across
    w, u = np.float32(w), np.float32(u)
    close(angular_update(u, w), angle, rtol=1e-4)


def test_acos_would_fail_that():
    w = np.float32(vectors64(random_tree(0))[0])
    u = np.float32(1e-4 * np.roll(w, 1))
    naive = np.arccos(
        np.float32((w + u) @ w) / np.linalg.norm(w + u) / np.linalg.norm(w)
    )
    exact = float(angular_update(u, w)[0])
    assert not abs(naive / exact - 1) < 1e-2


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_the_size_of_the_weights_does_not_matter(scale):
    w, u = random_tree(0), random_tree(1, 0.01)
    scaled = jax.tree.map(lambda x: np.float32(scale * x), (u, w))
    close(angular_update(*scaled), angular_update(u, w), rtol=1e-5)
    close(radial_fraction(*scaled), radial_fraction(u, w), atol=3e-7)


def test_a_step_along_the_weights_turns_nothing_or_turns_around():
    w = jnp.array([2.0, 2.0, 2.0, 2.0])
    for factor, angle in ((0.5, 0.0), (0.0, 0.0), (-0.5, 0.0), (-2.0, np.pi)):
        close(angular_update(factor * w, w), [angle], rtol=1e-6)
        close(radial_fraction(factor * w, w), [1.0 if factor else 0.0])
    # The angle of a step to zero is not defined: a number, not NaN.
    assert np.isfinite(angular_update(-w, w)).all()


def test_zero_weights_and_zero_updates_give_zero():
    w = {"a": jnp.zeros(3), "b": jnp.array([3.0, 4.0]), "c": jnp.zeros(2)}
    u = {"a": jnp.ones(3), "b": jnp.zeros(2), "c": jnp.zeros(2)}
    close(group_norms(w, groups="leaf"), [0.0, 5.0, 0.0])
    close(radial_fraction(u, w, groups="leaf"), [0.0, 0.0, 0.0])
    close(angular_update(u, w, groups="leaf"), [0.0, 0.0, 0.0])


def test_a_right_angle_and_a_known_fraction():
    w, u = jnp.array([1.0, 0.0]), jnp.array([-1.0, 1.0])
    close(angular_update(u, w), [np.pi / 2])
    close(radial_fraction(u, w), [np.sqrt(0.5)])
    close(radial_fraction(-u, w), [np.sqrt(0.5)])
    close(angular_update(jnp.array([-2.0, 1.0]), w), [3 * np.pi / 4])


def test_narrow_leaves_are_measured_in_float32():
    w = jnp.full(257**2, 2.0, jnp.bfloat16)
    u = jnp.tile(jnp.array([1.0, -1.0], jnp.bfloat16), 257**2)[: 257**2] * 0.125
    norms = group_norms(w)
    assert norms.dtype == jnp.float32
    np.testing.assert_array_equal(norms, [514.0])
    assert float(radial_fraction(u, w)[0]) < 2 / 257**2
    close(angular_update(u, w), [np.arctan(0.0625)], rtol=1e-5)


def test_leaves_without_an_update_stand_outside():
    w = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([8.0, 6.0])}
    u = {"a": None, "b": jnp.array([-3.0, 4.0])}
    close(radial_fraction(u, w, groups="all"), [0.0], atol=1e-7)
    close(angular_update(u, w, groups="all"), [np.arctan(0.5)])  # 5 across 10


def test_updates_of_another_structure_are_refused():
    w = {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match="`updates` must have the tree structure"):
        diagnostics.angular_update({"b": jnp.ones(2)}, w)


# --- observe --------------------------------------------------------------------------


def test_observe_keeps_the_figures_of_the_last_update_and_changes_nothing():
    w, u = random_tree(0), random_tree(1, 0.1)
    tx = diagnostics.observe("neuron")
    out, state = tx.update(u, tx.init(w), w)
    assert all(map(lambda a, b: a is b, jax.tree.leaves(out), jax.tree.leaves(u)))
    close(state.norms, group_norms(w, groups="neuron"))
    close(state.radial_fraction, radial_fraction(u, w, groups="neuron"), atol=3e-7)
    close(state.angular_update, angular_update(u, w, groups="neuron"))
    assert not np.array_equal(state.norms, state.angular_update)


def test_observe_in_a_scan_keeps_its_structure_and_records_each_step():
    tx = optax.chain(lawn.adam(0.05, switch_step=2), diagnostics.observe())
    w = jax.tree.map(jnp.asarray, random_tree(0))
    gradients = [random_tree(seed) for seed in range(5)]

    def step(carry, g):
        w, state = carry
        updates, state = tx.update(g, state, w)
        turned = optax.tree_utils.tree_get(state, "angular_update")
        new = optax.apply_updates(w, updates)
        return (new, state), (w, new, turned, state[-1].norms)

    state = tx.init(w)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    (_, last), (old, new, turned, norms) = jax.jit(
        lambda carry, gs: jax.lax.scan(step, carry, gs)
    )((w, state), stacked)
    assert jax.tree.structure(last) == jax.tree.structure(state)
    for before, after in zip(
        jax.tree.leaves(state), jax.tree.leaves(last), strict=True
    ):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    for t in range(5):
        ws, after = (
            vectors64(jax.tree.map(lambda x, t=t: x[t], tree)) for tree in (old, new)
        )
        close(norms[t], [np.linalg.norm(x) for x in ws])
        # The new weights are rounded: each turn of about 0.05 by about 1e-7.
        turns = [angle64(b - a, a) for a, b in zip(ws, after, strict=True)]
        close(turned[t], turns, rtol=1e-5)
    assert np.ptp(norms[:3], axis=0).min() > 1e-3  # free: it moves
    close(norms[3:], np.broadcast_to(norms[2], (2, 2)))  # constrained: it stands


def test_observe_first_sees_the_gradient_and_last_the_update():
    w, g = random_tree(0), random_tree(1)
    tx = optax.chain(diagnostics.observe(), lawn.wrap(optax.sgd(1e-3)))
    _, state = tx.update(g, tx.init(w), w)
    close(state[0].radial_fraction, radial_fraction(g, w))
    assert state[0].radial_fraction.min() > 1e-2
    tx = optax.chain(lawn.project_tangent(), optax.sgd(1e-3), diagnostics.observe())
    _, state = tx.update(g, tx.init(w), w)
    assert state[-1].radial_fraction.max() < 1e-6


def test_observe_without_params_is_an_error():
    tx = diagnostics.observe()
    w = jnp.ones(3)
    with pytest.raises(ValueError, match="needs `params`"):
        tx.update(w, tx.init(w))


def test_observe_works_under_vmap_and_in_an_abstract_init():
    w = jnp.array([[3.0, 4.0], [5.0, 12.0]])
    tx = diagnostics.observe()
    state = jax.vmap(tx.init)(w)
    _, state = jax.vmap(tx.update)(jnp.ones((2, 2)), state, w)
    np.testing.assert_array_equal(state.norms, [[5.0], [13.0]])
    shapes = jax.eval_shape(tx.init, w[0])
    assert [x.shape for x in shapes] == [(1,)] * 3


# --- by_name --------------------------------------------------------------------------


def test_by_name_splits_in_the_order_of_the_groups():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((4, 2)), "c": jnp.ones(1)}
    parts = diagnostics.by_name(jnp.arange(5.0), params, groups="neuron")
    assert list(parts) == ["a", "b"]
    np.testing.assert_array_equal(parts["a"], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(parts["b"], [3.0, 4.0])
    shapes = jax.eval_shape(lambda: params)
    parts = diagnostics.by_name(jnp.array([7.0, 8.0]), shapes, groups="leaf")
    assert {name: float(x) for name, x in parts.items()} == {"a": 7.0, "b": 8.0}
    assert parts["a"].shape == ()


def test_by_name_keeps_groups_whose_names_print_alike():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    labels = lambda _: {"a": 1, "b": "1"}  # noqa: E731
    parts = diagnostics.by_name(jnp.array([7.0, 8.0]), params, groups=labels)
    assert sorted(float(x) for x in parts.values()) == [7.0, 8.0]


def test_by_name_refuses_a_vector_of_another_length():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    with pytest.raises(ValueError, match="2"):
        diagnostics.by_name(jnp.ones(3), params, groups="leaf")
