"""Parameters as Flax, Equinox and plain JAX keep them; checkpoints; differentiation."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, moved, norms_of
from tests.support.optimizers import INNERS, batch, loss, network, run, stepper
from tests.support.optional import NnxList

SWITCH = 2
X, Y = (jnp.asarray(a, jnp.float32) for a in batch())


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="second")(jnp.tanh(nn.Dense(3, name="first")(x)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 3, rngs=rngs)
        self.second = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def test_linen_train_state_trains_as_the_plain_tree():
    model, tx = Linen(), lawn.wrap(optax.adam(0.05), SWITCH)
    state = TrainState.create(apply_fn=model.apply, params={"params": network()}, tx=tx)

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.mean((state.apply_fn(p, X) - Y) ** 2))
        return state.apply_gradients(grads=grads(state.params))

    for _ in range(5):
        state = step(state)
    expected, states = run(tx, network(), 5)
    assert_close(state.params["params"], expected[-1], rtol=1e-5, atol=1e-6)
    assert_close(state.opt_state.norms, states[-1].norms, rtol=1e-5)
    report = lawn.describe(state.params, state=state.opt_state)
    assert "constrained since update 2 of 5" in report
    assert "params/first/bias (3), params/first/kernel (4, 3)" in report


@pytest.mark.parametrize("name", ["momentum", "adamw", "muon", "lamb"])
def test_nnx_optimizer_trains_as_the_plain_tree(name):
    model = Nnx(nnx.Rngs(0))
    nnx.update(model, network())
    tx = lawn.wrap(INNERS[name](), SWITCH)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, margin):
        grads = nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
        optimizer.update(model, grads, switch_value=margin)

    for margin in range(5):
        step(model, optimizer, float(margin))
    params = nnx.state(model, nnx.Param)
    expected, states = run(tx, network(), 5)
    assert_close(nnx.to_pure_dict(params), expected[-1], rtol=1e-5, atol=1e-6)
    # Kernel and bias of one module share a norm: two norms, not four.
    norms = optax.tree_utils.tree_get(nnx.to_pure_dict(nnx.state(optimizer)), "norms")
    assert_close(norms, states[-1].norms, rtol=1e-5)
    report = lawn.describe(params)
    assert "first/bias (3), first/kernel (4, 3)" in report and "value" not in report


def test_nnx_optimizer_passes_a_trigger_its_statistic():
    model = Nnx(nnx.Rngs(0))
    tx = lawn.wrap(optax.sgd(0.1), lawn.switch_when(3.0, decay=0.0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
    for margin in (1.0, 3.0, 3.0):
        optimizer.update(model, grads, switch_value=margin)
    phase = nnx.to_pure_dict(nnx.state(optimizer))["opt_state"]["phase"]
    assert int(phase["switched_at"]) == 2


def test_nnx_lists_of_modules_have_a_norm_per_module():
    class Stack(nnx.Module):
        def __init__(self, rngs):
            self.layers = NnxList([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])

    params = nnx.state(Stack(nnx.Rngs(0)), nnx.Param)
    assert lawn.wrap(optax.sgd(0.1)).init(params).norms.shape == (2,)
    bare = {"weights": [jnp.ones(3), jnp.ones(3)]}
    assert lawn.wrap(optax.sgd(0.1)).init(bare).norms.shape == (2,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:  # as Equinox has it: weight of shape (out, in), bias None if unused
    weight: jax.Array
    bias: jax.Array | None = None
    use_bias: bool = dataclasses.field(default=True, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Mlp:
    layers: list[Linear]
    activation: Any = dataclasses.field(default=jnp.tanh, metadata={"static": True})

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(x @ layer.weight.T + layer.bias[None])
        return x @ self.layers[-1].weight.T


def test_equinox_style_modules_keep_a_norm_per_layer():
    plain = network()
    first, second = plain["first"], plain["second"]
    model = Mlp(
        [
            Linear(first["kernel"].T, first["bias"]),
            Linear(second["kernel"].T, None, False),
        ]
    )
    square = lambda model: jnp.mean((model(X) - Y) ** 2)  # noqa: E731
    params, states = run(lawn.wrap(optax.adam(0.05), SWITCH), model, 5, loss=square)
    assert isinstance(params[-1], Mlp) and params[-1].layers[1].bias is None
    assert moved(params[SWITCH], params[-1])
    assert_close(norms_of(params[-1]), states[-1].norms, rtol=1e-6)
    report = lawn.describe(model, state=states[-1])
    assert "layers/0/weight (3, 4), layers/0/bias (3)" in report
    # The units are the rows.
    rows, _ = run(
        lawn.wrap(optax.adam(0.05), groups=lawn.groups.neuron(0)), model, 3, loss=square
    )
    for before, after in zip(rows[0].layers, rows[-1].layers, strict=True):
        both = [
            layer.weight if layer.bias is None else jnp.c_[layer.weight, layer.bias]
            for layer in (before, after)
        ]
        lengths = [jnp.linalg.norm(w, axis=1) for w in both]
        assert_close(lengths[1], lengths[0], rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class WithFunction:  # as in Equinox, whose activation functions are leaves
    weight: jax.Array | None
    activation: Any = jnp.tanh
    name: Any = "layer"


@pytest.mark.parametrize(
    "tx",
    [
        lawn.wrap(optax.adamw(0.05, weight_decay=0.1), 1),
        lawn.lamb(0.05),
        optax.chain(lawn.project_tangent(), lawn.reset_at(1, optax.adam(0.1))),
        optax.chain(lawn.baselines.adamp(0.1), lawn.diagnostics.observe()),
        lawn.baselines.reparametrize(optax.sgd(0.1)),
        lawn.baselines.nmgd(0.1),
    ],
    ids=["wrap", "lamb", "parts", "adamp", "reparametrize", "nmgd"],
)
def test_a_whole_module_may_be_given_to_update(tx):
    weight = jnp.array([[3.0, 1.0], [4.0, 2.0]])
    model = [WithFunction(weight), WithFunction(weight + 1)]
    strip = lambda x: dataclasses.replace(x, activation=None, name=None)  # noqa: E731
    arrays = [strip(layer) for layer in model]
    grads = [dataclasses.replace(x, weight=jnp.eye(2)) for x in arrays]
    state = expected = tx.init(arrays)
    for _ in range(2):
        updates, state = tx.update(grads, state, model)
        wanted, expected = tx.update(grads, expected, arrays)
        assert_same_bits((updates, state), (wanted, expected))


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


W1, W2 = jnp.array([[3.0, 4.0]]), jnp.array([6.0, 8.0])


@pytest.mark.parametrize(
    ("params", "norms"),
    [
        ([W1, W2], [5.0, 10.0]),
        ((W1, W2), [125.0**0.5]),
        (Pair(W1, W2), [125.0**0.5]),
        ([(W1, W2), (W2, W1)], [125.0**0.5] * 2),
        ({"net": [Pair(W1, W2), None], "head": (W2, [W1])}, [10.0, 5.0, 125.0**0.5]),
        (W1, [5.0]),
    ],
    ids=["list", "tuple", "NamedTuple", "list_of_tuples", "mixed_tree", "one_array"],
)
def test_plain_containers_keep_the_norms_of_their_layers(params, norms):
    def curved(params):  # no leaf has a radial gradient
        leaves = jax.tree.leaves(params)
        return sum(jnp.sum(w * jnp.arange(w.size).reshape(w.shape)) for w in leaves)

    trajectory, states = run(lawn.wrap(optax.adam(0.1)), params, 3, loss=curved)
    assert jax.tree.structure(trajectory[-1]) == jax.tree.structure(params)
    assert moved(params, trajectory[-1])
    assert_close(states[-1].norms, jnp.array(norms), rtol=1e-6)
    assert_close(norms_of(trajectory[-1]), states[-1].norms, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("saved_at", [1, SWITCH, 4], ids=["before", "at", "after"])
@pytest.mark.parametrize("name", ["adam", "schedule_free_adamw"])
def test_a_checkpoint_resumes_to_the_same_bits(name, saved_at, tmp_path):
    tx = optax.chain(optax.clip_by_global_norm(1.0), lawn.wrap(INNERS[name](), SWITCH))
    step = jax.jit(stepper(tx))
    params, state = network(), tx.init(network())
    for t in range(6):
        if t == saved_at:
            with ocp.CheckpointManager(tmp_path) as manager:
                args = {"params": params, "state": state}
                manager.save(t, args=ocp.args.StandardSave(args))
        params, state = step(params, state)

    like = {"params": network(seed=5), "state": tx.init(network(seed=5))}
    with ocp.CheckpointManager(tmp_path) as manager:
        abstract = jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
        restored = manager.restore(saved_at, args=ocp.args.StandardRestore(abstract))
    resumed, resumed_state = restored["params"], restored["state"]
    for _ in range(saved_at, 6):
        resumed, resumed_state = step(resumed, resumed_state)
    assert_same_bits((resumed, resumed_state), (params, state))
    assert int(resumed_state[1].phase.switched_at) == SWITCH
    # Equal numbers of norms, so that only the fingerprint can tell.
    swapped = {
        "first": {"kernel": "a", "bias": "b"},
        "second": {"kernel": "b", "bias": "a"},
    }
    with pytest.raises(ValueError, match="was made for other groups"):
        lawn.describe(resumed, lambda params: swapped, state=resumed_state)
    assert "constrained since update 2 of 6" in lawn.describe(
        resumed, state=resumed_state
    )


@pytest.mark.parametrize("switch_step", [0, 1], ids=["constrained", "free"])
def test_gradients_flow_through_an_update(switch_step, x64):
    # Learning the learning rate: d loss(w + update(rate)) / d rate, by central
    # differences of relative step 1e-5: their error is about its square.
    params = network("float64")
    grads = jax.grad(loss)(params)

    def after(rate):
        tx = lawn.wrap(optax.sgd(rate, 0.9), switch_step)
        updates, _ = tx.update(grads, tx.init(params), params)
        return loss(optax.apply_updates(params, updates))

    value, slope = map(jax.jit, (after, jax.grad(after)))
    h = 1e-5
    expected = (value(0.3 + h) - value(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(slope(0.3), expected, rtol=1e-7, equal_nan=False)
