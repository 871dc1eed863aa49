"""Several devices give the numbers of one, however parameters and data are split.

Float64 within 1e-10; float32 within 1e-5: only the order of sums differs, by some ulp
(6e-8), which five steps of Adam's quotient of moments magnify by up to a hundred.
"""

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
from tests.support.optimizers import INNERS, batch, loss, network, run, stepper
from tests.support.optional import set_mesh, tree_map_params

SWITCH, STEPS = 2, 5
RTOL = {"float32": 1e-5, "float64": 1e-10}
# A kernel split by inputs beside a replicated bias, and one split by outputs with it.
SPECS = {
    "first": {"kernel": P("model", None), "bias": P(None)},
    "second": {"kernel": P(None, "model"), "bias": P("model")},
}
GROUPS = {"layer": "layer", "neuron": "neuron", "by_input": lawn.groups.neuron(0)}


def mesh_of(axis_type=AxisType.Auto, **axes):
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes)
    )


def assert_same_run(actual, expected, dtype):
    """(params, norms) within the tolerance; entries near 0 relative to 1."""
    actual = jax.tree.map(np.asarray, actual)  # gathers
    assert_close(
        actual, jax.tree.map(np.asarray, expected), rtol=RTOL[dtype], atol=RTOL[dtype]
    )


def unsharded(tx, dtype="float32", loss=loss):
    params, states = run(tx, network(dtype), STEPS, loss=loss)
    assert moved(params[SWITCH], params[-1]) and np.all(
        np.asarray(states[-1].norms) > 0
    )
    return params[-1], states[-1].norms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "groups", "dtype"),
    [
        ("adam", "layer", "float64"),
        ("lamb", "neuron", "float64"),
        ("momentum", "by_input", "float32"),
        ("muon", "layer", "float32"),
        ("schedule_free_adamw", "neuron", "float32"),
    ],
)
def test_sharded_jit_equals_unsharded(name, groups, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    tx = lawn.wrap(INNERS[name](), SWITCH, groups=GROUPS[groups])
    expected = unsharded(tx, dtype)

    mesh = mesh_of(data=4, model=2)
    place = lambda spec: NamedSharding(mesh, spec)  # noqa: E731
    shardings = jax.tree.map(place, SPECS)
    params = jax.device_put(network(dtype), shardings)
    data = jax.device_put(batch(), place(P("data")))
    # Optax's own recipe: moments lie where their parameters lie, all else everywhere.
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    state_shardings = tree_map_params(
        tx,
        lambda leaf, sharding: leaf if masked(leaf) else sharding,
        jax.eval_shape(tx.init, params),
        shardings,
        transform_non_params=lambda _: place(P()),
        is_leaf=masked,
    )
    placed = shardings, state_shardings
    state = jax.jit(tx.init, out_shardings=state_shardings)(params)

    def step(params, state, data):
        return stepper(tx, lambda params: loss(params, data))(params, state)

    step = jax.jit(step, out_shardings=placed, donate_argnums=(0, 1))
    for _ in range(STEPS):
        params, state = step(params, state, data)
    assert_same_run((params, state.norms), expected, dtype)
    assert len(params["first"]["kernel"].sharding.device_set) == 8


def test_shardings_left_to_the_compiler_are_stable():
    tx, mesh = lawn.wrap(optax.adam(0.05), SWITCH), mesh_of(data=4, model=2)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
    params = jax.device_put(network(), shardings)
    step = jax.jit(stepper(tx))
    history = [(params, tx.init(params))]  # zeros_like keeps a sharding
    for _ in range(STEPS):
        history.append(step(*history[-1]))
    first, last = (
        jax.tree.map(lambda x: (x.ndim, x.sharding), history[t]) for t in (1, -1)
    )
    same = jax.tree.map(
        lambda a, b: a[1].is_equivalent_to(b[1], a[0]),
        first,
        last,
        is_leaf=lambda x: (
            isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], int)
        ),
    )
    assert all(jax.tree.leaves(same))
    params, state = history[-1]
    for tree in (params, state.inner_state[0].mu, state.inner_state[0].nu):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            wanted = shardings[path[0].key][path[1].key]
            assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), path
    assert state.norms.sharding.is_fully_replicated
    assert_same_run((params, state.norms), unsharded(tx), "float32")


