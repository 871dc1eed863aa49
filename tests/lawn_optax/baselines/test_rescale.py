"""Weights shrink exactly where the rate decays, and are in equilibrium at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, signature
from tests.support.optimizers import network
from tests.support.optional import partition


def steps_of(tx, params, gradients):
    """The updates and the parameters after each of them, in one compiled scan."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (updates, params)

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)
    scan = jax.jit(lambda carry, gs: jax.lax.scan(step, carry, gs))
    return scan((params, tx.init(params)), stacked)[1]


def gradients_like(params, steps):
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return [jax.tree.map(draw, params) for _ in range(steps)]


def at(tree, t):
    return jax.tree.map(lambda x: x[t], tree)


def test_weights_shrink_between_the_last_update_at_the_old_rate_and_the_next(x64):
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.1, 5: 0.5})
    tx = optax.chain(optax.sgd(rate), lawn.rescale_on_decay(rate, groups="layer"))
    params = network(jnp.float64)
    gradients = gradients_like(params, 8)
    _, found = steps_of(tx, params, gradients)
    # Rates 0.1 0.1 0.1 0.01 0.01 0.005 ...: the weights that update 3 finds are
    # divided by 10^(1/4), those that update 5 finds by 2^(1/4).
    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005, 0.005]
    divisors = {2: 10**0.25, 4: 2**0.25}
    expected = jax.tree.map(np.asarray, params)
    for t in range(8):
        expected = jax.tree.map(
            lambda w, g, t=t: (w - rates[t] * np.asarray(g)) / divisors.get(t, 1.0),
            expected,
            gradients[t],
        )
        # Optax's schedules are float32.
        assert_close(at(found, t), expected, rtol=1e-6, atol=1e-7)


def test_updates_away_from_a_decay_keep_their_bits_and_the_state_its_types():
    rate = optax.piecewise_constant_schedule(0.1, {3: 0.1})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    params, state = network(), tx.init(network())
    types, changed = signature(state), []
    update = jax.jit(tx.update)
    for t, g in enumerate(gradients_like(params, 6)):
        updates, state = update(g, state, params)
        assert signature(state) == types
        assert int(state.count) == t + 1
        try:
            assert_same_bits(updates, g)
        except AssertionError:
            changed.append(t)
    assert changed == [2]


def test_free_leaves_are_not_touched():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    groups = lawn.groups.not_paths("second", base=lawn.groups.only_matrices())
    tx = lawn.rescale_on_decay(rate, groups=groups)
    params = network()
    params["steps"] = jnp.array([3, 4])  # an integer is free, too
    updates = jax.tree.map(lambda x: jnp.ones_like(x), params)
    updates["first"]["bias"] = None
    out, _ = tx.update(updates, tx.init(params), params)
    assert out["first"]["bias"] is None
    assert_same_bits(out["second"], updates["second"])
    assert_same_bits(out["steps"], updates["steps"])
    w = np.asarray(params["first"]["kernel"], np.float64)
    # The update is of the size of the weights: an ulp of theirs.
    assert_close(out["first"]["kernel"], (w + 1) / 2 - w, rtol=1e-6, atol=3e-7)


def test_units_and_slices_shrink_alike():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    params = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for groups in ("neuron", "leaf", "all", lawn.groups.stacked(base="leaf")):
        tx = lawn.rescale_on_decay(rate, groups=groups)
        out, _ = tx.update(zeros, tx.init(params), params)
        # Exact: 16 to the power 1/4 is 2.
        np.testing.assert_array_equal(out["kernel"], -params["kernel"] / 2)


@pytest.mark.parametrize(
    "rates",
    [[0.0, 0.5, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]],
    ids=["warm-up from 0", "decay to 0", "always 0"],
)
def test_a_rise_and_a_decay_to_zero_change_nothing(rates):
    table = jnp.array([*rates, rates[-1]])
    tx = lawn.rescale_on_decay(lambda t: table[t], groups="layer")
    params = network()
    gradients = [jax.tree.map(lambda x: 0.1 * x, params)] * 4
    updates, _ = steps_of(tx, params, gradients)
    for t in range(4):
        assert_same_bits(at(updates, t), gradients[t])


def test_a_gradual_decay_shrinks_by_its_total():
    rate = optax.cosine_decay_schedule(1.0, 40, alpha=0.1)
    tx = lawn.rescale_on_decay(rate, groups="layer")
    params = network()
    zeros = [jax.tree.map(jnp.zeros_like, params)] * 45
    _, after = steps_of(tx, params, zeros)
    for t in (9, 29, 44):
        factor = float(rate(t + 1)) ** 0.25
        expected = jax.tree.map(lambda w, f=factor: f * w, params)
        assert_close(at(after, t), expected, rtol=1e-5)  # 40 products in float32
    assert factor == pytest.approx(0.1**0.25)


