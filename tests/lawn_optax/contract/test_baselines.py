"""What Optax expects of every transformation, asked of all ways to control norms."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.asserts import assert_close, assert_same_bits, moved, signature
from tests.support.optimizers import loss, network
from tests.support.optional import tree_map_params

SGD = optax.sgd(0.1)
TRANSFORMS = {
    "lagrange": lambda: optax.chain(SGD, baselines.unit_norm("lagrange")),
    "coefficient": lambda: optax.chain(SGD, baselines.unit_norm("coefficient")),
    "tangent": lambda: optax.chain(SGD, baselines.unit_norm("tangent")),
    "natural": lambda: optax.chain(SGD, baselines.unit_norm("natural")),
    "nmgd": lambda: baselines.nmgd(0.1),
    "hyperball": lambda: optax.chain(SGD, baselines.hyperball(0.05)),
    "layca": lambda: optax.chain(SGD, baselines.hyperball(0.05, project=True)),
    "control": lambda: optax.chain(SGD, baselines.weight_norm_control(0.1)),
    "target": lambda: optax.chain(SGD, baselines.weight_norm_control(0.1, 1.0)),
    "reparametrize": lambda: baselines.reparametrize(optax.adam(0.05), 1),
    "weight_normalization": lambda: baselines.weight_normalization(optax.adam(0.05)),
    "adamp": lambda: baselines.adamp(0.05, weight_decay=0.1),
    "sgdp": lambda: baselines.sgdp(0.05),
    "max_norm": lambda: optax.chain(SGD, lawn.max_norm()),
    "brake": lambda: optax.chain(SGD, lawn.brake()),
    "floor": lambda: optax.chain(lawn.min_update(0.35), SGD),
    "every": lambda: optax.chain(SGD, lawn.renormalize(every=2)),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)
gradient = jax.jit(jax.grad(loss))


@functools.cache
def compiled(name):
    """(init, update), compiled once for all tests."""
    tx = TRANSFORMS[name]()
    return tx.init, jax.jit(tx.update)


@pytest.mark.slow
@every_transform
def test_one_program_serves_all_updates_and_members_of_vmap_are_single_runs(name):
    tx, traces = TRANSFORMS[name](), []

    @jax.jit
    @jax.vmap
    def update(grads, state, params):
        traces.append(name)
        return tx.update(grads, state, params)

    members = [network(seed=s) for s in range(2)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *members)
    state, types = jax.vmap(tx.init)(stack), None
    alone, (init, single) = members[1], compiled(name)
    own = init(alone)
    for _ in range(3):
        before, types = stack, types or signature(state, weak=False)
        grads = [gradient(jax.tree.map(lambda x, i=i: x[i], stack)) for i in (0, 1)]
        grads = jax.tree.map(lambda *x: jnp.stack(x), *grads)
        updates, state = update(grads, state, stack)
        stack = optax.apply_updates(stack, updates)
        assert signature(state, weak=False) == types
        updates, own = single(gradient(alone), own, alone)
        alone = optax.apply_updates(alone, updates)
    assert len(traces) == 1 and moved(before, stack)
    one = jax.tree.map(lambda x: x[1], stack)
    assert_close(one, alone, rtol=1e-4, atol=1e-5)  # float32, other order of sums


@every_transform
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_types_are_kept(name, dtype):
    params, tx = network(dtype), TRANSFORMS[name]()
    state = jax.eval_shape(tx.init, params)
    update = lambda s: tx.update(params, s, params, anything=1.0)  # noqa: E731
    updates, after = jax.eval_shape(update, state)
    assert signature(updates, weak=False) == signature(params, weak=False)
    assert signature(after, weak=False) == signature(state, weak=False)


@every_transform
def test_init_reads_shapes_alone(name):
    params, tx = network(), TRANSFORMS[name]()
    shapes = jax.eval_shape(lambda: params)
    assert_same_bits(tx.init(shapes), tx.init(params))
    nan = jax.tree.map(lambda x: x * jnp.nan, params)
    assert_same_bits(tx.init(nan), tx.init(params))


@every_transform
def test_absent_leaves_stay_absent(name):
    params, tx = network(), TRANSFORMS[name]()
    grads = {**params, "third": None}
    params["third"] = None
    if name not in ("nmgd", "reparametrize", "weight_normalization", "adamp", "sgdp"):
        grads["first"] = {"kernel": params["first"]["kernel"], "bias": None}
    updates, _ = jax.eval_shape(lambda: tx.update(grads, tx.init(params), params))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    masked = optax.masked(tx, {"first": True, "second": False, "third": None})
    kept, _ = jax.jit(masked.update)(grads, masked.init(params), params)
    assert_same_bits(kept["second"], grads["second"])
    assert moved(kept["first"]["kernel"], grads["first"]["kernel"])


@every_transform
def test_zero_weights_move_and_nothing_becomes_nan(name):
    params, (init, update) = network(), compiled(name)
    params["second"] = jax.tree.map(jnp.zeros_like, params["second"])
    state = init(params)
    start, grads = params, jax.tree.map(jnp.ones_like, params)
    for t in range(3):  # the first without a gradient, as in a warm-up from 0
        given = jax.tree.map(lambda g, t=t: g * (t > 0), grads)
        updates, state = update(given, state, params)
        params = optax.apply_updates(params, updates)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))
    assert moved(start, params)


def poisoned(params):
    bad = jax.tree.map(jnp.ones_like, params)
    bad["first"]["kernel"] = bad["first"]["kernel"].at[0, 0].set(jnp.nan)
    return bad


@every_transform
def test_a_gradient_of_nan_passes_and_poisons_no_norm(name):
    params, (init, update) = network(), compiled(name)
    updates, state = update(poisoned(params), init(params), params)
    assert np.isnan(updates["first"]["kernel"][0, 0])
    assert np.isfinite(updates["second"]["kernel"]).all()
    norms = optax.tree_utils.tree_get_all_with_path(state, "norms")
    assert all(np.isfinite(x).all() for _, x in norms)


@pytest.mark.parametrize("name", ["natural", "weight_normalization"])
def test_a_gradient_of_nan_can_be_skipped(name):
    params, tx = network(), optax.apply_if_finite(TRANSFORMS[name](), 3)
    _, skipped = jax.jit(tx.update)(poisoned(params), tx.init(params), params)
    assert_same_bits(skipped.inner_state, tx.init(params).inner_state)


@every_transform
def test_state_maps_like_the_parameters(name):
    params, tx = network(), TRANSFORMS[name]()
    state = tx.init(params)
    mapped = tree_map_params(
        tx, lambda _: "moment", state, transform_non_params=lambda _: "other"
    )
    assert jax.tree.structure(mapped) == jax.tree.structure(state)
    if name == "reparametrize":
        moments = mapped.trained, mapped.inner_state[0].mu
    elif name == "weight_normalization":
        moments = mapped.trained.v, mapped.inner_state[0].mu.v
        assert mapped.trained.g == mapped.norms == "other"
    else:
        return
    assert set(jax.tree.leaves(moments)) == {"moment"}


@every_transform
def test_params_are_required(name):
    tx, params = TRANSFORMS[name](), network()
    with pytest.raises(ValueError, match=r"needs `params`"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize(
    ("make", "hyperparams"),
    [
        (baselines.hyperball, {"learning_rate": 0.1}),
        (baselines.weight_norm_control, {"rate": 0.1, "target": 2.0}),
        (lawn.max_norm, {"radius": 2.0}),
        (lawn.brake, {"outward": 0.3, "inward": 0.5}),
        (lawn.min_update, {"ratio": 0.3}),
        (baselines.halpern, {"power": 0.5, "offset": 2.0}),
        (baselines.nmgd, {"learning_rate": 0.1, "power": 0.5}),
        (baselines.adamp, {"learning_rate": 0.1, "weight_decay": 0.2, "delta": 0.1}),
        (baselines.sgdp, {"learning_rate": 0.1, "momentum": 0.5, "wd_ratio": 0.1}),
    ],
)
def test_numbers_may_be_injected(make, hyperparams):
    params = network()
    static = {"groups", "project", "axis_name", "nesterov"}
    static &= set(inspect.signature(make).parameters)
    injected = optax.inject_hyperparams(make, static_args=static)(**hyperparams)
    plain = make(**hyperparams)
    grads = jax.grad(loss)(params)
    updates, _ = jax.jit(injected.update)(grads, injected.init(params), params)
    expected, _ = jax.jit(plain.update)(grads, plain.init(params), params)
    # float32: where b1 is traced, so is 1 - b1, which has lost digits.
    assert_close(updates, expected, rtol=1e-4, atol=1e-7)
