"""Predictions for the noisy Rayleigh quotient against thousands of simulated trials.

For each misprint, the printed form is written out here and must miss where the form of
the library holds. In the paper M is called the norm of x; it is its square.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, optimize

from lawn_optax import nrq

pytestmark = pytest.mark.usefixtures("x64")

# The angle is 3% of a radian in equilibrium and a gradient step contracts by about 1%,
# so that first order and differential equation are good to about 1%.
DIM, SIGMA, RATE, DECAY = 8, 1.0, 0.1, 5e-3
ANGLE = np.sqrt(2 * DECAY * RATE)
NORM = (RATE * (DIM - 1) * SIGMA**2 / (2 * DECAY)) ** 0.25
NOISE = np.sqrt(DIM - 1) * SIGMA
TRIALS, STEPS, EVERY = 2000, 1000, 5
TIMES = np.arange(0, STEPS, EVERY)
LEVELS = np.array([0.5] + [2.5] * 7)  # two of them, 2 apart
MANY = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 4.5, 4.5])
LAW = SIGMA, RATE, DECAY


def close(actual, expected, rtol, atol=0.0):
    np.testing.assert_allclose(actual, expected, rtol, atol, equal_nan=False)


@functools.partial(jax.jit, static_argnums=2)
def _simulate(x0, spectrum, steps):
    step = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE))
    key = jax.random.key(0)
    return nrq.simulate(step, x0, spectrum, SIGMA, steps, key=key, every=EVERY)[1]


@functools.cache
def simulated(name, f0, norm0, steps=STEPS):
    """Norms, alignments and angles; the rest of x lies along the second axis."""
    x = np.zeros(DIM)
    x[:2] = np.sqrt(f0), np.sqrt(1 - f0)
    spectrum = {"levels": LEVELS, "many": MANY}[name]
    x0 = jnp.asarray(np.tile(norm0 * x, (TRIALS, 1)))
    return jax.tree.map(np.asarray, _simulate(x0, jnp.asarray(spectrum), steps))


def in_equilibrium():
    seen = simulated("levels", 0.98, NORM)
    return jax.tree.map(lambda a: a[80:], seen)  # from 10 relaxations of f on


def risk(seen):
    return 1 - seen.alignment.mean(axis=1)


# --- norm and angle -------------------------------------------------------------------


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


# --- bounds of the risk ---------------------------------------------------------------

XI = 0.8


def measured_tails(seen):
    """P(f < xi) for the interval that ends at each time: the larger of its ends."""
    tails = np.mean(seen.alignment < XI, axis=1)
    return np.maximum(tails, np.r_[tails[:1], tails[:-1]])


FINE = np.linspace(0, TIMES[-1], 100 * (TIMES.size - 1) + 1)


def integral(values):
    return integrate.cumulative_trapezoid(values, FINE, initial=0)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_theorem_1_bounds_the_risk(ratio):
    seen = simulated("many", 0.3, ratio * NORM)
    tails = measured_tails(seen)
    low, high = nrq.risk_bounds(
        jnp.asarray(TIMES), ratio * NORM, 0.3, MANY, *LAW, xi=XI, tail=tails
    )
    found = risk(seen)
    slack = 4 * seen.alignment.std(axis=1) / np.sqrt(TRIALS) + 1e-12
    assert np.all(low <= found + slack) and np.all(found <= high + slack)
    # The same from eqs. 18 to 21 as corrected, integrated on a fine grid.
    delta = NOISE * RATE / np.asarray(nrq.norm(FINE, ratio * NORM, *LAW, DIM)) ** 2
    tails = tails[np.searchsorted(TIMES, FINE - 1e-9)]
    for pull, tail, bound in (
        (MANY[-1] - MANY[0], 0 * tails, low),
        ((MANY[1] - MANY[0]) * XI, tails, high),
    ):
        g = integral(2 * pull / NOISE * delta + DIM / (DIM - 1) * delta**2)
        source = 2 * pull * tail / NOISE * delta + delta**2
        expected = np.exp(-g) * (0.7 + integral(source * np.exp(g)))
        # The first steps from half the norm change the angle by 10% each.
        close(bound, expected[::100], 0.03 if ratio < 1 else 2e-3)


def test_theorem_1_is_nearly_sharp_for_two_levels():
    seen = simulated("levels", 0.98, NORM)
    low, high = nrq.risk_bounds(
        jnp.asarray(TIMES), NORM, 0.98, LEVELS, *LAW, xi=0.999, tail=0.0
    )
    # 3% of f is lost to the average of f (1 - f). With xi near 1 and a tail of 0 (not
    # the measured one) the two are almost one.
    close(risk(seen)[80:].mean(), low[80:].mean(), 0.045)
    close(high, low, 0.01)


def test_theorem_1_as_printed_bounds_nothing():
    seen = simulated("levels", 0.98, NORM)
    found, delta = risk(seen), np.full(FINE.shape, ANGLE)
    pull = LEVELS[-1] - LEVELS[0]
    extra = DIM / (DIM - 1) * delta**2

    def lower(factor):
        g = integral(factor * pull / NOISE * delta + extra)
        return np.exp(-g) * (0.02 + integral(delta**2 * np.exp(g)))

    assert lower(RATE)[-1] > 5 * found[-1]  # with the spurious rate
    assert lower(1.0)[-1] > 1.5 * found[-1]  # without it, and without the 2
    assert lower(2.0)[-1] < found[-1]
    for factor, most in ((RATE, 0.8), (1.0, 0.1)):  # with e^-G inside the integral
        g = integral(factor * pull * XI / NOISE * delta + extra)
        upper = np.exp(-g) * (0.02 + integral(delta**2 * np.exp(-g)))
        assert upper[-1] < most * found[-1]


def test_the_tail_in_theorem_1_is_that_of_the_time_of_integration():
    # With little noise all trials pass xi together: the tail falls from 1 to 0, and
    # that of the last time says nothing of the slow beginning.
    sigma, decay, norm0, xi = 0.05, 1e-6, 4.0, 0.5
    x0 = np.tile(norm0 * np.r_[np.sqrt(0.1), np.sqrt(0.9), np.zeros(6)], (200, 1))
    step = optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE))
    key, spectrum = jax.random.key(0), jnp.asarray(LEVELS)
    _, seen = nrq.simulate(step, jnp.asarray(x0), spectrum, sigma, 140, key=key)
    found, tails = risk(seen), np.mean(np.asarray(seen.alignment) < xi, axis=1)
    k = 120
    assert tails[0] == 1 and tails[k] == 0 and 0.2 < found[k] < 0.5

    def high(tail):
        return nrq.risk_bounds(
            *(jnp.arange(140), norm0, 0.1, spectrum, sigma, RATE, decay),
            xi=xi,
            tail=tail,
        )[1]

    assert high(tails[k])[k] < 0.8 * found[k]  # as printed
    before = np.r_[1.0, tails[:-1]]  # at the beginning of each interval
    assert np.all(found <= high(before) + 1e-3)


@pytest.mark.parametrize(("name", "f0"), [("levels", 0.98), ("many", 0.3)])
def test_corollary_1_bounds_limit_and_rate(name, f0):
    spectrum = {"levels": LEVELS, "many": MANY}[name]
    seen = simulated(name, f0, NORM)
    bounds = nrq.equilibrium_bounds(spectrum, *LAW, xi=XI)
    found = risk(seen)
    slack = 4 * seen.alignment.std(axis=1) / np.sqrt(TRIALS) + 1e-12
    approach = np.exp(-bounds.low_rate * TIMES)
    low = bounds.low_risk + (1 - f0 - bounds.low_risk) * approach
    assert np.all(low <= found + slack)
    late = TIMES >= 500
    tail = np.mean(seen.alignment[late] < XI, axis=1).max()
    assert np.all(found[late] <= bounds.high_risk + tail + slack[late])
    # To first order, and the rates beside it.
    wide, first = spectrum[-1] - spectrum[0], spectrum[1] - spectrum[0]
    close(bounds.low_risk, NOISE * ANGLE / (2 * wide), 0.05)
    close(bounds.high_risk, NOISE * ANGLE / (2 * XI * first), 0.15)
    close(bounds.low_rate, 2 * wide * ANGLE / NOISE, 0.05)
    close(bounds.high_rate, 2 * XI * first * ANGLE / NOISE, 0.15)


def test_corollary_1_as_printed_is_above_the_risk():
    found = risk(in_equilibrium()).mean()
    assert NOISE * ANGLE / (LEVELS[-1] - LEVELS[0]) > 1.9 * found
    close(NOISE * ANGLE / (LEVELS[-1] - LEVELS[0]) / 2, found, 0.02)


def test_the_slow_rate_of_eq_23_is_that_of_a_2():
    seen = simulated("many", 0.9, NORM)
    found = risk(seen)
    limit = found[-80:].mean()
    early, late = 8, 24  # 40 to 120 steps: the fast directions have settled
    rate = -np.log((found[late] - limit) / (found[early] - limit))
    rate /= TIMES[late] - TIMES[early]
    high_rate = nrq.equilibrium_bounds(MANY, *LAW, xi=XI).high_rate
    printed = XI * (MANY[-1] - MANY[0]) / NOISE * ANGLE
    # 0.018 is left of the risk after 120 steps, known to 0.001.
    assert 0.9 * high_rate < rate < 0.6 * printed


# --- the stationary law ---------------------------------------------------------------


def density64(gap, dim=DIM):
    """Eq. 25 without its integral, with a factor for the gap of the two levels."""
    k = gap * np.sqrt(dim - 1) / (SIGMA * ANGLE)
    return lambda f: np.exp(k * (f - 1)) * f**-0.5 * (1 - f) ** ((dim - 3) / 2)


def test_theorem_2_is_the_law_of_the_trials():
    found = in_equilibrium().alignment
    for xi in (0.95, 0.97, 0.98, 0.99):
        # 30,000 independent ones of 240,000, and 1% of the risk.
        close(nrq.stationary_tail(xi, LEVELS, *LAW), np.mean(found < xi), 0.02, 4e-3)
    gapless = density64(1.0)
    whole, part = (integrate.quad(gapless, 0, end)[0] for end in (1, 0.97))
    assert part / whole > 2 * np.mean(found < 0.97)  # printed: no gap


def test_the_density_is_eq_25_with_its_integral():
    density = density64(LEVELS[-1] - LEVELS[0])
    whole = integrate.quad(density, 0.5, 1, epsabs=1e-14)[0]
    f = np.array([0.6, 0.9, 0.97, 0.999])
    expected = np.log(density(f) / whole)
    close(nrq.stationary_log_density(f, LEVELS, *LAW), expected, 1e-6)
    part = integrate.quad(density, 0.5, 0.97, epsabs=1e-14)[0]
    close(nrq.stationary_tail(0.97, LEVELS, *LAW), part / whole, 1e-6)
    # Odd and even p, strong and weak noise, as one more check of the quadrature.
    for dim in (2, 3, 5, 50):
        for sigma in (0.05, 50.0):
            spectrum = np.array([0.0] + [1.0] * (dim - 1))
            k = np.sqrt(dim - 1) / (sigma * ANGLE)

            def weight(angle, k=k, dim=dim):
                return np.exp(-k * np.sin(angle) ** 2) * np.sin(angle) ** (dim - 2)

            def moment(angle, weight=weight):
                return np.sin(angle) ** 2 * weight(angle)

            end = min(np.pi / 2, 20 * np.sqrt(dim / k))
            parts = [integrate.quad(g, 0, end, epsabs=0)[0] for g in (moment, weight)]
            found = nrq.stationary_risk(spectrum, sigma, RATE, DECAY)
            close(found, parts[0] / parts[1], 1e-6)


def test_eq_26_is_the_mean_risk_and_has_no_1_minus():
    found = risk(in_equilibrium()).mean()
    predicted = float(nrq.stationary_risk(LEVELS, *LAW))
    # 30,000 independent trials: 0.4%; a contraction of 2.4% per step: 1.2% of f's
    # variance around 1.
    close(predicted, found, 0.02)
    first_order = NOISE * ANGLE / (2 * (LEVELS[-1] - LEVELS[0]))
    close(first_order, found, 0.02)
    assert 1 - 2 * first_order > 40 * found  # as printed


def test_the_mode_is_below_the_mean():
    found = 1 - in_equilibrium().alignment.ravel()
    counts, edges = np.histogram(found, np.linspace(0, 0.06, 31))
    # A parabola through the highest bin and its neighbours.
    k = counts.argmax()
    bend = np.polyfit(
        (edges[k - 2 : k + 3] + edges[k - 1 : k + 4]) / 2, counts[k - 2 : k + 3], 2
    )
    mode = float(nrq.stationary_mode(LEVELS, *LAW))
    close(-bend[1] / (2 * bend[0]), mode, 0.06)
    density = density64(LEVELS[-1] - LEVELS[0])
    best = optimize.minimize_scalar(
        lambda r: -density(1 - r), (0.005, 0.01, 0.03), tol=1e-10
    )
    close(mode, best.x, 1e-5)
    assert mode < 0.75 * float(nrq.stationary_risk(LEVELS, *LAW))
    three = np.array([0.0, 1.0, 1.0])
    assert np.isnan(nrq.stationary_mode(three, *LAW))
    assert np.isnan(nrq.stationary_mode(LEVELS, 100.0, RATE, DECAY))


# --- escape ---------------------------------------------------------------------------


def test_corollary_2_trials_first_improve_and_then_escape():
    start = float(nrq.equilibrium_bounds(MANY, *LAW, xi=0.95).low_risk)
    least = float(nrq.escape_norm(MANY, *LAW, xi=0.95))
    assert least > NORM
    # The fourth power of the norm begins at 16 times its equilibrium, and relaxes
    # within 500 steps.
    seen = simulated("many", 1 - start, 1.2 * least, 4 * STEPS)
    found = risk(seen)
    end = found[-20:].mean()
    assert found.min() < 0.8 * start
    assert end > 1.05 * start


def test_the_threshold_of_corollary_2_is_where_the_risk_begins_to_fall():
    # Two levels and xi near 1 make it sharp: the drift of f changes its sign there.
    start = float(nrq.equilibrium_bounds(LEVELS, *LAW, xi=0.999).low_risk)
    least = float(nrq.escape_norm(LEVELS, *LAW, xi=0.999))
    x = np.zeros(DIM)
    x[:2] = np.sqrt(1 - start), np.sqrt(start)
    below, above = (
        float(nrq.alignment_sde(factor * least * x, LEVELS, SIGMA, RATE)[0])
        for factor in (0.97, 1.03)
    )
    assert below < 0 < above
    # The printed threshold is 2 of the squared norm, at the same risk.
    printed = (DIM - 1) * SIGMA**2 * RATE / (start * 2.0 * 0.999)
    close(printed, 2 * least**2, 1e-9)
    assert np.isinf(nrq.escape_norm(LEVELS, *LAW, xi=0.9, tail=2 * start))
    tailed = float(nrq.escape_norm(LEVELS, *LAW, xi=0.999, tail=start / 2))
    close(tailed, np.sqrt(2) * least, 1e-9)


def test_corollary_2_as_printed_begins_above_its_end():
    start = NOISE * ANGLE / (LEVELS[-1] - LEVELS[0])
    assert start > 1.9 * risk(in_equilibrium()).mean()


def test_numbers_out_of_range_are_refused():
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`xi` must be in \(0, 1\)"):
            nrq.equilibrium_bounds(LEVELS, *LAW, xi=bad)
    with pytest.raises(ValueError, match="`sigma` must be one number"):
        nrq.norm(1.0, 1.0, np.ones(DIM), RATE, DECAY, DIM)
    for spectrum in (MANY, LEVELS[::-1], LEVELS[:1], np.ones(DIM)):
        with pytest.raises(ValueError, match="two levels"):
            nrq.stationary_risk(spectrum, *LAW)


def test_predictions_can_be_compiled_and_swept():
    rates = jnp.array([0.05, 0.1])
    risks = jax.jit(
        jax.vmap(lambda r: nrq.stationary_risk(jnp.asarray(LEVELS), SIGMA, r, DECAY))
    )(rates)
    expected = [nrq.stationary_risk(LEVELS, SIGMA, r, DECAY) for r in (0.05, 0.1)]
    close(risks, expected, 1e-12)
    bounds = jax.jit(
        jax.vmap(
            lambda r: nrq.risk_bounds(
                jnp.asarray(TIMES), NORM, 0.3, jnp.asarray(MANY), SIGMA, r, DECAY, xi=XI
            )
        )
    )(rates)
    assert bounds[0].shape == (2, TIMES.size)
