"""Fused layers train as layers that are stored apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits
from tests.support.optional import from_optax, set_mesh

FUSED = {"qkv": (-1, (4, 2, 2)), "ffn/gate_up": (-1, 2)}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def fused_network():
    return {
        "qkv": {"kernel": draw(6, 8), "bias": draw(8, seed=1)},
        "ffn": {"gate_up": {"kernel": draw(4, 6, seed=2)}, "out": draw(3, 4, seed=3)},
    }


def loss(parts):
    """The loss of the network whose layers are stored apart."""
    q, k, v = (
        jnp.tanh(draw(5, 6, seed=4) @ p["kernel"] + p["bias"][None])
        for p in parts["qkv"]
    )
    x = jnp.concatenate([q[:, :2] * k, q[:, 2:] + v], axis=1)
    gate, up = (x @ p["kernel"] for p in parts["ffn"]["gate_up"])
    return jnp.sum((jax.nn.sigmoid(gate) * up @ parts["ffn"]["out"]) ** 2)


OPTIMIZERS = {
    "wrap": lambda: lawn.wrap(optax.adam(0.05), 3),
    "muonh": lambda: optax.chain(
        from_optax("contrib.muon")(0.05), lawn.baselines.hyperball(0.1, switch_step=2)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_and_separate_storage_train_to_the_same_weights(name, x64):
    def train(tx, params, loss):
        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        for _ in range(8):
            params, state = step(params, state)
        return params, state

    tx = OPTIMIZERS[name]()
    together, state = train(
        lawn.unfuse(tx, FUSED),
        fused_network(),
        lambda params: loss(lawn.unfused(params, FUSED)),
    )
    apart, state_apart = train(tx, lawn.unfused(fused_network(), FUSED), loss)
    assert_close(lawn.unfused(together, FUSED), apart, rtol=1e-8, atol=1e-10)
    assert_close(state, state_apart, rtol=1e-8, atol=1e-10)
    whole, _ = train(tx, fused_network(), lambda p: loss(lawn.unfused(p, FUSED)))
    assert not np.allclose(whole["qkv"]["kernel"], together["qkv"]["kernel"], rtol=1e-3)


def test_parts_are_cut_and_joined_without_a_change():
    params = fused_network()
    tx = lawn.unfuse(optax.scale(1.0), FUSED)
    updates, _ = tx.update(params, tx.init(params), params)
    assert_same_bits(updates, params)
    parts = lawn.unfused(params, FUSED)["qkv"]
    assert [p["kernel"].shape for p in parts] == [(6, 4), (6, 2), (6, 2)]
    shapes = jax.eval_shape(lambda: params)
    assert [p["bias"].shape for p in lawn.unfused(shapes, FUSED)["qkv"]] == [
        *((4,), (2,), (2,))
    ]


def test_a_layer_without_an_update_has_none():
    params = fused_network()
    updates = params | {"qkv": {"kernel": params["qkv"]["kernel"], "bias": None}}
    tx = lawn.unfuse(optax.scale(2.0), FUSED)
    out, _ = tx.update(updates, tx.init(params), params)
    assert out["qkv"]["bias"] is None
    assert_close(out["ffn"], jax.tree.map(lambda x: 2 * x, params["ffn"]), rtol=0)


@pytest.mark.parametrize(
    ("fused", "words"),
    [
        ({"qvk": (-1, 3)}, "No layer has the path 'qvk'"),
        ({"kv": (-1, 3)}, "No layer has the path 'kv'"),
        ({"qkv": (-1, 3)}, "3 does not divide 8"),
        ({"qkv": (-1, (4, 2))}, "do not add up to 8"),
        ({"qkv": (1, 2)}, "axis 1 of qkv, of shape (8,)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fused, words):
    with pytest.raises(ValueError) as error:
        lawn.unfuse(optax.sgd(0.1), fused).init(fused_network())
    assert words in str(error.value)


@pytest.mark.parametrize(
    "parts",
    [(np.int64(-1), 2), (-1, np.int32(2)), [-1, [4, 4]], (-1, np.array([4, 4]))],
)
def test_numbers_of_numpy_and_lists_are_taken(parts):
    params = {"qkv": draw(6, 8)}
    found = lawn.unfused(params, {"qkv": parts})["qkv"]
    assert_same_bits(found, lawn.unfused(params, {"qkv": (-1, 2)})["qkv"])


@pytest.mark.parametrize(
    "fused", [{"qkv": 3}, {"qkv": np.int64(3)}, {"qkv": (None, 3)}, {"qkv": 2.0},
              {"qkv": (-1, 2.0)}, {"qkv": (-1, (2.0, 6.0))}, {"qkv": (-1, 1, 2)},
              ["qkv"]],
)  # fmt: skip
def test_parts_of_another_form_are_refused_in_one_line(fused):
    with pytest.raises(TypeError, match=r"`fused` must .*\(-1, 3\)") as error:
        lawn.unfused({"qkv": draw(6, 8)}, fused)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("separator", ["/", "."])
def test_flattened_names_are_refused_with_the_remedy(separator):
    flat = {separator.join(("a", "qkv", name)): draw(8) for name in ("bias", "kernel")}
    with pytest.raises(ValueError, match=r"unflatten_dict.*Leaves: a/qkv/bias, a/qkv"):
        lawn.unfused(flat, {"qkv": (-1, 2)})


@pytest.mark.slow
@pytest.mark.parametrize("parts", [(4, 2, 2), (4, 4)])
def test_explicit_mesh_axes_that_do_not_divide_a_part(parts):
    tx = lawn.unfuse(lawn.wrap(optax.sgd(0.1, 0.9)), {"qkv": (-1, parts)})

    @jax.jit
    def train(params, state):
        for _ in range(2):
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        return params, state.norms

    params = {"qkv": {"kernel": draw(6, 8), "bias": draw(8, seed=1)}, "out": draw(4, 3)}
    specs = {"qkv": {"kernel": P(None, "x"), "bias": P("x")}, "out": P("x", None)}
    expected = train(params, tx.init(params))
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))
    with set_mesh(mesh):
        split = jax.tree.map(
            lambda w, spec: jax.device_put(w, NamedSharding(mesh, spec)), params, specs
        )
        found, norms = train(split, tx.init(split))
        kept = jax.tree.map(lambda w: jax.typeof(w).sharding.spec, found)
    assert kept == specs
    assert_close(jax.tree.map(np.asarray, (found, norms)), expected, rtol=1e-6)
