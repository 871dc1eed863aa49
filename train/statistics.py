"""Means, spreads and intervals of numbers from several runs or cases."""

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000


class MeanStd(NamedTuple):
    """Mean and sample standard deviation of n runs; `std` is NaN for n = 1."""

    mean: float
    std: float
    n: int

    def text(self, decimals: int, scale: float = 1.0) -> str:
        """``mean ± std`` times `scale`; the mean alone for a single run."""
        mean = f"{scale * self.mean:.{decimals}f}"
        return mean if self.n == 1 else f"{mean} ± {scale * self.std:.{decimals}f}"


def mean_std(values: np.ndarray) -> MeanStd:
    """Summarises one number per run.

    Args:
        values: ``[n]``, n at least 1.

    Returns:
        The mean, the sample standard deviation (n - 1 in its denominator) and n.
    """
    values = np.asarray(values, np.float64)
    std = values.std(ddof=1) if values.size > 1 else np.nan
    return MeanStd(float(values.mean()), float(std), values.size)


def paired_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compares two methods that ran with the same seeds.

    Args:
        first: ``[n]``, one number per seed, n at least 2.
        second: ``[n]``, the numbers of the other method, in the same order.

    Returns:
        The mean of ``first - second`` and half the width of its 95% Student t
        interval.
    """
    # The interval of `stats.ttest_rel` is the same, but equal differences make it warn.
    return mean_interval(np.asarray(first, np.float64) - second)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The mean of ``[n]`` values, and half the width of its 95% Student t interval."""
    from scipy import stats  # Here, because it takes half a second to import.

    mean, std, n = mean_std(values)
    return mean, float(stats.t.ppf(0.975, n - 1) * std / np.sqrt(n))


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% percentile interval of a mean, from `RESAMPLES` resamples.

    Args:
        values: ``[n]``, one per case; the same values give the same interval.

    Returns:
        The 2.5th and the 97.5th percentile of the means.
    """
    # The number of times that each distinct value is drawn is multinomial: that is a
    # few numbers per resample instead of one per case.
    levels, counts = np.unique(np.round(values, 6), return_counts=True)
    # Of NumPy's generators, this one gives the same numbers in every version.
    rng = np.random.RandomState(np.random.PCG64(0))
    drawn = rng.multinomial(values.size, counts / values.size, RESAMPLES)
    low, high = np.percentile(drawn @ levels / values.size, (2.5, 97.5))
    return float(low), float(high)


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of ``[n]`` independent values."""
    return float(values.std(ddof=1) / len(values) ** 0.5)
