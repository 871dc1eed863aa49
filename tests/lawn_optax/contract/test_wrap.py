"""What every inner optimizer may expect of `wrap`, asked of one table of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import (
    assert_close,
    assert_same_bits,
    moved,
    norms_of,
    signature,
)
from tests.support.optimizers import INNERS, loss, network, run, stepper
from tests.support.optional import tree_map_params

SWITCH = 2
RESETS = ("restart", "moments", None)
every_inner = pytest.mark.parametrize("name", INNERS)

# Fields of each inner state (as patterns of paths) that are shaped like the parameters
# or restart with them. All others go on.
MOMENTS = {
    "sgd": "",
    "momentum": "trace",
    "adam": "mu|nu",
    "adamw": "mu|nu",
    "lamb": "mu|nu",
    "lion": "mu",
    "adafactor": "v_row|v_col|v",
    "muon": "mu|nu",
    "schedule_free_adamw": "nu|z",
    "prodigy": "exp_avg|exp_avg_sq|grad_sum|params0",
    "lbfgs": "params|updates|diff_params_memory|diff_updates_memory|grad",
    "chain": "mu|nu",
    "partition": "mu|nu|trace",
}
COMPANIONS = {
    "adam": "0/count",
    "adamw": "0/count",
    "lamb": "0/count",
    "lion": "0/count",
    "adafactor": "0/count",
    "muon": ".*inner_state/0/count|.*/ns_coeffs",
    "schedule_free_adamw": "b1|weight_sum|step_count|max_lr|.*state/./count",
    "prodigy": "estim_lr|numerator_weighted|count",
    "lbfgs": "0/count|0/weights_memory|2/learning_rate|2/info/.*",
    "chain": "1/inner_state/0/count",
    "partition": "inner_states/matrix/inner_state/0/count",
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("sgd", "adam") else pytest.param(name, marks=pytest.mark.slow)
        for name in INNERS
    ],
)
def test_free_then_constrained_without_a_second_trace(name):
    params, inner, traces = network(), INNERS[name](), []

    def count_traces(tx):
        def counted(params, state):
            traces.append(tx)
            return stepper(tx)(params, state)

        return jax.jit(counted)

    tx = lawn.wrap(inner, SWITCH)
    step, bare_step = count_traces(tx), count_traces(inner)
    # Optax's L-BFGS begins with weak types that it does not return.
    bare, bare_state = params, jax.tree.map(strong, inner.init(params))
    state = tx.init(params)._replace(inner_state=bare_state)
    for _ in range(SWITCH):
        params, state = step(params, state)
        bare, bare_state = bare_step(bare, bare_state)
    # To rounding: the compiler may fuse the two programs differently. L-BFGS divides
    # by differences of gradients, which amplifies it.
    assert_close(params, bare, rtol=1e-5, atol=1e-5 if name == "lbfgs" else 1e-6)
    assert int(state.phase.switched_at) == -1 and not np.any(state.norms)

    held, types = norms_of(params), signature(state)
    for _ in range(4):
        before = params
        params, state = step(params, state)
        np.testing.assert_allclose(norms_of(params), held, rtol=1e-6, equal_nan=False)
        assert signature(state) == types
    assert moved(before, params)
    assert_close(state.norms, held, rtol=1e-6)
    assert int(state.phase.switched_at) == SWITCH
    assert traces.count(tx) == traces.count(inner) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reset"),
    [(name, RESETS[i % 3]) for i, name in enumerate(INNERS)],
)
def test_state_is_constant_and_norms_hold_under_scan_and_cond(name, reset):
    params, tx = network(), lawn.wrap(INNERS[name](), SWITCH, reset=reset)
    step = stepper(tx)

    def body(carry, skip):  # `cond` and `scan` refuse a type that changes
        carry = jax.lax.cond(skip, lambda c: c, lambda c: step(*c), carry)
        return carry, carry[0]

    # Updates 0, 1 (free), then three constrained ones, a step left out at the switch.
    skips = jnp.array([False, False, True, False, False, False])
    init = jax.jit(lambda p: jax.tree.map(strong, tx.init(p)))
    (_, state), history = jax.jit(lambda c: jax.lax.scan(body, c, skips))(
        (params, init(params))
    )
    at = lambda t: jax.tree.map(lambda x: x[t], history)  # noqa: E731
    assert_same_bits(at(1), at(2))
    assert moved(at(2), at(5))
    np.testing.assert_allclose(
        norms_of(at(5)), norms_of(at(1)), rtol=1e-6, equal_nan=False
    )
    assert (int(state.phase.count), int(state.phase.switched_at)) == (5, SWITCH)


def strong(x):
    return jax.lax.convert_element_type(x, x.dtype)


@every_inner
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_update_has_the_type_that_the_inner_optimizer_returns(name, dtype):
    params, inner = network(dtype), optax.with_extra_args_support(INNERS[name]())
    extra = {"value": loss(params), "grad": params, "value_fn": loss}

    def types(tx):
        update = lambda p, s: tx.update(p, s, p, **extra)  # noqa: E731
        state = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(update, params, state)
        assert signature(after, weak=False) == signature(state, weak=False)
        return signature(updates)

    # The program serves both phases, so this is the type before and after the switch.
    assert types(lawn.wrap(inner, SWITCH)) == types(inner)


@every_inner
def test_init_is_abstract_and_reads_no_value(name):
    params, inner = network(), INNERS[name]()
    tx = lawn.wrap(inner, SWITCH)
    shapes = jax.eval_shape(lambda: params)
    assert signature(jax.eval_shape(tx.init, params)) == signature(tx.init(params))
    other = tx.init(jax.tree.map(lambda x: x * jnp.nan, params))
    assert_same_bits(
        other._replace(inner_state=()), tx.init(params)._replace(inner_state=())
    )
    try:
        inner.init(shapes)
    except TypeError:  # they want arrays; L-BFGS does up to Optax 0.2.6
        assert name in ("schedule_free_adamw", "prodigy", "chain", "lbfgs")
    else:
        assert signature(tx.init(shapes), weak=False) == signature(
            tx.init(params), weak=False
        )


@every_inner
@pytest.mark.parametrize("nesting", ["bare", "masked"])
def test_tree_map_params_sees_the_moments_and_nothing_else(name, nesting):
    tx = lawn.wrap(INNERS[name](), SWITCH)
    if name == "lbfgs":
        pytest.skip("optax.tree.map_params does not accept optax.lbfgs itself")
    if nesting == "masked":
        tx = optax.masked(tx, jax.tree.map(lambda _: True, network()))
    state = tx.init(network())
    marked = tree_map_params(
        tx, lambda x: -1.0, state, transform_non_params=lambda x: x
    )
    assert jax.tree.structure(marked) == jax.tree.structure(state)
    find = lambda x: isinstance(x, type(lawn.wrap(optax.sgd(1.0)).init(network())))  # noqa: E731
    (marked,) = [x for x in jax.tree.leaves(marked, is_leaf=find) if find(x)]
    assert jnp.shape(marked.norms) == (2,) and not np.any(marked.norms)
    for path, leaf in fields(marked.inner_state):
        is_moment = bool(MOMENTS[name]) and matches(path, f"(.*/)?({MOMENTS[name]})")
        assert np.all(np.asarray(leaf) == -1.0) == is_moment, path


def fields(state):
    """(path of the field, leaf) pairs; the path within the parameters is cut off."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        yield re.sub("/(first|second)/(kernel|bias)$", "", text), leaf


