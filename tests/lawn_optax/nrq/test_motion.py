"""Predictions for norm, angle and alignment, against simulated trials.

For each misprint, the printed form is written out here and must miss where the form of
the library holds. In the paper M is called the norm of x; it is its square.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from lawn_optax import nrq
from tests.support.asserts import close
from tests.support.rayleigh import (
    ANGLE,
    DECAY,
    DIM,
    LAW,
    MANY,
    NOISE,
    NORM,
    RATE,
    SIGMA,
    TIMES,
    in_equilibrium,
    simulated,
)

# Their loops are so long that the time to compile them does not count.
pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.usual_compilation]

# --- norm and angle -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_eq_17_predicts_the_fourth_power_of_the_norm(ratio):
    seen = simulated("many", 0.3, ratio * NORM)
    found = seen.norm.mean(axis=1)
    predicted = nrq.norm(jnp.asarray(TIMES), ratio * NORM, *LAW, DIM)
    # The first steps from half the norm are the long ones: their angle is 13%.
    close(predicted, found, 0.02)
    # Trials differ little: there is no diffusion.
    assert (seen.norm.std(axis=1) / found).max() < 0.03
    decayed, end = np.exp(-4 * DECAY * RATE * TIMES), (DIM - 1) * RATE / (2 * DECAY)
    printed = np.sqrt(decayed * ((ratio * NORM) ** 2 - end) + end)  # M the norm
    assert abs(printed[-1] / found[-1] - 1) > 1


def test_the_norm_settles_at_its_equilibrium():
    assert nrq.equilibrium_norm(*LAW, DIM) == pytest.approx(NORM)
    # 0.3%: in two levels the gradient of the loss adds 0.6% to the fourth power.
    close(in_equilibrium().norm.mean(), NORM, 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_lemma_1_has_the_squared_norm(ratio):
    seen = simulated("many", 0.98, ratio * NORM)
    found = np.sqrt(np.mean(seen.angular_update**2, axis=1))
    norm = seen.norm.mean(axis=1)
    predicted = np.asarray(nrq.angular_update(norm, SIGMA, RATE, DIM))
    # 0.6% is the noise of a variance of 2000 times 7 numbers; the rest is tan.
    close(predicted, found, 0.04)
    close(np.mean(predicted / found), 1, 0.01)
    assert np.all(NOISE * RATE / norm / found > 1.4)  # printed, with M the norm


def test_in_equilibrium_the_mean_square_angle_is_2_lambda_eta_not_the_mean():
    angles = in_equilibrium().angular_update
    close(np.sqrt(np.mean(angles**2)), ANGLE, 0.01)
    close(nrq.angular_update(NORM, SIGMA, RATE, DIM), ANGLE, 1e-12)
    # Seven normal numbers: the mean of their length is 0.965 of its root mean square.
    close(np.mean(angles) / ANGLE, 0.965, 0.01)


def one_step(x, spectrum, sigma, rate, decay, draws=200_000):
    """x after one update of eq. 3 with eq. 4, drawn many times, in NumPy."""
    x = np.asarray(x)
    noise = sigma * np.random.default_rng(0).normal(size=(draws, x.size))
    length = np.linalg.norm(x)
    unit = x / length
    g = spectrum * unit + noise
    g -= (g @ unit)[:, None] * unit
    return x - rate * g / length - rate * decay * x


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_eq_14_has_the_squared_rate_on_both_parts_and_eq_13_the_decay(sigma):
    x, rate, decay = np.linspace(1, 2, DIM), 0.4, 0.5
    after = one_step(x, MANY, sigma, rate, decay)
    cosine = after @ x / np.linalg.norm(after, axis=1) / np.linalg.norm(x)
    tangent = np.tan(np.arccos(cosine))
    found = np.sqrt(np.mean(tangent**2))
    predicted = float(nrq.step_angle(x, MANY, sigma, rate, decay))
    close(predicted, found, 5e-3)  # 200,000 draws
    unit = x / np.linalg.norm(x)
    slope = MANY * unit - (unit @ (MANY * unit)) * unit
    pull, noise = slope @ slope, (DIM - 1) * sigma**2
    printed = np.sqrt(pull + noise * rate**2) / (x @ x)
    assert abs(printed / found - 1) > 0.09
    undecayed = rate * np.sqrt(pull + noise) / (x @ x)
    close(found / undecayed, 1 / (1 - rate * decay), 5e-3)
    assert sigma < 1 or noise > pull  # both parts have been the larger one
    assert sigma == 1 or pull > noise


# --- the alignment --------------------------------------------------------------------


@pytest.mark.parametrize("place", ["near", "far"])
def test_eq_16_has_twice_the_loss_and_a_factor_2(place):
    x = np.r_[2.0, np.full(7, 0.2)] if place == "near" else np.linspace(1, 3, DIM)
    x *= 10 / np.linalg.norm(x)
    rate = 0.05  # a pull of 2e-3 per step, so that second order is as small
    f = x[0] ** 2 / (x @ x)
    after = one_step(x, MANY, SIGMA, rate, 0.0)
    change = after[:, 0] ** 2 / np.sum(after**2, axis=1) - f
    drift, diffusion = nrq.alignment_sde(x, MANY, SIGMA, rate)
    error = change.std() / np.sqrt(change.size)
    assert abs(change.mean() - drift) < 5 * error + 0.005 * drift
    close(change.std(), diffusion, 0.01)
    loss = np.sum(MANY * x * x) / (x @ x) / 2
    spread = (rate * SIGMA / (x @ x)) ** 2 * (1 - DIM * f)
    printed = rate / (x @ x) * (loss - MANY[0]) * f + spread
    assert abs(printed - change.mean()) > 50 * error
    # Twice that with L as in eq. 1 is not enough either.
    doubled = 2 * rate / (x @ x) * (loss - MANY[0]) * f + spread
    assert abs(doubled - change.mean()) > 50 * error


def test_the_loss_is_within_its_bounds_and_not_within_the_printed_ones():
    seen = simulated("many", 0.3, NORM * 2)
    low, high = nrq.loss_bounds(jnp.asarray(seen.alignment), MANY)
    slack = 1e-12
    assert np.all(low <= seen.loss + slack) and np.all(seen.loss <= high + slack)
    close(seen.loss[0], low[0], 1e-12)  # along the second axis
    assert np.all(seen.loss < 2 * low)  # as printed, without the 1/2
    top = jnp.zeros(DIM).at[-1].set(3.0).at[0].set(1.0)
    close(nrq.loss(top, MANY), nrq.loss_bounds(0.1, MANY)[1], 1e-12)