def test_narrow_weights_are_rounded_once():
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.1})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=4000), jnp.bfloat16)
    u = jnp.asarray(0.01 * rng.normal(size=4000), jnp.bfloat16)
    out, _ = jax.jit(tx.update)(u, tx.init(w), w)
    assert out.dtype == jnp.bfloat16
    exact = (np.asarray(w, np.float64) + np.asarray(u, np.float64)) * 0.1**0.25
    ideal = jnp.asarray(exact, jnp.bfloat16)
    # Where the new weight is less than half the old one, their difference need not be
    # a bfloat16: 0.7% of the weights. Two roundings would miss many times as often.
    assert np.mean(np.asarray(optax.apply_updates(w, out) != ideal)) < 0.015
    twice = w + jnp.asarray(exact - np.asarray(w, np.float64), jnp.bfloat16)
    assert np.mean(np.asarray(twice != ideal)) > 0.05


def test_it_counts_updates_and_not_micro_steps():
    rate = optax.piecewise_constant_schedule(0.1, {2: 1 / 16})
    inner = optax.chain(optax.sgd(rate), lawn.rescale_on_decay(rate, groups="layer"))
    tx = optax.MultiSteps(inner, 3)
    w, state, norms = jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)), []
    for _ in range(9):
        updates, state = tx.update(jnp.zeros(2), state, w)
        w = optax.apply_updates(w, updates)
        norms.append(float(jnp.linalg.norm(w)))
    np.testing.assert_allclose(norms, [5.0] * 5 + [2.5] * 4, rtol=1e-6)


def test_it_works_under_vmap_masked_and_an_abstract_init():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    tx = lawn.rescale_on_decay(rate, groups="layer")
    w = jnp.array([[3.0, 4.0], [6.0, 8.0]])
    state = jax.vmap(tx.init)(w)
    out, _ = jax.vmap(tx.update)(jnp.zeros((2, 2)), state, w)
    np.testing.assert_array_equal(out, -w / 2)
    masked = optax.masked(tx, {"a": True, "b": False})
    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    out, _ = masked.update(zeros, masked.init(params), params)
    assert_same_bits(out, {"a": jnp.array([-1.5, -2.0]), "b": jnp.zeros(2)})
    assert jax.eval_shape(tx.init, params).count.shape == ()


def test_what_it_needs_is_said():
    rate = optax.constant_schedule(0.1)
    with pytest.raises(TypeError, match="`schedule` must be a function.*got 0.1"):
        lawn.rescale_on_decay(0.1, groups="layer")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="groups"):
        lawn.rescale_on_decay(rate)  # pyright: ignore[reportCallIssue]
    tx, w = lawn.rescale_on_decay(rate, groups="layer"), jnp.ones(3)
    with pytest.raises(ValueError, match="rescale_on_decay needs `params`"):
        tx.update(w, tx.init(w))
    nothing = lawn.rescale_on_decay(rate, groups=lambda _: None)
    with pytest.raises(ValueError, match="No parameter is constrained"):
        nothing.init(w)
    with pytest.raises(ValueError, match="`updates` must have the tree structure"):
        tx.update({"a": w}, tx.init(w), {"b": w})


def test_only_the_moments_of_chosen_leaves_are_rescaled():
    rate = optax.piecewise_constant_schedule(0.1, {1: 1 / 16})
    inner = partition(
        {"a": optax.adam(rate, mu_dtype=jnp.bfloat16), "b": optax.sgd(rate, 0.5)},
        {"first": "a", "second": "b"},
    )
    groups = lawn.groups.only_paths("kernel")
    tx = lawn.rescale_on_decay(rate, groups=groups, inner=inner)
    params = network()
    grads = jax.tree.map(jnp.ones_like, params)
    _, found = tx.update(grads, tx.init(params), params)
    _, alone = inner.update(grads, inner.init(params), params)
    get = optax.tree_utils.tree_get
    # 16 to the power 1/4 is 2.
    for name, factor in (("mu", 2), ("nu", 4), ("trace", 2)):
        module = "second" if name == "trace" else "first"
        new, old = get(found, name)[module], get(alone, name)[module]
        assert new["kernel"].dtype == old["kernel"].dtype
        np.testing.assert_array_equal(new["kernel"], factor * old["kernel"])
        np.testing.assert_array_equal(new["bias"], old["bias"])


def test_moments_of_an_unknown_kind_are_refused():
    rate = optax.constant_schedule(0.1)
    for inner, name in (
        (optax.adagrad(rate), "sum_of_squares"),
        (optax.lion(rate), ""),
    ):
        tx = lawn.rescale_on_decay(rate, groups="layer", inner=inner)
        if name:
            with pytest.raises(ValueError, match=f"`{name}` of `inner`"):
                tx.init(network())
        else:
            tx.init(network())
    flat = optax.flatten(optax.adam(rate))
    with pytest.raises(ValueError, match="not shaped like the parameters"):
        lawn.rescale_on_decay(rate, groups="layer", inner=flat).init(network())


def test_an_inner_that_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="`inner` must be an Optax transformation"):
        lawn.rescale_on_decay(lambda t: 0.1, groups="layer", inner=optax.adam)  # pyright: ignore[reportArgumentType]
