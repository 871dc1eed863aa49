"""When the switch comes, what acts before and after it, and refused arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import assert_close, assert_same_bits, norms_of
from tests.support.optimizers import network, run, updates_of


def first_constrained(trigger, values):
    """The update from which `trigger` constrains, -1 if none does."""
    tx = lawn.switch_at(trigger, optax.scale(2.0))
    out, state = updates_of(tx, values)
    doubled = [update == [2.0, 0.0] for update in out]
    switched_at = int(state.phase.switched_at)
    expected = [0 <= switched_at <= t for t in range(len(doubled))]
    assert doubled == expected  # what acts is what the state says
    return switched_at


@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_switch_at_runs_one_and_keeps_the_state_of_the_other(step):
    tx = lawn.switch_at(step, optax.trace(1.0), before=optax.trace(0.5))
    out, state = updates_of(tx, range(5))
    free = [1.0, 1.5, 1.75, 1.875, 1.9375][:step]
    assert [u[0] for u in out] == free + list(range(1, 6 - len(free)))
    assert int(state.phase.switched_at) == (step if step < 5 else -1)
    before = free[-1] if free else 0.0
    assert state.before_state.trace[0] == before  # idle from the switch on
    assert state.transform_state.trace[0] == 5 - len(free)  # idle until then


def test_a_negative_array_step_is_a_switch_at_once():
    assert first_constrained(jnp.asarray(-3), [0.0, 0.0]) == 0


def test_latching_in_update_t_constrains_update_t_plus_1():
    # With no smoothing the third value, of update 2, is the first to reach 3.
    trigger = lawn.switch_when(3.0, decay=0.0)
    assert first_constrained(trigger, [0.0, 2.9, 3.0, 0.0, 0.0]) == 3
    assert first_constrained(trigger, [0.0, 2.9, 2.9]) == -1


def test_the_average_is_corrected_for_its_start():
    # After value 4 the corrected mean is 4, the raw average only 2.
    trigger = lawn.switch_when(4.0, decay=0.5)
    assert first_constrained(trigger, [4.0, 0.0, 0.0]) == 1
    # (0, 4): (0.5 * 0 + 0.5 * 4) / 0.75 = 8/3; then (1 + 2) / 0.875 = 24/7.
    assert first_constrained(lawn.switch_when(2.6, decay=0.5), [0.0, 4.0, 0.0]) == 2
    assert (
        first_constrained(lawn.switch_when(2.7, decay=0.5), [0.0, 4.0, 4.0, 0.0]) == 3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_passed_over(bad):
    trigger = lawn.switch_when(3.0, decay=0.5)
    assert first_constrained(trigger, [bad, 1.0, bad, bad]) == -1
    values = [2.0, 3.0, 4.0, 4.0, 4.0]
    clean = first_constrained(trigger, values)
    spoilt = first_constrained(trigger, [values[0], bad, *values[1:]])
    assert clean == 3 and spoilt == clean + 1

    def after(values):
        watched = trigger.init()
        for value in values:
            watched = trigger.observe(watched, {"switch_value": value})
        return watched

    assert_same_bits(after([2.0, bad, 1.0, bad]), after([2.0, 1.0]))


def test_plateau_waits_until_the_average_stops_rising():
    # A steady rise of 1 per update never is a plateau; the constant after it is.
    rising = [float(t) for t in range(20)]
    high = lawn.switch_when(5.0, decay=0.5)
    plateau = lawn.switch_when(5.0, decay=0.5, plateau=0.05)
    assert first_constrained(high, rising + [19.0] * 20) < 10
    assert first_constrained(plateau, rising) == -1
    assert 20 < first_constrained(plateau, rising + [19.0] * 20) < 40
    # A plateau below the threshold is none, nor is the first value alone.
    assert first_constrained(plateau, [4.0] * 20) == -1
    slow = lawn.switch_when(5.0, decay=0.75, plateau=0.05)
    assert first_constrained(slow, [6.0] * 10) == 4  # one window of 4 values


def test_trigger_arguments_may_be_traced():
    values = jnp.array([0.0, 2.0, 4.0, 4.0, 4.0, 4.0])

    def switched_at(threshold, decay, plateau):
        tx = lawn.wrap(
            optax.sgd(0.1),
            lawn.switch_when(threshold, decay=decay, plateau=plateau, key="margin"),
        )
        w = jnp.array([3.0, 4.0])

        def body(state, value):
            return tx.update(w, state, w, margin=value)[1], None

        return jax.lax.scan(body, tx.init(w), values)[0].phase.switched_at

    grid = jnp.array([[1.0, 0.0, 9.0], [3.0, 0.0, 9.0], [3.0, 0.5, 9.0]])
    found = jax.jit(jax.vmap(lambda row: switched_at(*row)))(grid)
    # Means of the last: 0, 4/3, 20/7, 52/15.
    assert found.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda trigger: lawn.wrap(optax.sgd(0.1), trigger),
        lambda trigger: lawn.adam(0.1, switch_step=trigger),
        lambda trigger: lawn.reset_at(trigger, optax.adam(0.1)),
        lambda trigger: lawn.switch_at(trigger, optax.scale(2.0)),
    ],
    ids=["wrap", "adam", "reset_at", "switch_at"],
)
def test_a_missing_statistic_is_named(make):
    tx, w = make(lawn.switch_when(3.0, key="margin")), jnp.array([3.0, 4.0])
    with pytest.raises(ValueError, match=r"extra argument `margin`.*margin=\.\.\."):
        tx.update(w, tx.init(w), w, switch_value=1.0)


def test_wrap_with_a_trigger_captures_at_the_update_after_latching():
    tx = lawn.wrap(optax.adam(0.05), lawn.switch_when(3.0, decay=0.0))
    params, state, history = network(), tx.init(network()), []
    for t in range(6):
        updates, state = tx.update(params, state, params, switch_value=t * 1.0)
        history.append(params)
        params = optax.apply_updates(params, updates)
    assert int(state.phase.switched_at) == 4
    assert_close(state.norms, norms_of(history[4]), rtol=1e-6)
    assert int(state.inner_state[0].count) == 2  # restarted with the moments


@pytest.mark.parametrize(
    "make",
    [
        lambda n: optax.chain(optax.identity(), lawn.wrap(optax.sgd(0.1), n)),
        lambda n: lawn.lamb(0.1, switch_step=n),
        lambda n: optax.MultiSteps(lawn.adam(0.1, switch_step=n), 1),
        lambda n: optax.masked(lawn.sgd(0.1, switch_step=n), True),
        lambda n: lawn.switch_at(n, lawn.project_tangent()),
        lambda n: optax.chain(
            lawn.switch_at(n, lawn.project_tangent()),
            lawn.reset_at(n, optax.sgd(0.1)),
            lawn.switch_at(n, lawn.renormalize()),
        ),
        lambda n: optax.inject_hyperparams(lawn.adam, static_args="projections")(
            0.1, switch_step=n
        ),
    ],
    ids=[
        "in_chain",
        "lamb",
        "in_multi_steps",
        "in_masked",
        "switch_at",
        "composed",
        "injected",
    ],
)
def test_logit_scale_is_alpha_if_the_next_update_is_constrained(make):
    for switch_step, expected in ((2, [1.0, 1.0, 0.25, 0.25]), (0, [0.25] * 4)):
        _, states = run(make(switch_step), network(), 3)
        scales = [lawn.logit_scale(state, 0.25) for state in states]
        assert [float(s) for s in scales] == expected
    scale = jax.jit(lambda s, alpha: lawn.logit_scale(s, alpha))(states[-1], 0.5)
    assert scale.dtype == jnp.float32 and float(scale) == 0.5


def test_logit_scale_of_a_replicated_state_has_one_number_per_replica():
    state = lawn.adam(0.1, switch_step=1).init(network())
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    assert lawn.logit_scale(stacked, 0.25).tolist() == [1.0, 1.0]


def test_logit_scale_without_a_lawn_state_says_so():
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.logit_scale(optax.adam(0.1).init(network()), 0.5)


TAKES_A_STEP = {
    "wrap": lambda step: lawn.wrap(optax.sgd(0.1), step),
    "adam": lambda step: lawn.adam(0.1, switch_step=step),
    "sgd": lambda step: lawn.sgd(0.1, switch_step=step, weight_decay=0.1),
    "lamb": lambda step: lawn.lamb(0.1, switch_step=step),
    "lamb_plus": lambda step: lawn.lamb_plus(0.1, switch_step=step),
    "switch_at": lambda step: lawn.switch_at(step, optax.identity()),
    "reset_at": lambda step: lawn.reset_at(step, optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", TAKES_A_STEP)
def test_a_step_is_a_whole_number_of_updates(name):
    make = TAKES_A_STEP[name]
    for step in (3, np.int64(3), jnp.asarray(3)):
        make(step)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        make(-1)
    for step in (
        True,
        2.5,
        np.float32(2),
        "3",
        None,
        optax.constant_schedule(1),
        jnp.zeros(2, int),
    ):
        with pytest.raises(
            TypeError, match="(?s)whole number of updates.*Round epochs"
        ):
            make(step)


@pytest.mark.parametrize("projections", [0, 3, 1.5, "2", None])
def test_an_impossible_number_of_projections_is_refused(projections):
    for make in (
        lambda **k: lawn.wrap(optax.sgd(0.1), **k),
        lambda **k: lawn.adam(1, **k),
    ):
        with pytest.raises(ValueError, match="must be 1 or 2, got"):
            make(projections=projections)


@pytest.mark.parametrize("shape", [(1,), (32,)])
def test_a_statistic_that_is_no_scalar_is_refused(shape):
    tx = lawn.wrap(optax.sgd(0.1), lawn.switch_when(3.0, key="margin"))
    params = network()
    with pytest.raises(ValueError, match=r"`margin` must be a scalar.*shape \("):
        tx.update(params, tx.init(params), params, margin=jnp.ones(shape))


def test_a_state_of_replicas_is_refused_where_the_update_does_not_know_of_them():
    params = network()
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    for tx in (lawn.wrap(optax.sgd(0.1, 0.9), 1), lawn.reset_at(1, optax.trace(0.5))):
        state = jax.vmap(tx.init)(stacked)
        with pytest.raises(ValueError, match="leading axis.*`jax.vmap`"):
            tx.update(stacked, state, stacked)
        jax.vmap(tx.update)(stacked, state, stacked)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"threshold": "3"}, TypeError, "`threshold` must be a number, got '3'"),
        ({"threshold": 3.0, "plateau": "no"}, TypeError, "`plateau` must be a number"),
        ({"threshold": float("nan")}, ValueError, "got NaN"),
        ({"threshold": 3.0, "decay": 1.0}, ValueError, r"in \[0, 1\), got 1.0"),
        ({"threshold": 3.0, "decay": -0.1}, ValueError, r"in \[0, 1\), got -0.1"),
    ],
)
def test_a_trigger_that_could_never_work_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        lawn.switch_when(**arguments)
