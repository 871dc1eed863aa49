"""The captured norms by the names of their groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.reports import PARAMS, train, training

SWITCHING = {
    "wrap": lambda n: lawn.wrap(optax.adam(0.1), n),
    "lamb in a chain": lambda n: optax.chain(
        optax.clip_by_global_norm(1.0), lawn.lamb(0.1, switch_step=n)
    ),
    "in MultiSteps": lambda n: optax.MultiSteps(lawn.sgd(0.1, switch_step=n), 1),
    "the parts": lambda n: optax.chain(
        lawn.switch_at(n, lawn.project_tangent()),
        lawn.reset_at(n, optax.sgd(0.1)),
        lawn.switch_at(n, lawn.renormalize()),
    ),
    "reparametrize": lambda n: lawn.baselines.reparametrize(optax.sgd(0.1), n),
}


@pytest.mark.parametrize("name", SWITCHING)
def test_captured_norms_are_those_of_the_switch_by_name(name):
    history = list(training(SWITCHING[name](2), steps=3))
    expected = lawn.diagnostics.by_name(
        lawn.diagnostics.group_norms(history[1][0]), PARAMS
    )
    assert set(expected) == {"dense", "head"}
    free = lawn.captured_norms(history[1][1], PARAMS)
    assert free == {"dense": 0, "head": 0}  # captured in the update to come
    shapes = jax.eval_shape(lambda: PARAMS)
    norms = lawn.captured_norms(history[2][1], shapes)
    assert norms.keys() == expected.keys()
    for group in norms:
        np.testing.assert_allclose(norms[group], expected[group], rtol=1e-6)


def test_captured_norms_of_slices_and_of_replicas():
    tx = lawn.wrap(optax.sgd(0.1), groups="neuron")
    _, state = train(tx)
    norms = lawn.captured_norms(state, PARAMS, groups="neuron")
    kernel, bias = PARAMS["dense"]["kernel"], PARAMS["dense"]["bias"]
    expected = np.sqrt(np.sum(kernel**2, axis=0) + bias**2)
    np.testing.assert_allclose(norms["dense/kernel"], expected, rtol=1e-6)
    replicas = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    again = lawn.captured_norms(replicas, PARAMS, groups="neuron")
    np.testing.assert_array_equal(again["dense/kernel"], norms["dense/kernel"])


def test_captured_norms_of_bounded_weight_norm():
    channels = lawn.groups.only_matrices("neuron")
    params, state = train(lawn.baselines.bounded_weight_norm(optax.sgd(0.1)))
    (norms,) = lawn.captured_norms(state, params, groups=channels).values()
    now = np.linalg.norm(params["dense"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, now, rtol=1e-6)


def test_captured_norms_say_which_state_they_need():
    _, state = train(lawn.wrap(optax.sgd(0.1)))
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.captured_norms(optax.sgd(0.1).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="no LAWN state"):
        _, other = train(lawn.baselines.weight_normalization(optax.sgd(0.1)))
        lawn.captured_norms(other, PARAMS)
    with pytest.raises(ValueError, match="made for other groups"):
        lawn.captured_norms(state, PARAMS, groups="leaf")
    half = state._replace(norms=state.norms / 2)
    assert lawn.captured_norms((state, state), PARAMS)
    with pytest.raises(ValueError, match="has 2 LAWN states.*different norms"):
        lawn.captured_norms((state, half), PARAMS)