# Curved differently along each weight, so gradients are local to a shard and no
# group's is radial.
def pull(params):
    def part(w):
        return jnp.sum(jnp.cos(2 * w) + 0.3 * w)

    return sum(map(part, jax.tree.leaves(params)))


def pulled(tx):
    """`stepper` for a loss of which every shard knows its part of the gradient."""

    def step(params, state):
        grads = jax.tree.map(lambda w: 0.3 - 2 * jnp.sin(2 * w), params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def trained(tx):
    """The parameters after some steps, and the norms that they were held at."""

    def train(params):  # `scan` compares the types of the carry, replication included
        body = lambda carry, _: (pulled(tx)(*carry), None)  # noqa: E731
        (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, STEPS)
        return params, state.norms

    return train


SGD = optax.sgd(0.05, 0.9)
DECAY = optax.piecewise_constant_schedule(0.05, {1: 0.5})
EXPLICIT = {
    "wrap": lambda g: lawn.wrap(optax.adam(0.05), SWITCH, groups=g),
    "lamb": lambda g: lawn.lamb(0.05, weight_decay=0.1, switch_step=SWITCH, groups=g),
    "observe": lambda g: optax.chain(SGD, lawn.diagnostics.observe(g)),
    "natural": lambda g: optax.chain(SGD, baselines.unit_norm("natural", groups=g)),
    "layca": lambda g: optax.chain(
        SGD, baselines.hyperball(0.05, project=True, groups=g)
    ),
    "control": lambda g: optax.chain(SGD, baselines.weight_norm_control(0.1, groups=g)),
    "max_norm": lambda g: optax.chain(SGD, lawn.max_norm(groups=g)),
    "brake": lambda g: optax.chain(SGD, lawn.brake(groups=g)),
    "floor": lambda g: optax.chain(lawn.min_update(0.35, groups=g), SGD),
    "adamp": lambda g: baselines.adamp(0.05, delta=0.7, groups=g),
    "reparametrize": lambda g: baselines.reparametrize(SGD, SWITCH, groups=g),
    "bounded": lambda g: baselines.bounded_weight_norm(SGD, groups=g),
    "weight_normalization": lambda g: baselines.weight_normalization(SGD, groups=g),
    "rescale_on_decay": lambda g: optax.chain(
        SGD, lawn.rescale_on_decay(DECAY, groups=g)
    ),
}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("wrap", "neuron"),
        *(
            pytest.param(name, groups, marks=pytest.mark.slow)
            for name, groups in [
                *(("wrap", groups) for groups in ("layer", "leaf", "by_input", "all")),
                *((name, "neuron") for name in EXPLICIT if name != "wrap"),
            ]
        ),
    ],
)
def test_explicit_axes_equal_unsharded(name, groups):
    tx = EXPLICIT[name](GROUPS.get(groups, groups))

    @jax.jit
    def train(params, state):  # `scan` compares the types of the carry, axes included
        body = lambda carry, _: (pulled(tx)(*carry), None)  # noqa: E731
        return jax.lax.scan(body, (params, state), None, STEPS)[0]

    expected = train(network(), tx.init(network()))
    mesh = mesh_of(AxisType.Explicit, data=4, model=2)
    with set_mesh(mesh):
        params = jax.device_put(
            network(), jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
        )
        params, state = train(params, tx.init(params))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            assert jax.typeof(leaf).sharding.spec == SPECS[path[0].key][path[1].key]
    assert moved(network(), params)
    assert_same_run((params, state), expected, "float32")


def test_pmap_data_parallel_equals_one_device():
    tx = lawn.wrap(optax.adam(0.05), SWITCH)

    def step(params, state, data):
        grads = jax.grad(loss)(params, data)
        grads = jax.lax.pmean(grads, "data")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.pmap(step, axis_name="data")
    stack = lambda x: jnp.stack([x] * 8)  # noqa: E731
    params = jax.tree.map(stack, network())
    state = jax.pmap(tx.init)(params)
    data = tuple(jnp.asarray(a, jnp.float32)[:, None] for a in batch())
    for _ in range(STEPS):
        params, state = step(params, state, data)
    params_, norms = unsharded(tx)
    for device in range(8):
        mine = jax.tree.map(lambda x: x[device], (params, state.norms))  # noqa: B023
        assert_same_run(mine, (params_, norms), "float32")
    report = lawn.describe(params_, state=state)
    assert "constrained since update 2 of 5" in report


