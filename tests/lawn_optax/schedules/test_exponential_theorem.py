"""Li and Arora's equivalence on networks, and which printed formulas do not hold.

Rates of the library against SGD with weight decay as in Definition 1.2. All in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import schedules
from tests.support import scale_invariant as si

pytestmark = pytest.mark.usefixtures("x64")

STEPS, MOMENTUM = 300, 0.9


def step_decay(t):
    return jnp.where(t < 120, 0.1, jnp.where(t < 220, 0.02, 0.1 / 3))


def warm_up_and_cosine(t):
    """Ends with a rate of 0."""
    half = (1 + jnp.cos(jnp.pi * (t - 39) / (STEPS - 40))) / 2
    return 0.1 * jnp.where(t < 40, (t + 1) / 40, half)


def growing_decay(t):
    """Figure 5: the decay rises by as much as the rate falls, and then is off."""
    return jnp.where(t < 120, 0.01, jnp.where(t < 220, 0.05, 0.0))


SCHEDULES = {
    "constant": (0.1, 0.01),
    "step_decay": (step_decay, 0.01),
    "warm_up_and_cosine_to_0": (warm_up_and_cosine, 0.01),
    "weight_decay_schedule": (step_decay, growing_decay),
}


def table(value):
    counts = jnp.arange(STEPS, dtype=jnp.int32)  # as Optax counts
    full = value(counts) if callable(value) else jnp.full(STEPS, value)
    return np.asarray(full, np.float64)


@functools.cache
def runner(kind):
    """One compiled program per normalization, for all schedules."""
    params, batches = si.weights(), si.data(STEPS)
    run = jax.jit(functools.partial(si.decayed_sgd, kind))
    return lambda rates, decays: run(params, batches, rates, decays, MOMENTUM)


CASES = [("batch", name) for name in SCHEDULES] + [
    (kind, "weight_decay_schedule") for kind in si.NORMS[1:]
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_growing_rates_have_the_functions_of_weight_decay(kind, name):
    schedule, decay = SCHEDULES[name]
    with_decay, end = runner(kind)(table(schedule), table(decay))
    rates = schedules.exponential_equivalent(schedule, MOMENTUM, decay, STEPS)
    zeros = np.zeros(STEPS)
    growing, grown_end = runner(kind)(rates(jnp.arange(STEPS)), zeros)
    # Rounding of 1e-16 per step, amplified by the training: 2e-14 was seen.
    np.testing.assert_allclose(growing, with_decay, rtol=1e-12, equal_nan=False)
    for leaf, weight in end.items():
        grown = np.exp(rates.log_growth[-1]) * weight
        np.testing.assert_allclose(grown_end[leaf], grown, rtol=1e-10, atol=1e-12)
    # It is no theorem about nothing: the weights grow, the loss falls, and it matters.
    assert rates.log_growth[-1] > 1
    assert with_decay[-50:].mean() < 0.8 * with_decay[:10].mean()
    without, _ = runner(kind)(table(schedule), zeros)
    assert np.abs(without - with_decay).max() > 1e-2


def test_optax_sgd_takes_the_rates():
    schedule, decay = SCHEDULES["weight_decay_schedule"]
    with_decay, _ = runner("batch")(table(schedule), table(decay))
    rates = schedules.exponential_equivalent(schedule, MOMENTUM, decay, STEPS)
    tx = optax.sgd(rates, momentum=rates.momentum)

    @jax.jit
    def run(params, batches):
        def step(carry, batch):
            params, state = carry
            value, grads = jax.value_and_grad(si.loss, 1)("batch", params, *batch)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), batches)[1]

    losses = run(si.weights(), si.data(STEPS))
    # As above; Optax counts updates as the library does.
    np.testing.assert_allclose(losses, with_decay, rtol=1e-12, equal_nan=False)


@pytest.mark.parametrize("kind", si.NORMS)
def test_the_network_is_scale_invariant_only_as_a_whole(kind):
    params, (images, labels) = si.weights(), si.data(1)
    value = si.loss(kind, params, images[0], labels[0])
    scaled = jax.tree.map(lambda w: 1024.0 * w, params)
    # Powers of two change no digit, but a compiled square root may.
    np.testing.assert_allclose(
        si.loss(kind, scaled, images[0], labels[0]), value, rtol=1e-14
    )
    one = {**params, "stem": 2 * params["stem"]}
    assert abs(si.loss(kind, one, images[0], labels[0]) - value) > 1e-4


# --- the toy: what is printed, beside what holds --------------------------------------

ETAS = np.repeat([0.1, 0.02, 0.004], 60)
LAMBDA = 0.01


@pytest.fixture(scope="module")
def toy():
    return si.Toy(len(ETAS))


@pytest.fixture(scope="module")
def decayed(toy):
    return toy.sgd(ETAS, np.full(len(ETAS), LAMBDA), MOMENTUM)


def growing(toy, rates):
    return toy.sgd(rates, np.zeros(len(rates)), MOMENTUM)


def from_alphas(alphas):
    """P_t P_{t+1} eta_t, with alphas[0] = alpha_0 = 1."""
    p = np.cumprod(1 / np.asarray(alphas))
    return p[:-1] * p[1:] * ETAS


def roots(product, momentum):
    low, high = np.sort(np.roots([1, -(1 + momentum - product), momentum]))
    return high, low


@pytest.mark.slow
def test_theorem_2_5_holds_from_any_momentum(toy):
    decays = np.full(len(ETAS), LAMBDA)
    velocity = np.linspace(-2, 1, len(toy.start))
    path = toy.sgd(ETAS, decays, MOMENTUM, velocity=velocity)
    rates = schedules.exponential_equivalent(
        lambda t: jnp.asarray(ETAS)[t], MOMENTUM, LAMBDA, len(ETAS)
    )
    other = toy.sgd(rates(np.arange(len(ETAS))), 0 * decays, MOMENTUM, None, velocity)
    grown = np.exp(rates.log_growth)[:, None] * path
    # 180 steps of rounding errors of 1e-16.
    np.testing.assert_allclose(other, grown, rtol=1e-11, atol=1e-12)


def test_the_start_of_theorem_2_5_has_the_rate_and_a_minus(toy):
    decays, earlier = np.full(len(ETAS), LAMBDA), 0.07
    velocity = np.linspace(-2, 1, len(toy.start))
    path = toy.sgd(ETAS, decays, MOMENTUM, velocity=velocity)

    def rule_1(before):
        w, rate, found = toy.start, earlier, [toy.start]
        for t, eta in enumerate(ETAS):
            slope = toy.gradient(t, w) + LAMBDA * w
            new = w + eta * (MOMENTUM * (w - before) / rate - slope)
            before, w, rate = w, new, eta
            found.append(w)
        return np.array(found)

    right, below_eq_3, printed = (
        rule_1(toy.start + factor * velocity) for factor in (earlier, -earlier, -LAMBDA)
    )
    np.testing.assert_allclose(right, path, rtol=1e-11, atol=1e-12)
    assert si.farthest(below_eq_3, path) > 0.1 and si.farthest(printed, path) > 0.1


def test_definition_2_6_is_one_iteration_early(toy, decayed):
    def alphas(of_step):
        found = [1.0]
        for t in range(1, len(ETAS) + 1):
            eta, before = of_step(t), of_step(t - 1)
            a = 1 - eta * LAMBDA + eta / before * MOMENTUM * (1 - 1 / found[-1])
            found.append(a)
        return found

    last = len(ETAS) - 1
    printed = alphas(lambda t: ETAS[min(t, last)])  # the new rate in alpha_{T_I}
    corrected = alphas(lambda t: ETAS[max(t - 1, 0)])  # eq. 6
    assert si.farthest(growing(toy, from_alphas(printed)), decayed) > 1e-5
    assert si.farthest(growing(toy, from_alphas(corrected)), decayed) < 1e-12


def test_theorem_2_1_lacks_a_factor_on_the_momentum(toy):
    steps, eta = 60, 0.1
    path = toy.sgd(np.full(steps, eta), np.full(steps, LAMBDA), MOMENTUM)
    alpha, _ = roots(LAMBDA * eta, MOMENTUM)

    def rule_2(momentum, exponent, first=alpha):
        before, w = first * toy.start, toy.start  # theta_{-1} = theta_0
        found = [w]
        for t in range(1, steps + 1):
            step = alpha ** exponent(t) * eta * toy.gradient(t - 1, w)
            before, w = w, w + momentum * (w - before) - step
            found.append(w)
        return np.array(found)

    printed = rule_2(MOMENTUM, lambda t: -2 * t - 1)
    half = rule_2(MOMENTUM / alpha**2, lambda t: -2 * t - 1)
    corrected = rule_2(MOMENTUM / alpha**2, lambda t: -2 * t + 1)
    assert si.farthest(printed, path) > 1e-2
    assert si.farthest(half, path) > 1e-3
    assert si.farthest(corrected, path) < 1e-12
    at_rest = rule_2(MOMENTUM / alpha**2, lambda t: -2 * t + 1, first=1.0)
    assert si.farthest(at_rest, path) > 1e-3  # Not the start that is printed.


def test_without_decay_the_root_is_1_and_not_the_momentum():
    # "When lambda = 0, then alpha = gamma is the unique non-zero solution".
    np.testing.assert_allclose(roots(0.0, MOMENTUM), [1, MOMENTUM], rtol=1e-12)
    assert schedules.growth_exponent(0.1, MOMENTUM, 0.0) == 0


def test_eq_5_drops_the_rate_one_iteration_late():
    rates = schedules.exponential_equivalent(
        lambda t: jnp.asarray(ETAS)[t], MOMENTUM, LAMBDA, len(ETAS)
    )
    tapered = schedules.tapered_exponential(
        lambda t: jnp.asarray(ETAS)[t], MOMENTUM, LAMBDA, len(ETAS)
    )
    printed = [np.log(ETAS[0])]  # "if t = T_I" in the factor of eta_{t+1} / eta_t
    for t in range(len(ETAS) - 1):
        z, _ = roots(LAMBDA * ETAS[t], MOMENTUM)
        drop = ETAS[t] / ETAS[t - 1] if t else 1
        printed.append(printed[-1] + np.log(drop) - 2 * np.log(z))
    for log_rates, step in ((rates.log_rates, 60), (tapered.log_rates, 60)):
        assert np.argmin(np.diff(log_rates[:100])) + 1 == step
    assert np.argmin(np.diff(printed[:100])) + 1 == 61


def test_a_cosine_needs_the_terms_that_the_tapered_schedule_leaves_out(toy):
    # Section 4.2: a cosine that changes every tenth update has 18 short phases.
    rates = 0.05 * (1 + np.cos(np.pi * (np.arange(len(ETAS)) // 10) / 18))
    path = toy.sgd(rates, np.full(len(ETAS), LAMBDA), MOMENTUM)
    arguments = lambda t: jnp.asarray(rates)[t], MOMENTUM, LAMBDA, len(ETAS)
    exact, tapered = (
        si.farthest(growing(toy, found(*arguments)(np.arange(len(ETAS)))), path)
        for found in (schedules.exponential_equivalent, schedules.tapered_exponential)
    )
    assert exact < 1e-12 and tapered > 0.04


def test_bounds_on_the_larger_root():
    for momentum in (0.5, 0.9, 0.99):
        limit = (1 - np.sqrt(momentum)) ** 2
        for product in np.array([0.01, 0.3, 0.999]) * limit:
            below = 1 - roots(product, momentum)[0]
            t = product / (1 - momentum)
            assert below > t > t / (1 + t)  # A.1, fact 2, and below Theorem 2.7
            assert below < product / (1 - np.sqrt(momentum))  # what holds
            exponent = schedules.growth_exponent(product, momentum, 1.0)
            np.testing.assert_allclose(exponent, -2 * np.log1p(-below), rtol=1e-9)
        # Below Theorem 2.7 as printed, without lambda: true up to this lambda.
        largest = 1 / (1 + np.sqrt(momentum))
        for decay, holds in ((0.99 * largest, True), (1.01 * largest, False)):
            rates = np.linspace(0.01, 0.9999, 100) * limit / decay
            below = [1 - roots(decay * rate, momentum)[0] for rate in rates]
            assert np.all(below <= rates / (1 - momentum)) == holds


def test_eq_9_has_the_wrong_sign():
    product = 0.001
    z1, z2 = roots(product, MOMENTUM)
    before = 0.98
    alpha = 1 - product + MOMENTUM * (1 - 1 / before)  # eq. 6 at a constant rate
    printed = -(z1 + z2) + z1 * z2 / before
    np.testing.assert_allclose(-printed, alpha, rtol=1e-14)
    # Eq. 10, which is drawn from it, has the right one.
    np.testing.assert_allclose(alpha - z1, z2 / before * (before - z1), rtol=1e-12)


def test_displays_of_the_appendix(toy):
    product, decays = 0.001, np.full(len(ETAS), LAMBDA)
    t, ratio = product / (1 - MOMENTUM), (1 + MOMENTUM) / (1 - MOMENTUM)
    wide, narrow = (1 + t) * (1 - MOMENTUM) / 2, (1 - MOMENTUM) / 2
    below = 1 - roots(product, MOMENTUM)[0]
    root = narrow * np.sqrt(1 - 2 * ratio * t + t**2)
    np.testing.assert_allclose(wide - root, below, rtol=1e-12)
    assert wide + root > 5 * below  # A.1 as printed, and its next line:
    assert wide - narrow * np.sqrt(1 - ratio * t + t**2) < 0.6 * below
    # A.2, P(t) for t >= 1, with the squared steps D and the products C.
    path = toy.sgd(ETAS, decays, MOMENTUM)
    steps = np.diff(path, axis=0)
    c, d = np.sum(path[:-1] * steps, axis=1) / ETAS, np.sum(steps**2, axis=1) / ETAS
    left = c[1:] - MOMENTUM * c[:-1]
    lost = LAMBDA * np.sum(path[1:-1] ** 2, axis=1)
    np.testing.assert_allclose(left, MOMENTUM * d[:-1] - lost, rtol=1e-9, atol=1e-12)
    for printed in (c[:-1], d[1:] * ETAS[1:] / ETAS[:-1]):  # the line before has D_t
        assert np.ptp(left - (MOMENTUM * printed - lost)) > 0.1 * np.ptp(left)
    # Eq. 16: Lemma A.1 at beta = 1/8.
    beta = 1 / 8
    np.testing.assert_allclose(beta * np.exp(1 - beta), np.exp(7 / 8) / 8, rtol=1e-12)
    assert np.exp(7 / 8) / 8 > 5 / (8 * np.exp(7 / 8))
    assert 1 - np.sqrt(np.exp(7 / 8) / 8) > 1 / 3


def test_theorem_b_1_as_its_proof_has_it(toy):
    eta, steps = 0.1, 60
    rates = np.full(steps, eta) * np.linspace(1, 0.5, steps)
    velocity = 3 * toy.start  # inwards: the norm shrinks at first
    earlier = toy.start + eta * velocity  # theta_{-1}, with eta_{-1} = eta

    def norms(rates):
        path = toy.sgd(rates, 0 * rates, MOMENTUM, velocity=velocity)
        return path, np.sum(path**2, axis=1), np.sum(np.diff(path, axis=0) ** 2, 1)

    first = np.sum(toy.start**2) - np.sum(earlier**2)
    _, r, _ = norms(rates)
    bound = MOMENTUM ** np.arange(1, steps + 1) * rates / eta * first
    assert np.all(np.diff(r) >= bound)
    assert not np.all(np.diff(r) >= -bound)  # as printed

    path, r, d = norms(np.full(steps, eta))
    before = np.append(np.sum((toy.start - earlier) ** 2), d[:-1])
    t = steps - 1
    weight = (1 - MOMENTUM ** (t - np.arange(steps) + 1)) / (1 - MOMENTUM)
    total = np.sum(weight * (d + MOMENTUM * before))
    tail = MOMENTUM * (1 - MOMENTUM ** (t + 1)) / (1 - MOMENTUM) * first
    np.testing.assert_allclose(r[0] + total + tail, r[-1], rtol=1e-12)
    # As printed; and with the term that lacks, but its sign.
    assert abs(total - tail - r[-1]) > 0.1 * r[-1]
    assert abs(r[0] + total - tail - r[-1]) > 0.1 * r[-1]


def test_theorem_b_2_gives_the_angle_of_equilibrium():
    steps, eta, decay = 12_000, 0.1, 0.02
    toy = si.Toy(steps, size=8, seed=3)
    path = toy.sgd(np.full(steps, eta), np.full(steps, decay), MOMENTUM)[3_000:]
    updates = np.mean(np.sum(np.diff(path, axis=0) ** 2, axis=1))
    ratio = np.sqrt(updates / np.mean(np.sum(path**2, axis=1)))
    # The averages of eq. 11 telescope: what is left is 1 / (eta lambda steps).
    np.testing.assert_allclose(
        ratio, np.sqrt(2 * eta * decay / (1 + MOMENTUM)), rtol=5e-3
    )
