"""`wrap` inside and outside Optax's own combinators, and under `vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, moved, norms_of
from tests.support.optimizers import INNERS, loss, network, run, stepper
from tests.support.optional import partition

SWITCH = 2


def lawn_state(state):
    """The one LAWN state in an optimizer state."""
    kind = type(lawn.adam(1.0).init(jnp.ones(2)))
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    (one,) = [x for x in found if isinstance(x, kind)]
    return one


def assert_norms_hold(params, since):
    for after in params[since + 1 :]:
        np.testing.assert_allclose(
            norms_of(after), norms_of(params[since]), rtol=1e-6, equal_nan=False
        )
    assert moved(params[since], params[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "muon", "partition"])
def test_masked_outside_constrains_what_the_mask_lets_through(name):
    # The first layer's bias and the whole second layer are outside the mask.
    mask = {
        "first": {"kernel": True, "bias": False},
        "second": {"kernel": False, "bias": False},
    }
    inner = INNERS[name]()
    tx = optax.masked(lawn.wrap(inner), mask)
    params, states = run(tx, network(), 3)
    kernels = [p["first"]["kernel"] for p in params]
    assert lawn_state(states[-1]).norms.shape == (1,)
    np.testing.assert_allclose(
        jnp.linalg.norm(kernels[3]), jnp.linalg.norm(kernels[0]), rtol=1e-6
    )
    # The kernel alone takes the same first step; then what is masked out moves, too.
    alone, _ = run(
        lawn.wrap(inner),
        kernels[0],
        1,
        loss=lambda kernel: loss(with_kernel(params, kernel)),
    )
    assert_close(kernels[1], alone[1], rtol=1e-5)


def with_kernel(params, kernel):
    first = {"kernel": kernel, "bias": params[0]["first"]["bias"]}
    return {"first": first, "second": params[0]["second"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw", "chain"])
def test_partition_outside_constrains_its_part(name):
    def labels(params):
        return jax.tree.map_with_path(lambda path, _: path[0].key, params)

    bare = INNERS[name]
    tx = partition({"first": lawn.wrap(bare(), SWITCH), "second": bare()}, labels)
    params, states = run(tx, network(), 5)
    first = [{"first": p["first"]} for p in params]
    assert_norms_hold(first, SWITCH)
    assert lawn_state(states[-1]).norms.shape == (1,)
    assert_close(lawn_state(states[-1]).norms, norms_of(first[SWITCH]), rtol=1e-6)
    second = [norms_of({"second": p["second"]}) for p in params]
    assert abs(second[-1] / second[SWITCH] - 1) > 1e-3  # unconstrained


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "lamb", "lion"])
def test_wrap_holds_norms_behind_other_transformations(name):
    tx = optax.chain(
        optax.clip_by_global_norm(0.1),
        lawn.wrap(INNERS[name](), SWITCH),
        lawn.diagnostics.observe(),
    )
    params, _ = run(tx, network(), 5)
    assert_norms_hold(params, SWITCH)


def wrapped_adam(learning_rate, switch_step, groups="layer", reset="restart"):
    return lawn.wrap(optax.adam(learning_rate), switch_step, groups=groups, reset=reset)


def injected(static=("groups", "reset")):
    make = optax.inject_hyperparams(wrapped_adam, static_args=static)
    return make(learning_rate=0.05, switch_step=SWITCH)


def test_an_injected_switch_step_acts_like_a_constant_one():
    params, states = run(injected(), network(), 5)
    expected, _ = run(wrapped_adam(0.05, SWITCH), network(), 5)
    assert_close(params[-1], expected[-1], rtol=1e-5)
    assert int(lawn_state(states[-1]).phase.switched_at) == SWITCH


def test_an_injected_switch_step_raised_later_keeps_training_constrained():
    tx = injected()
    step = jax.jit(stepper(tx))
    params, states = run(tx, network(), 4)
    state, after = states[-1], params[-1]
    state.hyperparams["switch_step"] = jnp.asarray(100, jnp.int32)
    for _ in range(2):
        after, state = step(after, state)
    np.testing.assert_allclose(
        norms_of(after), norms_of(params[SWITCH]), rtol=1e-6, equal_nan=False
    )
    assert int(lawn_state(state).phase.switched_at) == SWITCH
    # Raised before the switch it delays it.
    state = states[SWITCH]
    state.hyperparams["switch_step"] = jnp.asarray(100, jnp.int32)
    _, state = step(params[SWITCH], state)
    assert int(lawn_state(state).phase.switched_at) == -1


def test_traced_static_arguments_name_static_args():
    make = optax.inject_hyperparams(lawn.adam)  # takes every number for a rate
    with pytest.raises(TypeError, match="`projections`.*`static_args`"):
        make(learning_rate=0.1, projections=2).init(network())
    for lamb in (lawn.lamb, lawn.lamb_plus):  # takes every function for a schedule
        with pytest.raises(TypeError, match="`phi`.*`static_args`"):
            optax.inject_hyperparams(lamb)(learning_rate=0.1).init(network())
        make = optax.inject_hyperparams(lamb, static_args=("phi", "groups", "reset"))
        make(learning_rate=0.1).init(network())
    tx = lawn.wrap(optax.sgd(0.1), groups=jnp.ones([]))
    with pytest.raises(TypeError, match="(?s)`groups`.*`static_args`"):
        tx.init(network())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum", "adamw", "prodigy"])
def test_multi_steps_outside_counts_whole_steps(name):
    # Two micro-batches with the same gradient are one step with that gradient.
    tx = lawn.wrap(INNERS[name](), SWITCH)
    multi = optax.MultiSteps(tx, every_k_schedule=2)
    params, states = run(multi, network(), 8)
    expected, expected_states = run(tx, network(), 4)
    assert_same_bits(params[2 * SWITCH], params[2 * SWITCH + 1])  # a skipped step
    assert int(lawn_state(states[2 * SWITCH + 1]).phase.switched_at) == -1
    assert not np.any(lawn_state(states[2 * SWITCH + 1]).norms)
    for t in (SWITCH, 4):
        assert_close(params[2 * t], expected[t], rtol=1e-5, atol=1e-7)
    assert_close(lawn_state(states[-1]).norms, expected_states[-1].norms, rtol=1e-6)
    assert int(lawn_state(states[-1]).phase.count) == 4


def with_bad_steps(tx, bad):
    """Trajectory of `tx` where the gradients of the updates in `bad` are NaN."""

    def step(params, state, scale):
        grads = jax.tree.map(lambda g: g * scale, jax.grad(loss)(params))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step, params, state = jax.jit(step), network(), tx.init(network())
    out = [(params, state)]
    for t in range(6):
        out.append(step(*out[-1], jnp.nan if t in bad else 1.0))
    return out


def test_apply_if_finite_outside_skips_a_bad_step_at_the_switch():
    inner = lawn.wrap(optax.adam(0.05), SWITCH)
    tx = optax.apply_if_finite(inner, max_consecutive_errors=5)
    # One bad step in the free phase, one where the switch is due, one after it.
    history = with_bad_steps(tx, {1, 3, 5})
    good, _ = run(inner, network(), 3)
    for t, bad in ((1, True), (3, True), (5, True), (2, False), (4, False)):
        (before, state), (after, later) = history[t], history[t + 1]
        if bad:
            assert_same_bits(after, before)
            assert_same_bits(later.inner_state, state.inner_state)
        else:
            assert moved(before, after)
    phases = [state.inner_state.phase for _, state in history]
    assert [int(p.count) for p in phases] == [0, 1, 1, 2, 2, 3, 3]
    assert [int(p.switched_at) for p in phases] == [-1, -1, -1, -1, -1, 2, 2]
    assert not np.any(history[4][1].inner_state.norms)
    assert_close(history[-1][0], good[-1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [1, SWITCH, 4], ids=["before", "at", "after"])
def test_norms_are_never_poisoned_by_nan_gradients(bad):
    # One entry of one leaf: the inner optimizer alone decides where the NaN goes.
    tx, bare = lawn.wrap(optax.sgd(0.1), SWITCH), optax.sgd(0.1)
    step = jax.jit(lambda p, s, g: tx.update(g, s, p))
    params, state = network(), tx.init(network())
    for t in range(bad + 1):
        grads = jax.grad(loss)(params)
        if t == bad:
            kernel = grads["first"]["kernel"].at[1, 2].set(jnp.nan)
            grads["first"]["kernel"] = kernel
        updates, state = step(params, state, grads)
        if t == bad:
            break
        params = optax.apply_updates(params, updates)
    expected, _ = bare.update(grads, bare.init(params), params)
    assert_close(jnp.isnan(updates["first"]["kernel"]), jnp.isnan(kernel), rtol=0)
    # The group with the NaN passes as the inner optimizer returns it, the other
    # group is constrained as ever.
    np.testing.assert_allclose(
        updates["first"]["kernel"], expected["first"]["kernel"], rtol=1e-6
    )
    assert np.isfinite(updates["first"]["bias"]).all()
    assert np.isfinite(state.norms).all()
    if bad >= SWITCH:
        assert np.all(np.asarray(state.norms) > 0)
        after = optax.apply_updates(params, updates)
        np.testing.assert_allclose(norms_of(after)[1], state.norms[1], rtol=1e-6)


@pytest.mark.slow
def test_vmap_over_switch_step_and_learning_rate_equals_single_runs():
    rates, steps = jnp.array([0.02, 0.05, 0.1, 0.05]), jnp.array([0, 1, 3, 9])

    def train(rate, switch):
        tx = lawn.wrap(optax.adam(rate), switch)
        params = network()
        body = lambda carry, _: (stepper(tx)(*carry), None)  # noqa: E731
        (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, 5)
        return params, state.norms, state.phase

    params, norms, phase = jax.jit(jax.vmap(train))(rates, steps)
    assert phase.switched_at.tolist() == [0, 1, 3, -1]
    assert [bool(np.any(n)) for n in norms] == [True, True, True, False]
    single = jax.jit(train)
    for i in range(4):
        member = jax.tree.map(lambda x: x[i], (params, norms))  # noqa: B023
        assert_close(member, single(rates[i], steps[i])[:2], rtol=1e-5, atol=1e-6)
    run_one, _ = run(lawn.wrap(optax.adam(0.1), 3), network(), 5)
    assert_close(jax.tree.map(lambda x: x[2], params), run_one[-1], rtol=1e-5)


@pytest.mark.filterwarnings('ignore:"seed" is deprecated:DeprecationWarning')
def test_gradients_of_another_shape_are_refused_with_the_way_out():
    params = network()
    per_example = jax.tree.map(lambda w: jnp.stack([w] * 8), params)
    private = 1.0, 0.1, 0  # clip, noise, key
    message = r"(?s)gradient of first/bias must have the shape.*aggregate"
    for tx in (
        lawn.wrap(optax.contrib.dpsgd(0.1, *private)),
        lawn.lamb(0.1),
        lawn.diagnostics.observe(),
        lawn.baselines.adamp(0.1),
        lawn.baselines.reparametrize(optax.sgd(0.1)),
    ):
        with pytest.raises(ValueError, match=message):
            tx.update(per_example, tx.init(params), params)
    aggregate = optax.contrib.differentially_private_aggregate(*private)
    tx = optax.chain(aggregate, lawn.wrap(optax.sgd(0.1)))
    with jax.numpy_rank_promotion("allow"):  # Optax 0.2.2 needs it.
        updates, _ = tx.update(per_example, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert_close(norms_of(after), norms_of(params), rtol=1e-6)
