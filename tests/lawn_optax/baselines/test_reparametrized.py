"""Reparametrised training against networks that really are reparametrised."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines, groups
from tests.support.asserts import assert_close, assert_same_bits, moved, norms_of
from tests.support.optimizers import loss, network, run
from tests.support.optional import from_optax, partition

LAYERS = ("first", "second")


def layer_norm(layer):
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(layer)))


def on_spheres(v, norms):
    """arXiv section 3: x = c v / |v| for each layer, kernel and bias together."""
    return {
        name: jax.tree.map(lambda x, n=name: norms[n] / layer_norm(v[n]) * x, v[name])
        for name in LAYERS
    }


def columns(v, g):
    """Salimans and Kingma, eq. 2: each column of a kernel is g v / |v|."""
    return {
        name: {
            "kernel": g[name][None]
            * v[name]["kernel"]
            / jnp.sqrt(jnp.sum(v[name]["kernel"] ** 2, axis=0, keepdims=True)),
            "bias": v[name]["bias"],
        }
        for name in LAYERS
    }


def train(inner, start, function, steps):
    """Ordinary training of `start` through `function`; (weights seen, last start)."""
    gradient = jax.jit(jax.grad(lambda p: loss(function(p))))
    state, seen = inner.init(start), []
    for _ in range(steps):
        seen.append(function(start))
        updates, state = inner.update(gradient(start), state, start)
        start = optax.apply_updates(start, updates)
    return [*seen, function(start)], start


INNERS = {
    "momentum": lambda: optax.sgd(0.1, 0.9),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.3),
}


@pytest.mark.parametrize("name", INNERS)
def test_lawn_trains_v_through_the_normalization_from_the_switch_on(name, x64):
    inner, switch = INNERS[name](), 3
    history, states = run(
        baselines.reparametrize(inner, switch), network("float64"), switch + 20
    )
    free, free_states = run(inner, network("float64"), switch)
    for ours, theirs in zip(history[: switch + 1], free, strict=True):
        assert_close(ours, theirs, rtol=1e-13, atol=1e-14)  # fused otherwise
    # At the switch v is w, its norm is kept, and the moments restart.
    norms = {k: layer_norm(free[-1][k]) for k in LAYERS}
    expected, v = train(inner, free[-1], lambda v: on_spheres(v, norms), 20)
    for ours, theirs in zip(history[switch:], expected, strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert_close(states[-1].trained, v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(states[-1].norms, [norms[k] for k in LAYERS], rtol=1e-13)
    # v has left the sphere, or this would be a projection.
    assert abs(layer_norm(v["first"]) / norms["first"] - 1) > 1e-3
    assert moved(history[switch], history[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", INNERS)
def test_weight_normalization_trains_lengths_and_directions(name, x64):
    inner, raw = INNERS[name](), network("float64")
    history, states = run(baselines.weight_normalization(inner), raw, 20)
    g = {k: jnp.linalg.norm(raw[k]["kernel"], axis=0) for k in LAYERS}
    expected, (v, g) = train(inner, (raw, g), lambda p: columns(*p), 20)
    for ours, theirs in zip(history, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    trained = states[-1].trained
    assert_close(trained.v, v, rtol=1e-10, atol=1e-12)
    lengths = np.concatenate([g[k] for k in LAYERS])
    np.testing.assert_allclose(trained.g, lengths, rtol=1e-10)
    assert np.all(np.abs(trained.g / states[1].norms - 1) > 1e-3)  # g is free


def test_a_length_may_change_its_sign(x64):
    w = jnp.asarray([[3.0], [4.0]])
    tx = baselines.weight_normalization(optax.sgd(1.0))
    updates, state = tx.update(2 * w, tx.init(w), w)  # dL/dg = 2 |w| = 10
    assert_close(state.trained.g, jnp.asarray([-5.0]), rtol=1e-14)
    assert_close(w + updates, -w, rtol=1e-13)
    # w = g v / |v| with a negative g: dL/dv = (g / |v|) times the projected gradient.
    w, g = w + updates, jnp.asarray([[1.0], [0.0]])
    before = state.trained.v
    _, state = tx.update(g, state, w)
    assert_close(state.trained.v, before + g - 0.12 * before, rtol=1e-13)
    assert_close(state.trained.g, jnp.asarray([-5.6]), rtol=1e-13)


@pytest.mark.slow
def test_the_two_implementations_of_lawn_agree_to_first_order(x64):
    ends = {}
    for steps in (50, 100, 200):
        inner = optax.sgd(2.0 / steps)
        for name, wrap in (("v", baselines.reparametrize), ("w", lawn.wrap)):
            ends[name, steps] = run(wrap(inner), network("float64"), steps)[0][-1]
    apart = [
        np.sqrt(sum(
            np.sum((a - b) ** 2) for a, b in zip(
                jax.tree.leaves(ends["v", n]), jax.tree.leaves(ends["w", n]),
                strict=True,
            )
        )) for n in (50, 100, 200)
    ]  # fmt: skip
    assert apart[0] > 1e-6
    # Halving the step halves the distance over a fixed time, to the next order.
    np.testing.assert_allclose(np.divide(apart[:-1], apart[1:]), 2, rtol=0.15)


def test_norms_hold_from_the_switch_on_and_describe_finds_them():
    tx = baselines.reparametrize(optax.adam(0.05), 2)
    history, states = run(tx, network(), 30)
    held = norms_of(history[2])
    for params in history[2:]:
        np.testing.assert_allclose(norms_of(params), held, rtol=1e-6)
    assert "constrained since update 2 of 30" in lawn.describe(
        history[-1], state=states[-1]
    )
    scales = [float(lawn.logit_scale(s, 0.25)) for s in states[:4]]
    assert scales == [1.0, 1.0, 0.25, 0.25]


@pytest.mark.parametrize(
    ("reset", "count", "first"),
    [("restart", 1, 0.1), ("moments", 4, 0.1), (None, 4, 0.3439)],
)
def test_moments_are_reset_as_asked(reset, count, first):
    tx = baselines.reparametrize(optax.adam(0.1), 3, reset=reset)
    w = jnp.asarray([3.0, 4.0])
    state = tx.init(w)
    for _ in range(4):  # always at right angles, so that nothing is projected away
        _, state = tx.update(jnp.asarray([0.8, -0.6]), state, w)
    # mu = 0.8 (1 - 0.9^4) without a reset, 0.8 * 0.1 after one.
    adam = state.inner_state[0]
    assert int(adam.count) == count
    np.testing.assert_allclose(adam.mu[0], 0.8 * first, rtol=1e-6)


def test_a_zero_group_is_trained_as_it_is():
    params = network()
    params["second"] = jax.tree.map(jnp.zeros_like, params["second"])
    for make in (baselines.reparametrize, baselines.weight_normalization):
        tx = make(optax.sgd(0.1))
        grads = jax.tree.map(jnp.ones_like, params)
        w, state = params, tx.init(params)
        for _ in range(2):
            updates, state = jax.jit(tx.update)(grads, state, w)
            w = optax.apply_updates(w, updates)
        expected = jax.tree.map(lambda x: jnp.full_like(x, -0.2), params["second"])
        assert_close(w["second"], expected, rtol=1e-6)
        free = np.asarray(state.norms) == 0
        assert free.tolist() in ([False, True], [False] * 3 + [True] * 2)


def test_inner_optimizers_may_treat_v_and_g_apart(x64):
    apart = partition(
        {"v": optax.sgd(0.1), "g": optax.set_to_zero()}, baselines.Polar("v", "g")
    )
    w = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))}
    tx = baselines.weight_normalization(apart)
    updates, state = tx.update(w, tx.init(w), w)  # a radial gradient changes g alone
    assert_close(updates, jax.tree.map(jnp.zeros_like, w), rtol=0, atol=1e-15)
    assert_close(state.trained.g, state.norms, rtol=0)


def test_schedule_free_begins_at_the_parameters_of_the_switch(x64):
    tx = baselines.weight_normalization(from_optax("contrib.schedule_free_sgd")(0.1))
    raw = network("float64")
    updates, state = tx.update(jax.grad(loss)(raw), tx.init(raw), raw)
    # z is a copy of what is trained, less one step: g from its norms, not from 0.
    assert np.all(np.asarray(state.inner_state.z.g) > 0.5 * np.asarray(state.norms))
    assert np.all(np.isfinite(updates["first"]["kernel"]))


def test_groups_choose_what_shares_a_length():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    rows = groups.only_matrices(groups.neuron(0))
    tx = baselines.weight_normalization(optax.sgd(0.5), groups=rows)
    updates, state = tx.update(table, tx.init(table), table)
    assert state.trained.g.shape == (5,)
    assert_close(table + updates, 0.5 * table, rtol=1e-6)  # radial: g alone moves


@pytest.mark.parametrize(("dtype", "ulp"), [("bfloat16", 2**-7), ("float16", 2**-10)])
def test_low_precision_weights_are_the_exact_ones_rounded_once(dtype, ulp):
    tx = baselines.reparametrize(optax.sgd(0.1))
    history, states = run(tx, network(dtype), 6)
    for w, state in zip(history[1:], states[1:], strict=True):
        for k, c in zip(LAYERS, np.asarray(state.norms, np.float64), strict=True):
            v = jax.tree.map(lambda x: np.asarray(x, np.float64), state.trained[k])
            length = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(v)))
            exact = jax.tree.map(lambda x, f=c / length: f * x, v)
            assert_close(w[k], exact, rtol=ulp, atol=ulp / 10)
    assert {x.dtype.name for x in jax.tree.leaves(history[-1])} == {dtype}


def test_bad_input_is_refused():
    params = network()
    with pytest.raises(ValueError, match="reparametrize needs `params`"):
        tx = baselines.reparametrize(optax.sgd(0.1))
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="weight_normalization needs `params`"):
        tx = baselines.weight_normalization(optax.sgd(0.1))
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="`reset` must be"):
        baselines.reparametrize(optax.sgd(0.1), reset="all")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be at least 0"):
        baselines.reparametrize(optax.sgd(0.1), -1)
    with pytest.raises(ValueError, match="(?s)No parameter is constrained.*not a mat"):
        baselines.weight_normalization(optax.sgd(0.1)).init({"b": jnp.ones(3)})


def test_leaves_outside_all_groups_follow_who_changes_them():
    tx = baselines.weight_normalization(optax.sgd(0.1))
    params, grads = network(), jax.grad(loss)(network())
    _, state = tx.update(grads, tx.init(params), params)
    params["first"]["bias"] = params["first"]["bias"] + 5
    updates, _ = tx.update(grads, state, params)
    assert_same_bits(updates["first"]["bias"], -0.1 * grads["first"]["bias"])
