"""The differential equations 9 to 11 beside the recursion, and the rate of eq. 27."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from lawn_optax import nrq
from tests.support.asserts import close
from tests.support.rayleigh import (
    ANGLE,
    DECAY,
    DIM,
    LAW,
    LEVELS,
    MANY,
    NORM,
    RATE,
    SIGMA,
)

pytestmark = pytest.mark.usefixtures("x64")

# --- the equations in time ------------------------------------------------------------


def tangent(unit, v):
    return v - np.sum(v * unit, axis=1, keepdims=True) * unit


def recursion(spectrum, law, start, steps, trials):
    """x after each update of eq. 3 with eq. 4, from the second axis, in NumPy."""
    (sigma, rate, decay), rng = law, np.random.default_rng(0)
    x = np.tile(start * np.eye(DIM)[1], (trials, 1))
    for _ in range(steps):
        yield x
        length = np.linalg.norm(x, axis=1, keepdims=True)
        unit = x / length
        g = tangent(unit, spectrum * unit + sigma * rng.normal(size=x.shape)) / length
        x = x - rate * (g + decay * x)


def integrated(parts, spectrum, law, start, updates, trials):
    """The same of eq. 9, by `parts` steps for each update."""
    sigma, rate, decay = law
    noise, part = map(float, nrq.euler_maruyama(sigma, rate, parts))
    path = recursion(spectrum, (noise, part, decay), start, parts * updates, trials)
    return np.array(list(path))[::parts]


def test_eq_9_goes_to_the_norm_of_eq_17_as_its_steps_get_shorter():
    updates, start, flat = 12, 0.3 * NORM, np.zeros(DIM)
    predicted = nrq.norm(jnp.arange(updates), start, *LAW, DIM)
    errors = []
    for parts in (1, 8):
        path = integrated(parts, flat, LAW, start, updates, 2_000)
        norms = np.linalg.norm(path, axis=-1).mean(axis=1)
        errors.append(np.abs(norms / predicted - 1).max())
    assert errors[0] > 5e-3 and errors[1] < errors[0] / 5


def test_eq_9_settles_at_the_stationary_risk_where_the_recursion_does_not():
    law = 0.15, 1.0, 0.03  # long steps and little noise
    start = nrq.equilibrium_norm(*law, DIM)
    predicted = float(nrq.stationary_risk(LEVELS, *law))
    recursion, equation = (
        np.mean(1 - path[40:, :, 0] ** 2 / np.sum(path[40:] ** 2, axis=-1))
        for path in (integrated(n, LEVELS, law, start, 80, 400) for n in (1, 8))
    )
    assert recursion > 1.3 * predicted
    close(equation, predicted, 0.05)


def test_eqs_10_and_11_are_eq_9_when_m_is_the_squared_norm():
    parts, updates, rng = 16, 20, np.random.default_rng(0)
    x = np.tile(0.5 * NORM * np.eye(DIM)[1], (50, 1))
    polar = {power: (x / (0.5 * NORM), np.full(50, (0.5 * NORM) ** power))
             for power in (1, 2)}  # fmt: skip
    for _ in range(parts * updates):
        moved = SIGMA * rng.normal(size=x.shape) / np.sqrt(parts)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        pull = tangent(x / length, MANY * x / length)
        noise = tangent(x / length, moved)
        x = x - RATE * (pull / length + DECAY * x) / parts + RATE * noise / length
        for power, (u, m) in polar.items():
            step, wide = RATE / m[:, None], RATE * SIGMA / m[:, None]
            drift = step * tangent(u, MANY * u) + wide**2 / 2 * (DIM - 1) * u
            new = u - drift / parts + step * tangent(u, moved)
            growth = -2 * DECAY * RATE * m + RATE**2 / m * (DIM - 1) * SIGMA**2
            # The equation stays on the sphere, its steps only to first order.
            new = new / np.linalg.norm(new, axis=1, keepdims=True)
            polar[power] = new, m + growth / parts
    length = np.linalg.norm(x, axis=1)
    off = {
        power: np.abs(np.sum(x * u, axis=1) / length - 1).mean()
        for power, (u, _) in polar.items()
    }
    assert off[2] < 1e-5 < 5e-3 < off[1]
    close(polar[2][1].mean(), np.mean(length**2), 0.01)


# --- eq. 27 ---------------------------------------------------------------------------


def slowest(dim, k, cells=3_000):
    """Smallest rates of eq. 25's diffusion, from fluxes between cells of the angle."""
    edges = np.linspace(0, np.pi / 2, cells + 1)
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1]

    def log_density(angle):
        return -k * np.sin(angle) ** 2 + (dim - 2) * np.log(np.sin(angle))

    inner, own = log_density(edges[1:-1]), log_density(middles)
    out = np.r_[np.exp(inner - own[:-1]), 0] + np.r_[0, np.exp(inner - own[1:])]
    beside = -np.exp(inner - (own[1:] + own[:-1]) / 2)
    both = out / (2 * width**2), beside / (2 * width**2)
    return linalg.eigh_tridiagonal(*both, select="i", select_range=(0, 1))[0]


@pytest.mark.parametrize("dim", [2, 8])
def test_the_rate_of_eq_27_is_the_gap_of_the_diffusion(dim):
    spectrum = np.array([0.5] + [2.5] * (dim - 1))
    for k in (0.01, 3.0, 40.0, 500.0, 520.0):  # the last one by its expansion
        sigma = 2 * np.sqrt(dim - 1) / (ANGLE * k)
        found = nrq.relaxation_rate(spectrum, sigma, RATE, DECAY)
        still, gap = slowest(dim, k) * ANGLE**2 / (dim - 1)
        assert abs(still) < 1e-4 * gap
        close(found, gap, 1e-5)


def test_the_last_trials_to_arrive_have_the_rate_of_eq_27():
    # They begin in the worst direction, and few are left there after 180 updates.
    left = [
        np.mean(x[:, 0] ** 2 < 0.8 * np.sum(x * x, axis=1))
        for x in recursion(LEVELS, LAW, NORM, 281, 4_000)
    ]
    found = np.log(left[180] / left[280]) / 100
    # Some 110 trials are left at the end: 10% of them is 4% of the rate.
    expected = float(nrq.relaxation_rate(LEVELS, *LAW))
    close(found, expected, 0.12)
    assert nrq.equilibrium_bounds(LEVELS, *LAW, xi=0.99).high_rate > 1.8 * expected
