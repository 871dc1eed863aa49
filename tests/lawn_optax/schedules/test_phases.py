"""Schedules: every boundary by hand, then the forms in which a run uses them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import schedules
from tests.support.optional import enable_x64


def rates(schedule, counts):
    return np.asarray(schedule(jnp.asarray(counts)))


def test_three_phase_by_hand():
    # 2 free, 4 warm-up, 4 decay; the peak of 16 makes every rate exact.
    schedule = schedules.three_phase(16.0, 2, 4, 10)
    by_hand = [8, 16, 4, 8, 12, 16, 16, 12, 8, 4, 0, 0]
    np.testing.assert_array_equal(rates(schedule, range(12)), by_hand)


def test_two_phase_by_hand():
    schedule = schedules.two_phase(8.0, 2, 6)
    by_hand = [4, 8, 8, 6, 4, 2, 0, 0]
    np.testing.assert_array_equal(rates(schedule, range(8)), by_hand)


@pytest.mark.parametrize(
    "phases, by_hand",
    [
        pytest.param((0, 2, 4), [2, 4, 4, 2, 0], id="no_free_phase"),
        pytest.param((2, 0, 4), [2, 4, 4, 2, 0], id="no_warmup"),
        pytest.param((0, 0, 4), [4, 3, 2, 1, 0], id="decay_alone"),
        pytest.param((2, 2, 4), [2, 4, 2, 4, 0], id="no_decay"),
        pytest.param((4, 0, 4), [1, 2, 3, 4, 0], id="free_phase_alone"),
        pytest.param((1, 1, 3), [4, 4, 4, 0, 0], id="phases_of_one_update"),
        pytest.param((0, 0, 1), [4, 0, 0, 0, 0], id="one_update_in_all"),
    ],
)
def test_phases_may_be_empty_or_of_one_update(phases, by_hand):
    schedule = schedules.three_phase(4.0, *phases)
    with jax.debug_nans(True):  # an empty phase must not divide 0 by 0 on the way
        np.testing.assert_array_equal(rates(schedule, range(5)), by_hand)


def test_every_update_of_a_run_has_a_positive_rate_up_to_the_peak():
    counts = np.append(np.arange(13), 2**31 - 1)  # where Optax's counters stop
    for free, warmup, decay in itertools.product(range(5), repeat=3):
        total = free + warmup + decay
        if total:
            run = rates(schedules.three_phase(0.5, free, warmup, total), counts)
            assert (run[:total] > 0).all() and run.max() == 0.5
            assert (run[total:] == 0).all()


def test_decay_is_that_of_optax():
    ours = schedules.three_phase(0.7, 3, 5, 50)
    theirs = optax.linear_schedule(0.7, 0.0, 42)
    np.testing.assert_allclose(
        rates(ours, range(8, 52)),
        rates(theirs, range(44)),
        rtol=1e-6,
        atol=1e-7,
        equal_nan=False,
    )


def test_long_runs_keep_exact_counts():
    # Beyond 2**24 a count is not exact in float32; its distance to the end still is.
    total = 2**30
    schedule = schedules.two_phase(1.0, 0, total)
    last = rates(schedule, [total - 2, total - 1, total])
    np.testing.assert_array_equal(last, [2**-29, 2**-30, 0])


def test_jit_vmap_and_arrays_of_counts_agree():
    schedule = schedules.three_phase(0.3, 3, 4, 12)
    counts = jnp.arange(14)
    one_by_one = [float(schedule(count)) for count in range(14)]
    for many in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        np.testing.assert_allclose(
            many(counts), one_by_one, rtol=1e-6, atol=0, equal_nan=False
        )


def test_switch_steps_may_be_traced():
    counts = jnp.arange(14)

    def run(free, warmup, total, peak):
        return schedules.three_phase(peak, free, warmup, total)(counts)

    grid = [(0, 4, 12), (3, 0, 12), (5, 7, 12), (3, 4, 10)]
    free, warmup, total = jnp.array(grid).T
    peaks = jnp.array([0.1, 0.2, 0.3, 0.4])
    swept = jax.jit(jax.vmap(run))(free, warmup, total, peaks)
    for row, phases, peak in zip(swept, grid, peaks, strict=True):
        np.testing.assert_allclose(
            row, run(*phases, float(peak)), rtol=1e-6, atol=0, equal_nan=False
        )


def test_traced_phases_longer_than_the_run_still_end_at_zero():
    schedule = schedules.three_phase(1.0, jnp.array(6), jnp.array(6), jnp.array(4))
    np.testing.assert_allclose(
        rates(schedule, range(6)),
        [1 / 6, 2 / 6, 3 / 6, 4 / 6, 0, 0],
        rtol=1e-6,
        equal_nan=False,
    )


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_rates_have_the_default_precision(x64):
    with enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        schedule = schedules.three_phase(0.1, 3, 7, 20)
        for count in (jnp.int32(1), 1, jnp.int32(5), jnp.int32(15), jnp.int32(30)):
            assert schedule(count).dtype == dtype
            assert jax.jit(schedule)(count).dtype == dtype
        tolerance = 1e-15 if x64 else 1e-7
        np.testing.assert_allclose(
            rates(schedule, [0, 3, 11, 19]),
            [0.1 / 3, 0.1 / 7, 0.1 * 9 / 10, 0.1 / 10],
            rtol=tolerance,
            atol=0,
            equal_nan=False,
        )


def test_drives_an_optax_optimizer():
    tx = optax.sgd(schedules.three_phase(16.0, 2, 4, 10))
    params = jnp.zeros(())
    state = tx.init(params)
    steps = []
    for _ in range(11):
        update, state = tx.update(jnp.ones(()), state, params)
        steps.append(-float(jnp.asarray(update)))
    assert steps == [8, 16, 4, 8, 12, 16, 16, 12, 8, 4, 0]


@pytest.mark.parametrize(
    "epochs, steps_per_epoch, steps",
    [
        (0, 5, 0),
        (0.09, 5, 0),  # 0.45 updates
        (0.1, 5, 1),  # half an update: up, not to the even 0
        (0.3, 5, 2),  # 1.5
        (0.5, 5, 3),  # 2.5: up, where Python's round gives 2
        (0.29, 50, 15),  # 14.5, though 0.29 * 50 < 14.5 in binary
        (2, 782, 1564),
        (np.float32(0.1), 5, 1),
        (1e-9, 5, 0),
    ],
)
def test_epochs_to_steps_by_hand(epochs, steps_per_epoch, steps):
    result = schedules.epochs_to_steps(epochs, steps_per_epoch)
    assert result == steps and type(result) is int


def test_epoch_forms_switch_where_epochs_to_steps_says():
    # 0.1 epochs of 5 are half an update, hence 1; 0.5 are 3; 2 are 10.
    ours = schedules.three_phase_epochs(0.3, 0.1, 0.5, 2, 5)
    same = schedules.three_phase(0.3, 1, 3, 10)
    np.testing.assert_array_equal(rates(ours, range(12)), rates(same, range(12)))
    # 1.5 epochs of 7 are 11 updates and half an epoch 4, of the 14 that there are.
    ours = schedules.three_phase_epochs(0.3, 1.5, 0.5, 2, 7)
    same = schedules.three_phase(0.3, 11, 3, 14)
    np.testing.assert_array_equal(rates(ours, range(16)), rates(same, range(16)))
    with pytest.raises(ValueError, match="free_steps=11, warmup_steps=5, total_ste"):
        schedules.three_phase_epochs(0.3, 1.5, 0.7, 2, 7)
    ours = schedules.two_phase_epochs(0.3, 0.5, 2, 5)
    same = schedules.two_phase(0.3, 3, 10)
    np.testing.assert_array_equal(rates(ours, range(12)), rates(same, range(12)))


@pytest.mark.parametrize(
    "phases, message",
    [
        ((-1, 2, 10), "`free_steps`.*0 or more; got -1"),
        ((1, -2, 10), "`warmup_steps`.*got -2"),
        ((1, 2, -10), "`total_steps`.*got -10"),
        ((0.5, 2, 10), "`free_steps`.*whole number.*epochs_to_steps"),
        ((1, float("nan"), 10), "`warmup_steps`.*got nan"),
        ((1, 2, float("inf")), "`total_steps`.*got inf"),
        ((np.int64(-1), 2, 10), "`free_steps`"),
        ((6, 5, 10), "free_steps=6, warmup_steps=5, total_steps=10. Shorten"),
        ((0, 0, 0), "at least 1"),
    ],
)
def test_impossible_steps_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        schedules.three_phase(0.1, *phases)


@pytest.mark.parametrize("peak", [-0.1, float("nan"), float("inf")])
def test_impossible_peaks_are_refused(peak):
    with pytest.raises(ValueError, match="`peak_value`.*got"):
        schedules.two_phase(peak, 1, 10)


def test_impossible_epochs_are_refused():
    for epochs in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="[Ee]pochs.*finite"):
            schedules.epochs_to_steps(epochs, 5)
    for steps_per_epoch in (0, -3, 2.5):
        with pytest.raises(ValueError, match="`steps_per_epoch`"):
            schedules.epochs_to_steps(1, steps_per_epoch)
    with pytest.raises(ValueError, match="free_steps=6"):
        schedules.three_phase_epochs(0.1, 6, 5, 10, 1)
    with pytest.raises(ValueError, match="`total_steps`"):
        schedules.two_phase_epochs(0.1, 0, 0.01, 5)


def test_whole_floats_and_numpy_integers_are_steps():
    ours = schedules.three_phase(0.3, 2.0, np.int64(3), 1e1)
    same = schedules.three_phase(0.3, 2, 3, 10)
    np.testing.assert_array_equal(rates(ours, range(11)), rates(same, range(11)))
