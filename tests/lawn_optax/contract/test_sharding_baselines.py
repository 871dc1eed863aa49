"""Several devices give the numbers of one, for the other ways to control norms.

Float64 within 1e-10: only the order of sums differs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.asserts import assert_close, moved
from tests.support.optimizers import batch, loss, network, run, stepper
from tests.support.optional import tree_map_params

STEPS = 3
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
    "reparametrize": lambda **k: baselines.reparametrize(optax.adam(0.05), 1, **k),
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


def devices():
    axes = ("data", "model")
    return jax.make_mesh((4, 2), axes, axis_types=(AxisType.Auto,) * 2)


@functools.cache
def on_one_device(name):
    """Parameters and state; with 64-bit types on."""
    params, states = run(TRANSFORMS[name](), network("float64"), STEPS)
    assert moved(params[0], params[-1])
    return params[-1], states[-1]


def assert_same_run(actual, expected):
    """Within the tolerance; entries near 0 relative to 1."""
    gather = lambda tree: jax.tree.map(np.asarray, tree)  # noqa: E731
    assert_close(gather(actual), gather(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_sharded_jit_equals_one_device(name, x64):
    tx = TRANSFORMS[name]()
    mesh = devices()
    place = lambda spec: NamedSharding(mesh, spec)  # noqa: E731
    shardings = jax.tree.map(place, SPECS)
    params = jax.device_put(network("float64"), shardings)
    state = tx.init(params)
    # What is like the parameters lies where they lie, all else everywhere.
    state = tree_map_params(
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
    assert_same_run((params, state), on_one_device(name))


# One of each kind: a device sees no other's parameters.
SAME_KIND = {"coefficient", "tangent", "natural", "layca", "target", "bounded"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in TRANSFORMS if x not in SAME_KIND])
def test_pmap_with_replicated_parameters_equals_one_device(name, x64):
    tx = TRANSFORMS[name]()

    def step(params, state, data):
        grads = jax.lax.pmean(jax.grad(loss)(params, data), "data")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.pmap(step, axis_name="data")
    params = network("float64")
    carry = jax.tree.map(lambda x: jnp.stack([x] * 8), (params, tx.init(params)))
    data = tuple(jnp.asarray(a)[:, None] for a in batch())
    for _ in range(STEPS):
        carry = step(*carry, data)
    for device in (0, 7):
        mine = jax.tree.map(lambda x: x[device], carry)  # noqa: B023
        assert_same_run(mine, on_one_device(name))


# --- parameters sharded by hand ------------------------------------------------------

INPUT_SPLIT = {
    "first": {"kernel": P("model", None), "bias": P()},
    "second": {"kernel": P(None, "model"), "bias": P()},
}


def pulled(tx, params):
    """Updates of a loss of which every shard knows its part of the gradient."""

    def step(carry, _):
        params, state = carry
        grads = jax.tree.map(lambda w: 0.3 - 2 * jnp.sin(2 * w), params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[0][0]


def axes_by_hand(params):
    return {layer: {"kernel": "model", "bias": None} for layer in params}


@pytest.mark.parametrize("name", NAMED)
def test_shard_map_equals_one_device(name, x64):
    # One norm per layer: each unit would lie on one device. Every other transform is
    # told the axes, the others infer them.
    inferred = list(NAMED).index(name) % 2 == 0
    axes = {} if inferred else {"axis_name": axes_by_hand}
    one, several = (NAMED[name](groups="layer", **kw) for kw in ({}, axes))
    sharded = jax.shard_map(
        functools.partial(pulled, several),
        mesh=devices(),
        in_specs=(INPUT_SPLIT,),
        out_specs=INPUT_SPLIT,
        check_vma=inferred,
    )
    params = network("float64")
    expected = jax.jit(functools.partial(pulled, one))(params)
    assert moved(params, expected)
    assert_same_run(jax.jit(sharded)(params), expected)
