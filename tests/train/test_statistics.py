"""Means, spreads and intervals."""

import numpy as np
import pytest

from train.statistics import mean_std, paired_interval


def test_mean_and_sample_standard_deviation():
    assert mean_std(np.array([1.0, 2.0, 6.0])) == (3.0, pytest.approx(7**0.5), 3)
    assert mean_std(np.array([0.5, 0.25])).text(1, scale=100) == "37.5 ± 17.7"
    assert mean_std(np.array([0.5])).text(1, scale=100) == "50.0"


def test_paired_interval_is_students():
    mean, half = paired_interval(np.array([3.0, 5.0, 10.0]), np.array([2.0, 3.0, 4.0]))
    # Differences 1, 2, 6: t(0.975, 2) = 4.302653, standard error sqrt(7 / 3).
    assert mean == 3.0
    assert half == pytest.approx(4.302653 * (7 / 3) ** 0.5, rel=1e-6)


def test_equal_differences_have_an_interval_of_no_width():
    mean, half = paired_interval(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.1, 0.2]))
    assert mean == pytest.approx(0.1) and half == pytest.approx(0, abs=1e-15)
