"""Least squares for a sine by monomials: the solution of smallest norm.

As in Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
Figure 10. The other figures are in `train.studies.polynomials`.
"""

from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np

from train.runs.progress import QUIET, ProgressReport

DEGREES = (1, 5, 9, 15, 21, 27, 33, 39, 45, 51, 59, 67, 75, 83, 91, 99, 115, 131, 151,
           171, 191, 211, 231, 251, 275, 299)  # fmt: skip


def target(x: np.ndarray) -> np.ndarray:
    """A sine of frequency 4."""
    return np.sin(2 * np.pi * 4 * x)


def exact_target(x: np.ndarray) -> np.ndarray:
    """The same of an array of Decimals, by its Taylor series.

    The frequency is the float64 number nearest to 4 times 2 pi.
    """
    angle = Decimal(2 * np.pi * 4) * x
    term = total = angle
    for k in range(2, 300, 2):  # The next term is below 26^301 / 301!, 1e-188.
        term = -term * angle**2 / (k * (k + 1))
        total = total + term
    return total


def chebyshev(points: int) -> np.ndarray:
    """Chebyshev nodes on [-1, 1], which are dense at both ends."""
    return np.cos((2 * np.arange(points) + 1) * np.pi / (2 * points))


class Smallest(NamedTuple):
    """Solutions of smallest norm, Figure 10."""

    monomials: np.ndarray  # int[degrees]
    exact: np.ndarray  # float64[degrees]; mean square on the test points
    rounded: np.ndarray  # float64[degrees]; the same of a solution in float64


def smallest_norms(
    degrees: tuple[int, ...] = DEGREES,
    points: int = 76,
    tests: int = 600,
    progress: ProgressReport = QUIET,
) -> Smallest:
    """Computes test errors of the solution of smallest norm, exactly and in float64.

    The matrix of 76 monomials has a condition number of about 10^28, so float64 gives
    another solution; the exact one is computed with 150 digits, and so is the target: a
    sine in float64 would leave an error of 5e-31, its rounding. The nodes and the
    target are odd, and so are the solutions: half of the points and the odd monomials
    are enough.

    Args:
        degrees: The largest powers, odd.
        points: Number of Chebyshev nodes, even.
        tests: Number of evenly spaced test points, even.
        progress: Report of the degrees.

    Returns:
        The errors, by number of monomials including the even ones.
    """
    x, at = chebyshev(points)[: points // 2], np.linspace(-1, 1, tests)[tests // 2 :]
    exact, rounded = [], []
    for degree in degrees:
        with progress.part(f"Figure 10, {degree + 1} monomials"):
            powers = np.arange(1, degree + 1, 2)
            w = np.linalg.lstsq(x[:, None] ** powers, target(x), rcond=None)[0]
            rounded.append(np.mean((at[:, None] ** powers @ w - target(at)) ** 2))
            with localcontext(prec=150):
                many = np.vectorize(Decimal, otypes=[object])
                features, values = many(x)[:, None] ** powers, exact_target(many(x))
                if len(powers) < len(x):
                    w = _solve(features.T @ features, features.T @ values)
                else:
                    w = features.T @ _solve(features @ features.T, values)
                fitted = many(at)[:, None] ** powers @ w
                error = (fitted - exact_target(many(at))) ** 2
            exact.append(np.mean(error.astype(float)))
    return Smallest(np.array(degrees) + 1, np.array(exact), np.array(rounded))


def _solve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Gaussian elimination for a positive definite matrix of exact numbers."""
    a, b = a.copy(), b.copy()
    for k in range(len(b)):
        share = a[k + 1 :, k] / a[k, k]
        a[k + 1 :, k:] -= share[:, None] * a[k, k:]
        b[k + 1 :] -= share * b[k]
    for k in reversed(range(len(b))):
        b[k] = (b[k] - sum(a[k, k + 1 :] * b[k + 1 :])) / a[k, k]
    return b
