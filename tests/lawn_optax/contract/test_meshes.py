"""Fixed norms over two-dimensional meshes of eight devices, against one device.

Runs in float64 within 1e-10, norms of a float32 run within 1e-6 of the float64 ones.
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
from lawn_optax import baselines, groups
from tests.support.asserts import assert_close, close, moved, wide
from tests.support.optional import tree_map_params

STEPS = 3
# Mesh axes and, per leaf, which of its axes lie on which mesh axis.
MESHES = {
    "data, model": (
        {"data": 4, "model": 2},
        {
            "dense": {"kernel": P(None, "model"), "bias": P("model")},
            "experts": {"up": P(None, None, "model")},
            "head": {"kernel": P("model", None)},
        },
    ),
    "FSDP, tensor": (
        {"fsdp": 2, "tensor": 4},
        {
            "dense": {"kernel": P("fsdp", "tensor"), "bias": P("tensor")},
            "experts": {"up": P(None, "fsdp", "tensor")},
            "head": {"kernel": P("tensor", "fsdp")},
        },
    ),
    "data, expert": (
        {"data": 2, "expert": 4},
        {
            "dense": {"kernel": P("data", None), "bias": P(None)},
            "experts": {"up": P("expert", None, None)},
            "head": {"kernel": P(None, None)},
        },
    ),
}
LAYERS = groups.stacked("experts")
UNITS = groups.only_matrices(groups.stacked("experts", base="neuron"))
METHODS = {
    "adam": lambda: lawn.wrap(optax.adam(0.05), 1, groups=LAYERS),
    "lamb": lambda: lawn.lamb(0.05, switch_step=1, groups=LAYERS),
    "hyperball": lambda: optax.chain(
        optax.adam(0.05), baselines.hyperball(0.05, groups=UNITS)
    ),
}


def network(dtype):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {
        "dense": {"kernel": draw(4, 8), "bias": draw(8)},
        "experts": {"up": draw(4, 8, 8)},
        "head": {"kernel": draw(8, 4)},
    }


def loss(params, inputs):
    x = jnp.tanh(inputs @ params["dense"]["kernel"] + params["dense"]["bias"][None])
    x = jnp.sum(jnp.tanh(jnp.einsum("bd,edf->ebf", x, params["experts"]["up"])), 0)
    return jnp.mean((x @ params["head"]["kernel"] - inputs) ** 2)


def inputs(dtype):
    return jnp.asarray(np.random.default_rng(1).normal(size=(8, 4)), dtype)


def train(method, params, data, place=lambda spec: None):
    """Parameters and captured norms; moments lie where their parameters lie."""
    tx = METHODS[method]()
    placed = jax.tree.map(lambda x: x.sharding, params)
    shardings = (
        placed,
        tree_map_params(
            tx,
            lambda _, sharding: sharding,
            jax.eval_shape(tx.init, params),
            placed,
            transform_non_params=lambda _: place(P()),
        ),
    )

    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params, data), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, out_shardings=shardings)
    state = tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    ((_, norms),) = optax.tree_utils.tree_get_all_with_path(state, "norms")
    return jax.tree.map(np.asarray, params), np.asarray(norms)


@functools.cache
def on_one_device(method):
    params, norms = train(method, network("float64"), inputs("float64"))
    assert moved(network("float64"), params) and np.all(norms > 0)
    return params, norms


def placed_on(name, dtype, axis_type):
    axes, specs = MESHES[name]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * 2)
    place = functools.partial(NamedSharding, mesh)
    return jax.device_put(network(dtype), jax.tree.map(place, specs)), place


def on_mesh(name, method, dtype):
    params, place = placed_on(name, dtype, AxisType.Auto)
    data = jax.device_put(inputs(dtype), place(P(next(iter(MESHES[name][0])))))
    return train(method, params, data, place)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_trains_as_one_device(name, method, x64):
    expected = on_one_device(method)
    assert_close(on_mesh(name, method, "float64"), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_float32_norms_of_a_mesh_are_those_of_float64(name):
    params, norms = on_mesh(name, "hyperball", "float32")
    kernels = (wide(x) for x in (params["dense"]["kernel"], params["head"]["kernel"]))
    start = network("float32")
    first = (wide(start["dense"]["kernel"]), wide(start["head"]["kernel"]))
    for now, before in zip(kernels, first, strict=True):
        close(np.linalg.norm(now, axis=0), np.linalg.norm(before, axis=0), 1e-6)
    experts = wide(params["experts"]["up"])
    expected = np.linalg.norm(wide(start["experts"]["up"]), axis=1)
    close(np.linalg.norm(experts, axis=1), expected, 1e-6)
    assert norms.shape == (8 + 4 * 8 + 4,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MESHES)
def test_updates_lie_where_their_parameters_lie(name, method):
    params, _ = placed_on(name, "float32", AxisType.Explicit)
    tx, specs = METHODS[method](), MESHES[name][1]
    state = tx.init(params)
    # Without a mesh around it, too: the types of the parameters name theirs.
    updates, state = jax.eval_shape(tx.update, params, state, params)
    moments = (
        optax.tree_utils.tree_get_all_with_path(state, key) for key in ("mu", "nu")
    )
    for tree in (updates, *(found for ((_, found),) in moments)):
        assert jax.tree.map(lambda x: x.sharding.spec, tree) == specs
    ((_, norms),) = optax.tree_utils.tree_get_all_with_path(state, "norms")
    assert norms.sharding.is_fully_replicated
