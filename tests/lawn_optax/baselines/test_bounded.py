"""Bounded weight norm against a network that really is reparametrised."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import baselines, groups
from tests.support.asserts import assert_close, assert_same_bits, moved, signature
from tests.support.optimizers import INNERS, loss, network, run, stepper
from tests.support.optional import tree_map_params

KERNELS = ("first", "second")


def radius(kernel):
    """rho = ||V||_F / sqrt(N) for N output channels, from the paper, in NumPy."""
    kernel = np.asarray(kernel, np.float64)
    return np.linalg.norm(kernel) / np.sqrt(kernel.shape[-1])


def normalized(v, radii):
    """The network's parameters as the paper's function of v; biases are themselves."""
    return {
        name: {
            "kernel": jnp.stack(
                [
                    radii[name] * column / jnp.sqrt(jnp.sum(column**2))
                    for column in v[name]["kernel"].T
                ],
                axis=1,
            ),
            "bias": v[name]["bias"],
        }
        for name in KERNELS
    }


def channel_norms(kernel):
    return np.linalg.norm(np.asarray(kernel, np.float64), axis=0)


REFERENCES = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, 0.9, nesterov=True),
    "adam": lambda: optax.adam(0.05),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.3),
    "lamb": lambda: optax.lamb(0.05, weight_decay=0.1),
}


def assert_near(actual, expected):
    """Relative to the largest weight: one near 0 is a difference of numbers like it.

    60 steps amplify the rounding by 2e-16, most in LAMB: to 3e-12 with jax 0.12.
    """
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    assert_close(actual, expected, rtol=0, atol=5e-12 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_it_trains_v_through_the_normalization(name, x64):
    raw, inner = network("float64"), REFERENCES[name]()
    radii = {k: radius(raw[k]["kernel"]) for k in KERNELS}
    start = baselines.bounded_init(raw)
    actual, states = run(baselines.bounded_weight_norm(inner), start, 60)

    weights = jax.jit(lambda v: normalized(v, radii))
    step = jax.jit(stepper(inner, lambda v: loss(normalized(v, radii))))
    v = weights(raw)  # at first v is the normalised weights
    state = inner.init(v)
    for w in actual:
        assert_near(w, weights(v))
        last, (v, state) = v, step(v, state)
    assert_near(states[-1].trained, last)
    assert moved(actual[0], actual[-1])
    # v is unconstrained: its norms have left the sphere, or this tests a projection.
    lengths = channel_norms(states[-1].trained["first"]["kernel"])
    assert np.any(np.abs(lengths / radii["first"] - 1) > 1e-3)


def test_norms_are_the_root_mean_square_of_the_first_ones():
    raw = network()
    start = baselines.bounded_init(raw)
    for name in KERNELS:
        rho = radius(raw[name]["kernel"])
        np.testing.assert_allclose(
            channel_norms(start[name]["kernel"]), rho, rtol=1e-6, equal_nan=False
        )
        directions = start[name]["kernel"] / raw[name]["kernel"]
        assert_close(directions, directions[:1].repeat(len(directions), 0), rtol=1e-6)
        assert_same_bits(start[name]["bias"], raw[name]["bias"])
    assert_close(baselines.bounded_init(start), start, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in INNERS if n != "lbfgs"])
def test_norms_hold_around_any_optimizer_without_a_second_trace(name):
    params, traces = network(), []
    rhos = {k: radius(params[k]["kernel"]) for k in KERNELS}
    tx = baselines.bounded_weight_norm(INNERS[name]())

    @jax.jit
    def step(params, state):
        traces.append(name)
        return stepper(tx)(params, state)

    state = tx.init(params)
    types = signature(state, weak=False)
    for _ in range(12):  # from the first update on, whatever the start
        params, state = step(params, state)
        for k in KERNELS:
            np.testing.assert_allclose(
                channel_norms(params[k]["kernel"]), rhos[k], rtol=1e-6, equal_nan=False
            )
    assert signature(state, weak=False) == types and len(traces) == 1
    assert moved(network(), params)


@pytest.mark.parametrize(("dtype", "ulp"), [("bfloat16", 2**-7), ("float16", 2**-10)])
def test_low_precision_weights_are_the_exact_ones_rounded_once(dtype, ulp):
    params = network(dtype)
    rho = {k: radius(params[k]["kernel"]) for k in KERNELS}
    history, states = run(baselines.bounded_weight_norm(optax.sgd(0.1)), params, 8)
    assert {x.dtype.name for x in jax.tree.leaves(history[-1])} == {dtype}
    same = []
    for w, state in zip(history[1:], states[1:], strict=True):
        for k in KERNELS:
            v = np.asarray(state.trained[k]["kernel"], np.float64)
            exact = rho[k] * v / np.linalg.norm(v, axis=0)
            # An update that is not small beside the weight may be rounded itself.
            actual = np.asarray(w[k]["kernel"], np.float64)
            np.testing.assert_allclose(actual, exact, ulp, ulp / 10, equal_nan=False)
            same.append(np.asarray(w[k]["kernel"] == jnp.asarray(exact, dtype)))
    assert np.mean(np.concatenate([x.ravel() for x in same])) > 0.95
    assert moved(history[1], history[-1])


def test_a_low_precision_gradient_of_v_is_rounded_once():
    params = network("bfloat16")
    grads = jax.tree.map(lambda x: 1e-3 * x[::-1], network("bfloat16", seed=1))
    seen = []

    def look(updates, state, params=None):
        seen.append(updates)
        return updates, state

    probe = optax.GradientTransformation(lambda _: optax.EmptyState(), look)
    tx = baselines.bounded_weight_norm(probe)
    tx.update(grads, tx.init(params), params)
    for k in KERNELS:
        v, g = (np.asarray(t[k]["kernel"], np.float64) for t in (params, grads))
        length = np.linalg.norm(v, axis=0)
        along = v * (g * v).sum(axis=0) / length**2
        exact = radius(v) / length * (g - along)
        actual = np.asarray(seen[0][k]["kernel"], np.float64)
        np.testing.assert_allclose(actual, exact, 2**-8, 1e-9, equal_nan=False)
        assert_same_bits(seen[0][k]["bias"], grads[k]["bias"])


def test_complex_channels_are_those_of_their_real_parts():
    rng = np.random.default_rng(0)
    real = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    joined = lambda x: {"kernel": x[0] + 1j * x[1]}  # noqa: E731
    stacked = lambda x: {"kernel": x.reshape(10, 3)}  # noqa: E731
    tx = baselines.bounded_weight_norm(optax.sgd(0.2, 0.9))
    one, two = joined(real), stacked(real)
    state_one, state_two = tx.init(one), tx.init(two)
    for _ in range(5):
        grads = two["kernel"].reshape(2, 5, 3) - target
        update, state_one = tx.update(joined(grads), state_one, one)
        one = optax.apply_updates(one, update)
        update, state_two = tx.update(stacked(grads), state_two, two)
        two = optax.apply_updates(two, update)
        expected = joined(two["kernel"].reshape(2, 5, 3))
        assert_close(one, expected, rtol=1e-5, atol=1e-6)
    assert moved(joined(real), one)


def test_a_zero_channel_is_free_and_so_is_the_whole_of_a_zero_kernel():
    params = network()
    params["first"]["kernel"] = params["first"]["kernel"].at[:, 1].set(0)
    params["second"]["kernel"] = jnp.zeros((3, 2))
    assert_same_bits(
        baselines.bounded_init(params)["first"]["kernel"][:, 1], jnp.zeros(4)
    )
    tx = baselines.bounded_weight_norm(optax.sgd(0.1))
    grads = jax.tree.map(jnp.ones_like, params)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_close(params["first"]["kernel"][:, 1], jnp.full(4, -0.2), rtol=1e-6)
    assert_close(params["second"]["kernel"], jnp.full((3, 2), -0.2), rtol=1e-6)
    assert (np.asarray(state.norms) > 0).tolist() == [True, False, True, False, False]


def test_v_that_decays_to_nothing_leaves_finite_weights():
    params = baselines.bounded_init(network())
    tx = baselines.bounded_weight_norm(optax.add_decayed_weights(-1.0))
    grads, state = jax.tree.map(jnp.zeros_like, params), tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert not np.any(state.trained["first"]["kernel"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_a_gradient_of_nan_passes_and_can_be_skipped():
    params = baselines.bounded_init(network())
    bad = jax.tree.map(jnp.ones_like, params)
    bad["first"]["kernel"] = bad["first"]["kernel"].at[0, 0].set(jnp.nan)
    tx = baselines.bounded_weight_norm(optax.sgd(0.1))
    updates, _ = tx.update(bad, tx.init(params), params)
    assert np.isnan(updates["first"]["kernel"][0, 0])
    assert np.isfinite(updates["first"]["kernel"][:, 1:]).all()
    assert np.isfinite(updates["second"]["kernel"]).all()
    guarded = optax.apply_if_finite(tx, 3)
    _, skipped = guarded.update(bad, guarded.init(params), params)
    good = jax.grad(loss)(params)
    after, _ = guarded.update(good, skipped, params)
    expected, _ = tx.update(good, tx.init(params), params)
    assert_close(after, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gap", [None, optax.MaskedNode()], ids=["None", "MaskedNode"])
def test_absent_gradients_and_parameters_stay_absent(gap):
    params, tx = network(), baselines.bounded_weight_norm(optax.sgd(0.1))
    params["third"] = {"kernel": gap}
    grads = {**jax.grad(loss)(network()), "third": {"kernel": gap}}
    grads["first"] = {"kernel": gap, "bias": gap}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        assert updates["third"]["kernel"] == gap == updates["first"]["kernel"]
        assert moved(params["second"], updates["second"])
    assert_same_bits(state.trained["first"], params["first"])


def test_the_state_is_made_from_shapes_and_maps_like_the_parameters():
    params, tx = network(), baselines.bounded_weight_norm(optax.adam(0.1))
    shapes = jax.eval_shape(lambda: params)
    state = tx.init(params)
    assert_same_bits(tx.init(shapes), state)
    assert signature(jax.eval_shape(tx.init, params)) == signature(state)
    named = jax.tree_util.tree_map_with_path(lambda path, _: str(path), params)
    mapped = tree_map_params(tx, lambda _, name: name, state, named)
    assert mapped.trained == mapped.inner_state[0].mu == named
    assert_same_bits(mapped.norms, jnp.zeros(5))


def test_members_of_vmap_are_single_runs():
    tx = baselines.bounded_weight_norm(optax.adam(0.05))
    members = [network(seed=s) for s in range(3)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *members)
    state = jax.vmap(tx.init)(stack)
    step = jax.jit(jax.vmap(stepper(tx)))
    for _ in range(4):
        stack, state = step(stack, state)
    for i, member in enumerate(members):
        alone = run(tx, member, 4)[0][-1]
        one = jax.tree.map(lambda x, i=i: x[i], stack)
        assert_close(one, alone, rtol=1e-4, atol=1e-5)


def test_groups_choose_the_channels():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    rows = groups.only_matrices(groups.neuron(0))
    params = baselines.bounded_init({"embedding": table}, groups=rows)
    tx = baselines.bounded_weight_norm(optax.adam(0.05), groups=rows)
    state = tx.init(params)
    for _ in range(3):
        grads = jax.tree.map(lambda w: w - 1, params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    norms = np.linalg.norm(params["embedding"], axis=1)
    expected = np.linalg.norm(table) / np.sqrt(5)
    np.testing.assert_allclose(norms, expected, rtol=1e-6, equal_nan=False)
    assert state.norms.shape == (5,)


def test_bad_input_is_refused():
    tx, params = baselines.bounded_weight_norm(optax.sgd(0.1)), network()
    with pytest.raises(ValueError, match="bounded_weight_norm needs `params`"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="(?s)No parameter is constrained.*not a mat"):
        tx.init({"bias": jnp.ones(3)})
    with pytest.raises(ValueError, match="(?s)`updates` must have the tree structure"):
        tx.update({"first": params["first"]}, tx.init(params), params)
