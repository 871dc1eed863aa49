"""What one can pass to the reports, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import lawn_optax as lawn

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [4.0, 2.0]]), "bias": jnp.zeros(2)},
    "head": {"kernel": jnp.array([3.0, 4.0])},
}  # norms 5 and 5


class Net(nnx.Module):
    def __init__(self, rngs, normed=False):
        self.body = nnx.Linear(2, 3, rngs=rngs)
        layers = [nnx.Linear(3, 3, rngs=rngs)]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers
        self.drop = nnx.Dropout(0.5, rngs=rngs)  # a key and a count
        if normed:
            self.norm = nnx.BatchNorm(3, rngs=rngs)


NAMES = {"body", "layers/0"}


def test_an_nnx_model_has_the_groups_of_its_optimizer():
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lawn.wrap(optax.sgd(0.1)), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    params = nnx.state(model, nnx.Param)
    models = (model, nnx.state(model), params, nnx.to_pure_dict(params))
    states = (optimizer, optimizer.opt_state, nnx.state(optimizer),
              nnx.to_pure_dict(nnx.state(optimizer)))  # fmt: skip
    for same, state in zip(models, states, strict=True):
        norms = lawn.captured_norms(state, same)
        assert set(norms) == NAMES
        assert "constrained since update 0 of 1" in lawn.describe(same, state=state)
        now = lawn.diagnostics.by_name(lawn.diagnostics.group_norms(same), same)
        for name in NAMES:
            np.testing.assert_allclose(norms[name], now[name], rtol=1e-5)


def test_batch_statistics_are_refused_with_what_to_pass():
    model = Net(nnx.Rngs(0), normed=True)
    for wrong in (model, nnx.state(model)):
        for call in (lawn.describe, lawn.diagnostics.group_norms,
                     lawn.wrap(optax.sgd(0.1)).init):  # fmt: skip
            with pytest.raises(ValueError, match=r"norm/mean is of the kind BatchStat"):
                call(wrong)
    assert "norm " in lawn.describe(nnx.state(model, nnx.Param))
    variables = {"params": PARAMS, "batch_stats": {"norm": {"mean": jnp.ones(2)}}}
    with pytest.raises(ValueError, match=r"kind batch_stats.*variables\['params'\]"):
        lawn.describe(variables)
    free = lawn.groups.not_paths("batch_stats")
    assert "params/dense" in lawn.describe(variables, free)


def test_an_nnx_model_with_several_kinds_of_parameters_is_refused():
    class Adapted(nnx.Module):
        def __init__(self, rngs):
            self.body = nnx.Linear(2, 3, rngs=rngs)
            self.lora = nnx.LoRA(2, 2, 3, rngs=rngs)

    model = Adapted(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"several kinds.*nnx\.state\(model, wrt\)"):
        lawn.describe(model)
    assert "body" not in lawn.describe(nnx.state(model, nnx.LoRAParam), "leaf")


def test_an_optimizer_or_a_train_state_as_parameters_is_refused():
    train_state = TrainState.create(
        apply_fn=None, params=PARAMS, tx=lawn.wrap(optax.adam(0.1))
    )
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lawn.wrap(optax.sgd(0.1)), wrt=nnx.Param)
    for wrong in (train_state, optimizer, nnx.state(optimizer)):
        for call in (lawn.describe, lawn.diagnostics.group_norms):
            with pytest.raises(ValueError, match="train_state.params"):
                call(wrong)
    assert "free phase" in lawn.describe(train_state.params, state=train_state)


def test_functions_in_a_model_are_free():
    tx, params = lawn.wrap(optax.sgd(0.1)), PARAMS
    _, state = tx.update(params, tx.init(params), params)
    model = {**params, "activation": jax.nn.relu, "mode": "train"}
    report = lawn.describe(model, state=state)
    for name in ("activation", "mode"):
        (line,) = [x for x in report.splitlines() if x.startswith(name)]
        assert line.split(maxsplit=1)[1] == "-  not an array"
    np.testing.assert_array_equal(
        lawn.diagnostics.group_norms(model), lawn.diagnostics.group_norms(params)
    )
    assert lawn.captured_norms(state, model) == lawn.captured_norms(state, params)


def test_states_of_several_members_are_refused():
    tx = lawn.wrap(optax.sgd(0.1))
    members = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), PARAMS)
    states = jax.vmap(lambda p: tx.update(p, tx.init(p), p)[1])(members)
    for params in (PARAMS, members):
        with pytest.raises(ValueError, match=r"one member.*\(3,\).*lambda x: x\[0\]"):
            lawn.describe(params, state=states)
        with pytest.raises(ValueError, match="one member"):
            lawn.captured_norms(states, params)
    one = jax.tree.map(lambda x: x[1], states)
    assert lawn.captured_norms(one, PARAMS)["head"] == 10
    # Equal copies are read, but not beside copies of the parameters.
    copies = jax.tree.map(lambda x: jnp.stack([x, x, x]), (PARAMS, one))
    assert lawn.captured_norms(copies[1], PARAMS)["head"] == 10
    with pytest.raises(ValueError, match="one member"):
        lawn.describe(copies[0], state=copies[1])