INPUT_SPLIT = {
    "first": {"kernel": P("model", None), "bias": P()},
    "second": {"kernel": P(None, "model"), "bias": P()},
}


def axes_per_leaf(params):
    return {layer: {"kernel": "model", "bias": None} for layer in params}


MAKE = {
    "wrap": lambda **k: lawn.wrap(optax.adam(0.05), SWITCH, **k),
    "adam": lambda **k: lawn.adam(0.05, switch_step=SWITCH, **k),
    "lamb": lambda **k: lawn.lamb(0.05, switch_step=SWITCH, weight_decay=0.1, **k),
    "sgd": lambda **k: lawn.sgd(0.05, switch_step=SWITCH, **k),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "check_vma", "dtype"),
    [
        ("wrap", True, "float64"),
        ("wrap", False, "float64"),
        ("lamb", True, "float64"),
        ("lamb", False, "float32"),
        ("adam", False, "float32"),
        ("sgd", True, "float32"),
    ],
)
def test_shard_map_with_a_replicated_bias_equals_unsharded(
    make, check_vma, dtype, request
):
    # A sum over every axis would count the bias twice, over none half the kernel.
    if dtype == "float64":
        request.getfixturevalue("x64")
    expected = unsharded(MAKE[make](), dtype, loss=pull)
    tx = MAKE[make](**({} if check_vma else {"axis_name": axes_per_leaf}))

    sharded = jax.shard_map(
        trained(tx),
        mesh=mesh_of(data=4, model=2),
        in_specs=(INPUT_SPLIT,),
        out_specs=(INPUT_SPLIT, P()),
        check_vma=check_vma,
    )
    assert_same_run(jax.jit(sharded)(network(dtype)), expected, dtype)


def test_shard_map_carries_its_state_through_scan():
    tx = lawn.wrap(optax.adam(0.05), SWITCH)
    sharded = jax.shard_map(
        trained(tx),
        mesh=mesh_of(data=4, model=2),
        in_specs=(INPUT_SPLIT,),
        out_specs=(INPUT_SPLIT, P()),
    )
    assert_same_run(jax.jit(sharded)(network()), unsharded(tx, loss=pull), "float32")


def test_neuron_groups_in_shard_map_have_the_norms_of_their_shard():
    tx = lawn.wrap(optax.adam(0.05), SWITCH, groups="neuron")
    split = {"kernel": P(None, "model"), "bias": P("model")}

    sharded = jax.shard_map(
        trained(tx),
        mesh=mesh_of(model=2),
        in_specs=(split,),
        out_specs=(split, P("model")),
        check_vma=False,  # each unit lies on one device: nothing to add up
    )
    params = network()["second"]
    history, states = run(tx, params, STEPS, loss=pull)
    assert_same_run(
        jax.jit(sharded)(params), (history[-1], states[-1].norms), "float32"
    )


def test_pmap_with_sharded_parameters_equals_unsharded():
    tx = MAKE["wrap"](axis_name=axes_per_leaf)
    whole = network()
    halves = {
        "first": {"kernel": jnp.stack(jnp.split(whole["first"]["kernel"], 2, 0))},
        "second": {"kernel": jnp.stack(jnp.split(whole["second"]["kernel"], 2, 1))},
    }
    for layer in halves:
        halves[layer]["bias"] = jnp.stack([whole[layer]["bias"]] * 2)
    devices = jax.devices()[:2]
    init, step = (
        jax.pmap(f, axis_name="model", devices=devices) for f in (tx.init, pulled(tx))
    )
    state = init(halves)
    for _ in range(STEPS):
        halves, state = step(halves, state)
    gathered = {
        "first": {"kernel": jnp.concatenate(halves["first"]["kernel"], 0)},
        "second": {"kernel": jnp.concatenate(halves["second"]["kernel"], 1)},
    }
    for layer in gathered:
        gathered[layer]["bias"] = halves[layer]["bias"][0]
    expected = unsharded(MAKE["wrap"](), loss=pull)
    assert_same_run((gathered, state.norms[0]), expected, "float32")
    assert_same_run((gathered, state.norms[1]), expected, "float32")
