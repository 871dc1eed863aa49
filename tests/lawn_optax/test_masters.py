"""Float32 masters: bfloat16 parameters turn as far as their optimizer wants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.asserts import assert_same_bits, close, norms_of, signature, wide
from tests.support.optimizers import loss, network, run, stepper
from tests.support.optional import tree_map_params

ADAM = lawn.wrap(optax.adam(0.01))


def mean_cosine(tx, directions, size=4096):
    """Cosine of the applied and the wanted rotation, both summed over 100 updates."""
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.normal(size=size), jnp.bfloat16)
    gradients = jnp.asarray(rng.normal(size=(directions, size)), jnp.float32)

    def train(tx, w):
        def body(carry, t):
            w, state = carry
            updates, state = tx.update(
                gradients[t % directions].astype(w.dtype), state, w
            )
            return (optax.apply_updates(w, updates), state), None

        carry, _ = jax.lax.scan(body, (w, tx.init(w)), jnp.arange(100))
        return wide(carry[0]) - wide(w)

    applied, wanted = train(tx, start), train(TURN, start.astype(jnp.float32))
    return applied @ wanted / np.linalg.norm(applied) / np.linalg.norm(wanted)


# Each update turns the weights by 1e-3.
TURN = optax.chain(optax.sgd(1.0), baselines.hyperball(1e-3, groups="leaf"))


@pytest.mark.parametrize("directions", [1, 10])
def test_small_rotations_are_kept(directions):
    assert mean_cosine(lawn.master_weights(TURN), directions) > 0.99
    assert mean_cosine(TURN, directions) < 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_are_the_rounded_masters(dtype):
    params = network(dtype)
    params["second"] = network()["second"]  # Wide already: no master.
    history, states = run(lawn.master_weights(ADAM), params, 4)
    for params, state in zip(history[1:], states[1:], strict=True):
        masters = state.masters["first"]
        assert signature(masters, weak=False) == signature(
            network()["first"], weak=False
        )
        rounded = jax.tree.map(lambda m: m.astype(dtype), masters)
        assert_same_bits(params["first"], rounded)
        assert jax.tree.leaves(state.masters["second"]) == []


@pytest.mark.parametrize("masters", [False, True])
def test_small_numbers_of_float16_are_kept(masters):
    tx = lawn.wrap(optax.sgd(3e-5))
    tx = lawn.master_weights(tx) if masters else tx
    w = jnp.array([1e-5, 5e-5, 1.0], jnp.float16)  # The first two are subnormal.
    state, step = tx.init(w), jax.jit(tx.update)
    updates, state = step(jnp.zeros_like(w), state, w)
    assert_same_bits(optax.apply_updates(w, updates), w)
    for _ in range(4):  # A weight that crosses zero does not stay there.
        updates, state = step(jnp.array([1.0, 0.0, 0.0], jnp.float16), state, w)
        w = optax.apply_updates(w, updates)
    close(w.astype(jnp.float32), np.array([-11e-5, 5e-5, 1.0]), atol=3e-7)


def test_leaves_that_are_no_arrays_have_no_master():
    params = {"w": jnp.ones((2, 2), jnp.bfloat16), "activation": jax.nn.relu}
    tx = lawn.master_weights(lawn.wrap(optax.sgd(0.1)))
    gradient = params | {"activation": None}
    updates, state = tx.update(gradient, tx.init(params), params)
    assert updates["activation"] is None
    close(state.masters["w"], 1.0)


def test_wide_parameters_train_as_without():
    bare, _ = run(ADAM, network(), 3)
    ours, _ = run(lawn.master_weights(ADAM), network(), 3)
    assert_same_bits(ours, bare)


@pytest.mark.slow
def test_masters_train_as_wide_parameters():
    start = network("bfloat16")
    ours, states = run(lawn.master_weights(ADAM), start, 5)
    params, state = jax.tree.map(lambda w: w.astype(jnp.float32), start), None
    step = jax.jit(ADAM.update)
    state = ADAM.init(params)
    for narrow in ours[:-1]:  # The gradients are those of the narrow parameters.
        gradient = jax.tree.map(lambda g: g.astype(jnp.float32), jax.grad(loss)(narrow))
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.allclose(a, b, 1e-6), states[-1].masters, params)
    )


def test_changed_parameters_replace_their_masters():
    tx = lawn.master_weights(optax.sgd(1e-3))
    params = {"a": jnp.ones(3, jnp.bfloat16)}
    gradient = {"a": -jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    params["a"] = params["a"].at[0].set(8.0)
    _, state = tx.update(gradient, state, params)
    close(state.masters["a"], np.array([8.001, 1.003, 1.003]), 1e-6)


@pytest.mark.slow
def test_norms_and_reports_are_those_of_the_masters():
    tx = lawn.master_weights(lawn.wrap(optax.adam(0.01), 2, radius=3.0))
    history, states = run(tx, network("bfloat16"), 5)
    close(norms_of(states[-1].masters), 3.0, 1e-6)
    close(lawn.captured_norms(states[-1], history[-1])["first"], 3.0, 1e-6)
    lawn.check(states[-1], history[-1])
    assert "constrained since update 2 of 5" in lawn.describe(
        history[-1], state=states[-1]
    )
    scaled = lawn.to_norms(history[-1], 6.0)
    lawn.check(lawn.recapture(states[-1], scaled, radius=6.0), scaled)


def test_a_run_is_one_program_and_resumes_to_the_same_bits():
    tx = lawn.master_weights(optax.apply_if_finite(ADAM, 3))
    params = network("bfloat16")

    @jax.jit
    def train(params, state):
        body = lambda carry, _: (stepper(tx)(*carry), None)  # noqa: E731
        return jax.lax.scan(body, (params, state), None, 3)[0]

    half = train(params, tx.init(params))
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), half)
    assert_same_bits(train(*restored), train(*half))
    assert signature(half, weak=False) == signature(
        (params, tx.init(params)), weak=False
    )


def test_absent_gradients_pass_and_init_reads_shapes_alone():
    tx = lawn.master_weights(optax.sgd(0.1))
    params = network("bfloat16")
    shapes = jax.eval_shape(lambda: params)
    assert signature(tx.init(shapes)) == signature(tx.init(params))
    gradient = {
        **params,
        "second": {"kernel": params["second"]["kernel"], "bias": None},
    }
    updates, state = tx.update(gradient, tx.init(params), params)
    assert updates["second"]["bias"] is None
    close(state.masters["second"]["bias"], wide(params["second"]["bias"]))
    with pytest.raises(ValueError, match="master_weights needs `params`"):
        tx.update(params, state)


def test_masters_lie_where_their_parameters_lie():
    axes = ("data", "model")
    mesh = jax.make_mesh((4, 2), axes, axis_types=(AxisType.Auto,) * 2)
    spec = {"kernel": P("data", "model"), "bias": P("model")}
    placed = jax.tree.map(lambda s: NamedSharding(mesh, s), spec)
    layer = {
        "kernel": jnp.ones((4, 4), jnp.bfloat16), "bias": jnp.ones(4, jnp.bfloat16)
    }  # fmt: skip
    params = jax.device_put(layer, placed)
    tx = lawn.master_weights(ADAM)
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    for tree in (updates, state.masters, state.inner_state.inner_state[0].mu):
        for leaf, wanted in zip(
            jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim)


def test_masters_and_moments_map_like_the_parameters():
    tx, params = lawn.master_weights(ADAM), network("bfloat16")
    state = tx.init(params)
    mapped = tree_map_params(
        tx, lambda _: "weights", state, transform_non_params=lambda _: "other"
    )
    moments = mapped.inner_state.inner_state[0]
    for part in (mapped.masters, moments.mu, moments.nu):
        assert jax.tree.structure(part) == jax.tree.structure(params)
        assert set(jax.tree.leaves(part)) == {"weights"}
    assert mapped.inner_state.norms == moments.count == "other"


def test_a_gradient_that_is_no_number_passes_and_can_be_skipped():
    params = network("bfloat16")
    nan = jax.tree.map(lambda w: w * jnp.nan, params)
    tx = lawn.master_weights(ADAM)
    updates, _ = tx.update(nan, tx.init(params), params)
    assert np.isnan(updates["first"]["kernel"]).all()
    tx = lawn.master_weights(optax.apply_if_finite(ADAM, 3))
    updates, state = tx.update(nan, tx.init(params), params)
    assert_same_bits(optax.apply_updates(params, updates), params)
    assert state.inner_state.total_notfinite == 1