def matches(path, pattern):
    return re.fullmatch(pattern, path) is not None


def reset_by_wrap(name, reset):
    """The inner state before and after a reset, and a fresh one; paths with leaves."""
    params, inner = network(), INNERS[name]()
    still = optax.GradientTransformation(
        inner.init, lambda u, state, params: (u, state)
    )
    tx = lawn.wrap(still, reset=reset)
    state = tx.init(params)
    old = jax.tree.map(lambda x: jnp.full_like(x, 7), state.inner_state)
    # A view of the parameters of that moment, not of those that `init` saw.
    params = jax.tree.map(lambda x: 2 * x, params)
    _, after = tx.update(params, state._replace(inner_state=old), params)
    return zip(*map(fields, (old, after.inner_state, inner.init(params))), strict=True)


# Every row meets the default, and one of the others.
@pytest.mark.parametrize(
    ("name", "reset"),
    [(name, "restart") for name in INNERS]
    + [(name, ("moments", None)[i % 2]) for i, name in enumerate(INNERS)]
    + [("adam", None), ("chain", None), ("schedule_free_adamw", "moments")],
)
def test_reset_renews_the_moments_and_what_belongs_to_them(name, reset):
    renewed = set()
    for (path, old), (_, new), (_, fresh) in reset_by_wrap(name, reset):
        is_moment = matches(path, f"(.*/)?({MOMENTS[name]})")
        restarts = reset == "restart" and matches(path, COMPANIONS.get(name, ""))
        expected = fresh if reset and (is_moment or restarts) else old
        if (name, path) == ("lbfgs", "2/value"):  # of a point that is left
            expected = np.inf
        np.testing.assert_array_equal(new, expected, err_msg=path)
        assert new.dtype == old.dtype
        if np.any(new != old):
            renewed.add(path)
    # Every pattern above met a field: nothing in the tables is a misprint.
    for pattern in filter(None, MOMENTS[name].split("|")):
        found = any(matches(path, f"(.*/)?{pattern}") for path in renewed)
        assert found == (reset is not None), pattern
    for pattern in filter(None, COMPANIONS.get(name, "").split("|")):
        found = any(matches(path, pattern) for path in renewed)
        assert found == (reset == "restart"), pattern


