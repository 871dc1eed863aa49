"""The report of groups and state, and reading LAWN's state wherever it is nested."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.optional import partition
from tests.support.reports import PARAMS, grads, train, training

ZEROS = {"dense": PARAMS["dense"], "head": {"kernel": jnp.zeros(2)}}


def row(report, name):
    """The cells of the line that begins with a group's or a leaf's name."""
    (line,) = [line for line in report.splitlines() if line.split("  ")[0] == name]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def off_by(report, name):
    return float(row(report, name)[5].split()[0])


# --- without a state ------------------------------------------------------------------


def test_the_table_word_for_word():
    params = {
        "dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
        "embedding": jnp.ones((10, 2), jnp.bfloat16),
        "gate": {"scale": jnp.ones(1)},
        "step": jnp.zeros((), jnp.int32),
    }
    groups = lawn.groups.not_paths("embedding")
    assert lawn.describe(params, groups).splitlines() == [
        "group  norms  elements  leaves",
        "dense      1        16  dense/bias (4), dense/kernel (3, 4)",
        "",
        "free        elements  why",
        "embedding         20  named in not_paths",
        "gate/scale         1  one element: no tangent direction",
        "step               1  not floating point (int32)",
    ]


def test_shapes_suffice_and_nothing_free_needs_no_second_table():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert lawn.describe(shapes) == lawn.describe(PARAMS)
    assert lawn.describe(shapes).splitlines() == [
        "group  norms  elements  leaves",
        "dense      1         6  dense/bias (2), dense/kernel (2, 2)",
        "head       1         2  head/kernel (2)",
    ]


def test_the_number_of_norms_of_groups_with_slices():
    assert row(lawn.describe(PARAMS, "neuron"), "dense/kernel")[1] == "2"


# --- with a state ---------------------------------------------------------------------


def test_a_state_in_the_free_phase_says_so_and_shows_no_norms():
    params, state = train(lawn.wrap(optax.adam(0.1), switch_step=3), steps=2)
    report = lawn.describe(params, state=state)
    assert report.splitlines()[:2] == [
        "free phase after 2 updates: no norm is captured yet",
        "",
    ]
    assert report.splitlines()[2:] == lawn.describe(params).splitlines()


def test_a_state_after_the_switch_shows_captured_beside_present_norms():
    tx = lawn.wrap(optax.sgd(0.1))
    state = tx.init(PARAMS)
    _, state = tx.update(grads(), state, PARAMS)
    assert lawn.describe(PARAMS, state=state).splitlines() == [
        "constrained since update 0 of 1",
        "",
        "group  norms  elements  captured  now   off by   rms  leaves",
        "dense      1         6         5    5  0.0e+00  2.04  dense/bias (2),"
        " dense/kernel (2, 2)",
        "head       1         2         5    5  0.0e+00  3.54  head/kernel (2)",
    ]


def test_the_switch_is_named_by_its_step():
    params, state = train(lawn.wrap(optax.adam(0.1), switch_step=3), steps=5)
    report = lawn.describe(params, state=state)
    assert report.startswith("constrained since update 3 of 5\n")
    assert off_by(report, "dense") < 1e-6 and off_by(report, "head") < 1e-6


@pytest.mark.parametrize(
    "behind", [optax.scale(0.5), optax.add_decayed_weights(0.1)], ids=["scale", "decay"]
)
def test_what_breaks_the_constraint_behind_wrap_shows(behind):
    tx = optax.chain(lawn.wrap(optax.sgd(3.0)), behind)
    params, state = train(tx)
    report = lawn.describe(params, state=state)
    now = np.linalg.norm(np.asarray(params["head"]["kernel"], np.float64))
    assert abs(now / 5 - 1) > 0.01
    # The report prints two digits of the drift and six of the norm.
    np.testing.assert_allclose(off_by(report, "head"), abs(now / 5 - 1), rtol=0.06)
    np.testing.assert_allclose(float(row(report, "head")[4]), now, rtol=1e-5)
    assert row(report, "head")[3] == "5"


def test_weights_edited_by_hand_show_in_their_group_only():
    params, state = train(lawn.wrap(optax.sgd(0.1)))
    params["head"]["kernel"] = 2 * params["head"]["kernel"]
    report = lawn.describe(params, state=state)
    assert row(report, "head")[3:6] == ["5", "10", "1.0e+00"]
    assert off_by(report, "dense") < 1e-6


def test_weights_that_became_nan_show():
    params, state = train(lawn.wrap(optax.sgd(0.1)))
    params["head"]["kernel"] = jnp.array([jnp.nan, 1.0])
    assert "nan" in row(lawn.describe(params, state=state), "head")[5]


def test_groups_found_free_at_the_switch_are_named_also_when_they_have_grown():
    params, state = train(lawn.wrap(optax.sgd(0.1)), ZEROS)
    table, free = lawn.describe(params, state=state).split("\n\n")[1:]
    assert row(table, "dense")[3] == "5" and "head" not in table
    _, elements, why = row(free, "head/kernel")
    reason = "zero or not finite at the switch: free for good, its norm is "
    assert elements == "2" and why.startswith(reason)
    assert float(why.removeprefix(reason).removesuffix(" now")) > 0


def test_slices_show_their_range_and_how_many_are_free():
    kernel = jnp.array([[3.0, 0.0, 6.0], [4.0, 0.0, 8.0]])
    tx = lawn.wrap(optax.sgd(0.0), groups="neuron")
    params, state = train(tx, {"d": kernel})
    report = lawn.describe(params, "neuron", state)
    assert row(report, "d")[1:6] == ["3", "6", "5 to 10", "5 to 10", "0.0e+00 (1 free)"]
    assert "zero" not in report
    params["d"] = params["d"] * jnp.array([[1.0, 1.0, 1.5]])  # the worst slice counts
    report = lawn.describe(params, "neuron", state)
    assert row(report, "d")[5] == "5.0e-01 (1 free)"


# --- nesting --------------------------------------------------------------------------

LAWN = functools.partial(lawn.wrap, optax.adam(0.1), 1)
HEAD = {"dense": False, "head": True}
NOT_DENSE = lawn.groups.not_paths("dense")

NESTED = {
    "alone": (LAWN(), "layer"),
    "chain": (optax.chain(optax.clip(1.0), optax.chain(LAWN())), "layer"),
    "masked": (optax.masked(LAWN(), HEAD), NOT_DENSE),
    "partition": (
        partition(
            {True: LAWN(), False: optax.sgd(0.1)},
            {"dense": {"kernel": False, "bias": False}, "head": {"kernel": True}},
        ),
        NOT_DENSE,
    ),
    "multi_steps": (optax.MultiSteps(LAWN(), 1), "layer"),
    "apply_if_finite": (optax.apply_if_finite(LAWN(), 3), "layer"),
    "inject_hyperparams": (
        optax.inject_hyperparams(
            lawn.adam, static_args=("groups", "reset", "projections")
        )(learning_rate=0.1, switch_step=1),
        "layer",
    ),
    "lamb": (lawn.lamb(0.1, switch_step=1), "layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_the_state_is_found_inside(name):
    tx, groups = NESTED[name]
    reports = [
        lawn.describe(params, groups, state) for params, state in training(tx, steps=4)
    ]
    assert reports[0].startswith("free phase after 1 updates")
    report = reports[-1]
    assert report.startswith("constrained since update 1 of 4\n")
    assert off_by(report, "head") < 1e-6


def test_masked_with_absent_parameters_instead_of_groups():
    params, state = train(optax.masked(LAWN(), HEAD), steps=3)
    without = {"dense": None, "head": params["head"]}
    assert "constrained since update 1 of 3" in lawn.describe(without, state=state)


@pytest.mark.parametrize("devices", [1, 3], ids=["one_replica", "three_replicas"])
def test_a_replicated_state_is_read_once(devices):
    tx = optax.chain(LAWN())
    params, state = train(tx, steps=3)
    replicated = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
    assert lawn.describe(params, state=replicated) == lawn.describe(params, state=state)


@pytest.mark.parametrize(
    "params",
    [{"w": jnp.array([3.0, 4.0])}, [jnp.array([3.0, 4.0])], (jnp.array([3.0, 4.0]),)],
    ids=["dict", "list", "tuple"],
)
def test_moments_with_a_single_leaf_are_searched(params):
    # A container of one array is not that array.
    for tx in (optax.chain(LAWN()), lawn.lamb(0.1, switch_step=1)):
        params_now, state = train(tx, params)
        assert "since update 1 of 3" in lawn.describe(params_now, state=state)
        assert float(lawn.logit_scale(state, 0.5)) == 0.5


def test_composed_chains_show_the_step_of_the_outer_switch():
    tx = optax.chain(
        lawn.switch_at(2, lawn.project_tangent()),
        lawn.reset_at(2, optax.adam(0.1)),
        lawn.switch_at(2, lawn.renormalize()),
    )
    reports = [
        lawn.describe(params, state=state) for params, state in training(tx, steps=5)
    ]
    assert reports[1].startswith("free phase after 2 updates")
    report = reports[-1]
    assert report.startswith("constrained since update 2 of 5\n")
    assert off_by(report, "head") < 1e-6
    wrapped = train(lawn.wrap(optax.adam(0.1), 2), steps=5)
    assert report == lawn.describe(wrapped[0], state=wrapped[1])


def test_two_lawn_states_are_told_apart_by_their_groups():
    tx = optax.chain(
        optax.masked(lawn.wrap(optax.sgd(0.1), 1), HEAD),
        optax.masked(lawn.wrap(optax.sgd(0.1), 2), {"dense": True, "head": False}),
    )
    params, state = train(tx, steps=4)
    assert "since update 1 of 4" in lawn.describe(params, NOT_DENSE, state)
    not_head = lawn.groups.not_paths("head")
    assert "since update 2 of 4" in lawn.describe(params, not_head, state)


# --- errors ---------------------------------------------------------------------------


def test_groups_other_than_the_optimizers_are_refused():
    params, state = train(lawn.wrap(optax.sgd(0.1), groups="layer"))
    for other in ("leaf", "all", "neuron", lawn.groups.only_matrices("all")):
        with pytest.raises(ValueError, match="other groups"):
            lawn.describe(params, other, state)
    # Equal groups under other names are the same.
    named = lambda params: {"dense": "first", "head": "second"}  # noqa: E731
    assert "constrained since" in lawn.describe(params, named, state)


def test_other_groups_with_as_many_norms_are_refused():
    params, state = train(lawn.wrap(optax.sgd(0.1)))
    swapped = lambda params: {  # noqa: E731
        "dense": {"kernel": "a", "bias": "b"}, "head": {"kernel": "b"}
    }  # fmt: skip
    with pytest.raises(ValueError, match="other groups"):
        lawn.describe(params, swapped, state)


def test_a_state_without_lawn_is_an_error():
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.describe(PARAMS, state=optax.adam(0.1).init(PARAMS))
    # `reset_at` knows the step but holds no norms.
    state = lawn.reset_at(0, optax.adam(0.1)).init(PARAMS)
    with pytest.raises(ValueError, match="no LAWN state"):
        lawn.describe(PARAMS, state=state)
