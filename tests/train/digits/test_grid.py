"""Grid results, their best trial, and what is said about them."""

import numpy as np
import pytest

from train.digits.grid import GridResult
from train.digits.tables import (
    differences,
    result_table,
    trial_table,
)


def result(name, accuracy, loss, diverged=None, test=None):
    """A result with one evaluation; arguments are ``[trials][seeds]``."""
    accuracy, loss = np.asarray(accuracy), np.asarray(loss)
    test = 1 - accuracy if test is None else np.asarray(test)
    history = {
        "loss": loss[None],
        "validation_loss": loss[None],
        "validation_accuracy": accuracy[None],
        "test_accuracy": test[None],
        "ece": loss[None],
        "median_margin": loss[None],
        "norm_dense_0": loss[None],
    }
    steps = np.full(accuracy.shape, -1) if diverged is None else np.asarray(diverged)
    trials = [{"learning_rate": 10.0**-i} for i in range(len(accuracy))]
    return GridResult(name, trials, [1], history, steps, 1.5, 0.5)


@pytest.mark.parametrize(
    "accuracy, loss, diverged, best",
    [
        ([[0.5, 0.5], [0.9, 0.3]], [[1, 1], [9, 9]], None, 1),
        ([[0.5, 0.5], [0.5, 0.5]], [[3, 3], [2, 2]], None, 1),
        ([[0.9, np.nan], [0.5, 0.5]], [[1, np.nan], [2, 2]], [[-1, 7], [-1, -1]], 1),
        ([[np.nan, 0.9]], [[np.nan, 1]], [[4, -1]], None),
    ],
    ids=[
        "highest_mean_validation_accuracy",
        "ties_go_to_the_lower_loss",
        "a_trial_with_a_diverged_seed_does_not_count",
        "none_is_left",
    ],
)
def test_best_trial(accuracy, loss, diverged, best):
    assert result("adam", accuracy, loss, diverged).best() == best


def test_tables_show_what_diverged_and_keep_the_rest():
    nan = np.nan
    half = result("adam", [[nan, nan], [0.5, 0.7]], [[nan, nan], [1, 1]],
                  [[9, 4], [-1, -1]])  # fmt: skip
    gone = result("sgd", [[nan, 0.7]], [[nan, 1]], [[3, -1]])
    rows = trial_table([half, gone]).splitlines()[2:]
    assert "diverged at step 4 (2 of 2 runs)" in rows[0]
    assert "60.00 ± 14.14" in rows[1]
    assert "diverged at step 3 (1 of 2 runs)" in rows[2]
    rows = result_table([half, gone]).splitlines()[2:]
    assert "learning rate 0.1 " in rows[0] and "40.00 ± 14.14" in rows[0]
    assert "diverged at step 3 (1 of 2 runs)" in rows[1]


def test_differences_compare_lawn_with_others_on_the_test_images():
    base = result("adam", [[0.5, 0.5, 0.5]], [[1, 1, 1]], test=[[0.50, 0.60, 0.70]])
    close = result("adam-lawn", [[0.5] * 3], [[1] * 3], test=[[0.51, 0.60, 0.69]])
    far = result("sgd-lawn", [[0.5] * 3], [[1] * 3], test=[[0.60, 0.70, 0.801]])
    lines = differences([base, close, far]).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("adam-lawn minus adam: +0.00 points")
    assert lines[0].endswith("within the seeds' spread.")
    assert lines[1].startswith("sgd-lawn minus adam: +10.03 points")
    assert lines[1].endswith("beyond the seeds' spread.")