def test_schedule_free_restarts_from_the_parameters():
    state = dict(
        (path, new)
        for (path, _), (_, new), _ in reset_by_wrap("schedule_free_adamw", "restart")
    )
    np.testing.assert_array_equal(state["z"], 2 * network()["second"]["kernel"])


def test_donated_buffers_give_the_same_numbers():
    tx = lawn.wrap(optax.adam(0.05), SWITCH)
    step = jax.jit(stepper(tx), donate_argnums=(0, 1))
    expected, _ = run(tx, network(), 4)
    params, state = network(), tx.init(network())
    for _ in range(4):
        given = params, state.inner_state, state.norms
        params, state = step(params, state)
        assert all(x.is_deleted() for x in jax.tree.leaves(given))
    assert_close(params, expected[-1], rtol=1e-6, atol=1e-7)


def test_extra_arguments_reach_the_inner_optimizer_and_unknown_ones_are_accepted():
    seen = []

    def update(updates, state, params=None, **extra_args):
        seen.append(extra_args)
        return updates, state

    probe = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    params = network()
    for tx in (
        lawn.wrap(probe),
        lawn.reset_at(0, probe),
        lawn.switch_at(1, optax.identity(), before=probe),
        optax.chain(optax.identity(), lawn.wrap(optax.chain(optax.identity(), probe))),
    ):
        tx.update(params, tx.init(params), params, anything="kept")
        assert seen.pop() == {"anything": "kept"}
    for name, make in INNERS.items():
        if (
            name == "lbfgs"
        ):  # Optax's line search refuses what its function does not take
            continue
        tx = optax.chain(lawn.wrap(make()), lawn.project_tangent(), lawn.renormalize())
        step = stepper(tx, anything="ignored", switch_value=1.0)
        jax.eval_shape(step, params, tx.init(params))
    for tx in (lawn.adam(0.1), lawn.sgd(0.1), lawn.lamb(0.1), lawn.lamb_plus(0.1)):
        tx.update(params, tx.init(params), params, anything="ignored")


@pytest.mark.parametrize(
    "tx",
    [
        lawn.wrap(optax.sgd(0.1), 5),
        lawn.adam(0.1),
        lawn.lamb(0.1),
        lawn.project_tangent(),
        lawn.renormalize(),
        lawn.reset_at(1, optax.adam(0.1)),
    ],
    ids=["wrap", "adam", "lamb", "project_tangent", "renormalize", "reset_at"],
)
def test_params_are_required(tx):
    params = network()
    with pytest.raises(
        ValueError, match=r"needs `params`.*tx\.update\(grads, state, p"
    ):
        tx.update(params, tx.init(params))
