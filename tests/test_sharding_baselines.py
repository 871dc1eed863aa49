"""Several devices give the numbers of one, for the other ways to control norms.

Tolerances as in `test_sharding`: float64 within 1e-10, float32 within 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, batch, loss, moved, network, run, stepper
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import lawn_optax as lawn
from lawn_optax import baselines

STEPS = 5
RTOL = {"float32": 1e-5, "float64": 1e-10}
# Kernels split by inputs and by outputs, one bias replicated and one split.
SPECS = {
    "first": {"kernel": P("model", None), "bias": P(None)},
    "second": {"kernel": P(None, "model"), "bias": P("model")},
}
DECAY = optax.piecewise_constant_schedule(0.1, {2: 0.1})
SGD = optax.sgd(0.1)


def unit(method):
    return lambda **k: optax.chain(SGD, baselines.unit_norm(method, **k))


# Those that take `axis_name`, for parameters sharded by hand.
NAMED = {
    "lagrange": unit("lagrange"),
    "coefficient": unit("coefficient"),
    "tangent": unit("tangent"),
    "natural": unit("natural"),
    "hyperball": lambda **k: optax.chain(SGD, baselines.hyperball(0.05, **k)),
    "layca": lambda **k: optax.chain(SGD, baselines.hyperball(0.05, project=True, **k)),
    "control": lambda **k: optax.chain(SGD, baselines.weight_norm_control(0.1, **k)),
    "target": lambda **k: optax.chain(
        SGD, baselines.weight_norm_control(0.1, 1.0, **k)
    ),
    "reparametrize": lambda **k: baselines.reparametrize(optax.adam(0.05), 2, **k),
    "weight_normalization": lambda **k: baselines.weight_normalization(
        optax.adam(0.05), **k
    ),
}
TRANSFORMS = {
    **NAMED,
    "halpern": lambda: optax.chain(optax.adam(0.05), baselines.halpern(0.5)),
    "nmgd": lambda: baselines.nmgd(0.1),
    # So that some leaves of the network are projected, some as one and some not.
    "adamp": lambda: baselines.adamp(0.05, weight_decay=0.1, delta=0.7),
    "sgdp": lambda: baselines.sgdp(0.05, weight_decay=0.1, delta=0.7),
    "bounded": lambda: baselines.bounded_weight_norm(optax.adam(0.05)),
    "rescale_on_decay": lambda: optax.chain(
        optax.sgd(DECAY, 0.9), lawn.rescale_on_decay(DECAY, groups="layer")
    ),
}


def on_one_device(tx, dtype="float32", loss=loss):
    params, states = run(tx, network(dtype), STEPS, loss=loss)
    assert moved(params[0], params[-1])
    return params[-1], states[-1]


def assert_same_run(actual, expected, dtype):
    """Parameters and state within the tolerance; entries near 0 relative to 1."""
    gather = lambda tree: jax.tree.map(np.asarray, tree)  # noqa: E731
    assert_close(gather(actual), gather(expected), rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_sharded_jit_equals_one_device(name, x64):
    tx = TRANSFORMS[name]()
    expected = on_one_device(tx, "float64")
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    place = lambda spec: NamedSharding(mesh, spec)  # noqa: E731
    shardings = jax.tree.map(place, SPECS)
    params = jax.device_put(network("float64"), shardings)
    state = jax.jit(tx.init)(params)
    # What is like the parameters lies where they lie, all else everywhere.
    state = optax.tree.map_params(
        tx,
        jax.device_put,
        state,
        shardings,
        transform_non_params=lambda x: jax.device_put(x, place(P())),
    )
    data = jax.device_put(batch(), place(P("data")))

    @jax.jit
    def step(params, state, data):
        params, state = stepper(tx, lambda p: loss(p, data))(params, state)
        return jax.lax.with_sharding_constraint(params, shardings), state

    for _ in range(STEPS):
        params, state = step(params, state, data)
    assert not params["second"]["kernel"].sharding.is_fully_replicated
    assert_same_run((params, state), expected, "float64")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pmap_with_replicated_parameters_equals_one_device(name):
    tx = TRANSFORMS[name]()

    def step(params, state, data):
        grads = jax.lax.pmean(jax.grad(loss)(params, data), "data")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.pmap(step, axis_name="data")
    carry = jax.tree.map(lambda x: jnp.stack([x] * 8), (network(), tx.init(network())))
    data = tuple(jnp.asarray(a, jnp.float32)[:, None] for a in batch())
    for _ in range(STEPS):
        carry = step(*carry, data)
    expected = on_one_device(tx)
    for device in (0, 7):
        mine = jax.tree.map(lambda x: x[device], carry)  # noqa: B023
        assert_same_run(mine, expected, "float32")


# --- parameters sharded by hand ------------------------------------------------------

INPUT_SPLIT = {
    "first": {"kernel": P("model", None), "bias": P()},
    "second": {"kernel": P(None, "model"), "bias": P()},
}


def pull(params):
    """A loss of which every shard knows its part of the gradient."""
    return sum(jnp.sum(jnp.cos(2 * w) + 0.3 * w) for w in jax.tree.leaves(params))


def pulled(tx, params):
    state = tx.init(params)
    for _ in range(STEPS):
        grads = jax.tree.map(lambda w: 0.3 - 2 * jnp.sin(2 * w), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("check_vma", [True, False], ids=["inferred", "named"])
@pytest.mark.parametrize("name", NAMED)
def test_shard_map_equals_one_device(name, check_vma, x64):
    def axes(params):
        return {layer: {"kernel": "model", "bias": None} for layer in params}

    # One norm per layer: units would lie on one device.
    groups = {"groups": "layer"}
    expected, _ = on_one_device(NAMED[name](**groups), "float64", pull)
    tx = NAMED[name](**groups, **({} if check_vma else {"axis_name": axes}))
    sharded = jax.shard_map(
        lambda params: pulled(tx, params),
        mesh=jax.make_mesh((4, 2), ("data", "model")),
        in_specs=(INPUT_SPLIT,),
        out_specs=INPUT_SPLIT,
        check_vma=check_vma,
    )
    assert_same_run(jax.jit(sharded)(network("float64")), expected, "float64")
