"""Leaves that are unusual in type, shape, size or value, and absent ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, moved, norms_of
from tests.support.optimizers import INNERS, loss, network, run, stepper
from tests.support.optional import from_optax

SWITCH = 2


def step(tx, params, grads, state=None):
    """(params, state) after one update with these gradients."""
    state = tx.init(params) if state is None else state
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize(
    "name",
    ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "muon"))],
)
@pytest.mark.parametrize(
    ("dtype", "rtol"),
    # Rounding n weights to half an ulp u each moves their norm by about u / sqrt(n),
    # at worst u: here groups of 8 and 15.
    [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 1e-6)],
)
def test_norms_hold_in_every_type(name, dtype, rtol):
    params, states = run(lawn.wrap(INNERS[name](), SWITCH), network(dtype), 8)
    assert {x.dtype.name for x in jax.tree.leaves(params[-1])} == {dtype}
    assert states[-1].norms.dtype == jnp.float32
    assert moved(params[SWITCH], params[-1])
    for after in params[SWITCH:]:
        np.testing.assert_allclose(
            norms_of(after), states[-1].norms, rtol=rtol, equal_nan=False
        )


def test_float64_norms_hold_in_float64(x64):
    params, states = run(lawn.wrap(optax.adam(0.05), SWITCH), network("float64"), 8)
    assert states[-1].norms.dtype == jnp.float64
    for after in params[SWITCH:]:
        np.testing.assert_allclose(
            norms_of(after), norms_of(params[SWITCH]), rtol=1e-14, equal_nan=False
        )


def test_float32_leaves_keep_float32_norms_under_x64(x64):
    state = lawn.wrap(optax.sgd(0.1)).init(network("float32"))
    assert state.norms.dtype == jnp.float32
    assert lawn.wrap(optax.sgd(0.1)).init(network("bfloat16")).norms.dtype == "float32"


def test_leaves_of_different_types_share_one_norm():
    params = network()
    params["first"]["kernel"] = params["first"]["kernel"].astype(jnp.bfloat16)
    trajectory, states = run(lawn.wrap(optax.adam(0.05)), params, 4)
    types = jax.tree.map(lambda x: x.dtype, params)
    assert jax.tree.map(lambda x: x.dtype, trajectory[-1]) == types
    assert states[-1].norms.shape == (2,)
    np.testing.assert_allclose(
        norms_of(trajectory[-1]), norms_of(params), rtol=2**-8, equal_nan=False
    )


@pytest.mark.parametrize("projections", [1, 2])
def test_complex_weights_are_the_same_problem_as_their_two_real_parts(projections):
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2, 5)).astype(np.float32)
    pair = {"re": jnp.asarray(rng.normal(size=5), jnp.float32)}
    pair["im"] = jnp.asarray(rng.normal(size=5), jnp.float32)

    def real_loss(p):
        # Not a function of |w| alone, so that phases and signs count.
        mixed = p["re"] * 2 + jnp.roll(p["im"], 1)
        return jnp.sum((mixed - target[0]) ** 2) + jnp.sum((p["im"] - target[1]) ** 3)

    def conjugated(tx):  # JAX's gradient of a real loss is conjugate to what is added
        def update(grads, state, params):
            return tx.update(jax.tree.map(jnp.conj, grads), state, params)

        return optax.GradientTransformation(tx.init, update)

    tx = lawn.wrap(optax.sgd(0.01, 0.9), SWITCH, projections=projections)
    whole = pair["re"] + 1j * pair["im"]
    expected, real_states = run(tx, pair, 6, loss=real_loss)
    bare = jax.jit(
        lambda w, s: step(
            conjugated(tx),
            w,
            jax.grad(lambda w: real_loss({"re": w.real, "im": w.imag}))(w),
            s,
        )
    )
    state = tx.init(whole)
    for t in range(6):
        whole, state = bare(whole, state)
        assert whole.dtype == jnp.complex64 and state.norms.dtype == jnp.float32
        parts = {"re": whole.real, "im": whole.imag}
        assert_close(parts, expected[t + 1], rtol=1e-5, atol=1e-6)
    assert_close(state.norms, real_states[-1].norms, rtol=1e-6)
    assert_close(norms_of(whole), norms_of(expected[SWITCH]), rtol=1e-6)


def test_a_complex_leaf_of_one_element_can_turn():
    # Two real elements: unlike a real leaf of one element it has a tangent direction.
    after, state = step(
        lawn.wrap(optax.sgd(1.0)), jnp.asarray([3.0 + 4.0j]), jnp.asarray([4.0 - 3.0j])
    )
    assert_close(jnp.abs(after), jnp.asarray([5.0]), rtol=1e-6)
    assert_close(state.norms, jnp.asarray([5.0]), rtol=1e-6)
    assert abs(after[0] - (3 + 4j)) > 1


def test_leaves_without_a_tangent_direction_follow_the_inner_optimizer():
    params = {
        "layer": {"kernel": jnp.array([3.0, 4.0])},
        "one": {"scale": jnp.array([2.0])},
        "scalar": {"scale": jnp.array(2.0)},
        "none": {"kernel": jnp.zeros((0, 3))},
        "zero": {"kernel": jnp.zeros(3)},
        "huge": {"kernel": jnp.full(3, 1e20)},  # its square is not finite in float32
        "tiny": {"kernel": jnp.full(3, 1e-25)},  # its square is zero
    }
    free = params.keys() - {"layer"}
    tx, bare = lawn.wrap(optax.adam(0.1)), optax.adam(0.1)
    state, bare_state = tx.init(params), bare.init(params)
    mine = theirs = params
    for t in range(3):
        grads = jax.tree.map(lambda w: jnp.full_like(w, 0.5 + t), params)  # noqa: B023
        mine, state = step(tx, mine, grads, state)
        theirs, bare_state = step(bare, theirs, grads, bare_state)
    assert_same_bits(*({k: p[k] for k in free} for p in (mine, theirs)))
    # These have grown by now, and still are free.
    assert norms_of(mine["zero"])[0] > 0.3 and norms_of(mine["tiny"])[0] > 0.3
    constrained = np.asarray(state.norms) > 0
    assert constrained.sum() == 1 and np.isfinite(state.norms).all()
    assert abs(norms_of(mine["layer"])[0] / state.norms[constrained][0] - 1) < 1e-6


@pytest.mark.parametrize("rate", [0.0, 1e6, 1e30])
def test_no_learning_rate_makes_nan(rate):
    params, states = run(lawn.wrap(optax.sgd(rate, 0.9)), network(), 2)
    for after in params:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    if rate < 1e30:  # there the update itself is past the accumulator
        np.testing.assert_allclose(
            norms_of(params[-1]), norms_of(params[0]), rtol=1e-6, equal_nan=False
        )


def test_integer_leaves_and_counters_pass_through():
    params = {"layer": jnp.array([3.0, 4.0]), "steps": jnp.array([1, 2])}
    tx = lawn.wrap(optax.sgd(1.0), groups="leaf")
    grads = {"layer": jnp.array([4.0, -3.0]), "steps": jnp.array([0, 0])}
    updates, state = tx.update(grads, tx.init(params), params)
    assert state.norms.shape == (1,) and updates["steps"].tolist() == [0, 0]


@pytest.mark.parametrize("gap", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
def test_a_leaf_without_gradient_stands_still_outside_the_sphere(gap):
    params, grads = network(), jax.grad(loss)(network())
    tx = lawn.wrap(optax.sgd(0.1))
    grads["first"]["bias"] = gap
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates["first"]["bias"] == gap
    # The rest of the layer keeps its own norm, not that of the whole layer.
    kernel = params["first"]["kernel"]
    after = kernel + updates["first"]["kernel"]
    assert_close(state.norms[0], jnp.linalg.norm(kernel), rtol=1e-6)
    assert_close(jnp.linalg.norm(after), state.norms[0], rtol=1e-6)
    assert moved(kernel, after)
    # A whole layer without gradients is free.
    grads["first"]["kernel"] = gap
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates["first"] == {"kernel": gap, "bias": gap}
    assert state.norms[0] == 0 and state.norms[1] > 0


def test_a_group_of_which_one_element_moves_is_free():
    layer = {"kernel": jnp.ones(3), "bias": jnp.ones(1)}
    params = {"layer": layer, "other": {"kernel": jnp.ones(2)}}
    grads = {"layer": {"kernel": None, "bias": jnp.ones(1)}}
    grads["other"] = {"kernel": jnp.array([1.0, 0.0])}
    tx = lawn.wrap(optax.sgd(0.5))
    updates, state = tx.update(grads, tx.init(params), params)
    assert updates["layer"]["bias"].tolist() == [-0.5]
    assert state.norms[0] == 0 and state.norms[1] > 0


@pytest.mark.parametrize("gap", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
def test_absent_parameters_stay_absent(gap):
    params, grads = network(), jax.grad(loss)(network())
    tx = lawn.wrap(optax.adam(0.1), 1)
    gappy = {**params, "third": {"kernel": gap, "bias": gap}}
    gappy_grads = {**grads, "third": {"kernel": gap, "bias": gap}}
    state = expected_state = None
    for _ in range(2):
        gappy, state = step(tx, gappy, gappy_grads, state)
        params, expected_state = step(tx, params, grads, expected_state)
    assert gappy.pop("third") == {"kernel": gap, "bias": gap}
    assert_same_bits(gappy, params)
    assert_same_bits(state.norms, expected_state.norms)


def test_an_empty_tree_is_no_error_but_a_free_one_is():
    tx = lawn.wrap(optax.adam(0.1))
    for empty in ({}, (), {"a": None}):
        assert tx.update(empty, tx.init(empty), empty)[0] == empty
    with pytest.raises(
        ValueError, match="(?s)No parameter is constrained.*one element"
    ):
        tx.init({"gate": jnp.ones(1)})


@pytest.mark.parametrize(
    "tx",
    [
        lawn.wrap(optax.sgd(0.1)),
        lawn.lamb(0.1),
        lawn.project_tangent(),
        lawn.renormalize(),
    ],
    ids=["wrap", "lamb", "project_tangent", "renormalize"],
)
def test_updates_of_another_tree_are_refused(tx):
    params = network()
    wrong = {"first": params["first"], "other": params["second"]}
    with pytest.raises(ValueError, match="(?s)`updates` must have the tree structure"):
        tx.update(wrong, tx.init(params), params)


@pytest.mark.parametrize("made_for", ["leaf", "layer", "all"])
@pytest.mark.parametrize(
    "make",
    [
        lambda groups: lawn.wrap(optax.sgd(0.1), groups=groups),
        lambda groups: lawn.adam(0.1, groups=groups),
        lambda groups: lawn.lamb(0.1, groups=groups),
        lawn.project_tangent,
        lawn.renormalize,
    ],
    ids=["wrap", "adam", "lamb", "project_tangent", "renormalize"],
)
def test_a_state_for_other_groups_is_refused(make, made_for):
    # Two norms are needed; more and fewer are both wrong.
    params = network()
    params["second"]["bias"] = jnp.ones(1)  # alone and free among the leaves
    groups = lawn.groups.not_paths("second/bias")
    state = make(made_for).init(params)
    message = rf"of the shape \({state.norms.size},\).*have 2.*made for others"
    if made_for == "layer":  # two as well, but not the same two
        message = "made for other groups"
    with pytest.raises(ValueError, match=message):
        make(groups).update(params, state, params)


def test_overflow_in_float32_is_free_and_in_float64_is_not(x64):
    big = jnp.full(3, 1e25)
    for dtype, is_free in (("float32", True), ("float64", False)):
        params = {"big": big.astype(dtype), "small": jnp.ones(2, dtype)}
        tx = lawn.wrap(optax.sgd(1.0), groups="leaf")
        grads = jax.tree.map(lambda w: w * jnp.arange(w.size, dtype=w.dtype), params)
        after, state = step(tx, params, grads)
        assert (state.norms[0] == 0) == is_free and state.norms[1] > 0
        expected = params["big"] - grads["big"]
        if is_free:
            assert_same_bits(after["big"], expected)
        else:
            assert_close(norms_of(after["big"]), norms_of(params["big"]), rtol=1e-14)


def test_gradients_that_overflow_leave_the_weights_finite_or_as_the_inner_does():
    params, grads = network(), jax.tree.map(lambda w: w * 1e25, network(seed=3))
    (bare, _), (mine, state) = (
        step(tx, params, grads) for tx in (optax.adam(0.1), lawn.wrap(optax.adam(0.1)))
    )
    assert np.isfinite(state.norms).all()
    for path, leaf in jax.tree_util.tree_leaves_with_path(mine):
        if np.isfinite(optax.tree_utils.tree_sum(bare)):
            assert np.isfinite(leaf).all(), path


def test_jit_and_eager_agree():
    tx = lawn.wrap(optax.adam(0.05), 1)
    compiled, _ = run(tx, network(), 3)
    params, state = network(), tx.init(network())
    for t in range(3):
        params, state = stepper(tx)(params, state)
        assert_close(params, compiled[t + 1], rtol=1e-5, atol=1e-6)


def test_lbfgs_moments_are_found_beside_a_scalar_leaf():
    params = {"dense": {"kernel": jnp.ones((2, 3))}, "gate": jnp.float32(1)}
    tx = lawn.reset_at(1, from_optax("lbfgs")())
    state = tx.init(params)

    def value_fn(params):
        return sum(jnp.sum(w**2) for w in jax.tree.leaves(params))

    value, grad = jax.value_and_grad(value_fn)(params)
    for _ in range(2):
        _, state = tx.update(
            grad, state, params, value=value, grad=grad, value_fn=value_fn
        )
    assert int(state.inner_state[0].count) == 1  # restarted with its moments
