"""The simulator of the noisy Rayleigh quotient against NumPy and its own equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import nrq
from tests.support.asserts import close

pytestmark = pytest.mark.usefixtures("x64")
SPECTRUM = np.array([0.5, 1.0, 2.0, 4.0])


def sgd(rate, decay):
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate))


def simulate(optimizer, x0, sigma, steps, seed=0, spectrum=SPECTRUM, **options):
    x, seen = nrq.simulate(
        optimizer,
        jnp.asarray(x0),
        jnp.asarray(spectrum),
        sigma,
        steps,
        key=jax.random.key(seed),
        **options,
    )
    return np.asarray(x), jax.tree.map(np.asarray, seen)


def starts(trials, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(trials, 4))


def gradient64(x, noise):
    """Eq. 4 with full matrices, for one x."""
    length = np.linalg.norm(x)
    unit = x / length
    projector = np.eye(4) - np.outer(unit, unit)
    return projector @ (np.diag(SPECTRUM) @ unit + noise) / length


# --- gradients and losses -------------------------------------------------------------


def test_the_gradient_is_eq_4_and_that_of_the_loss():
    x, noise = starts(5), starts(5, seed=1)
    expected = [gradient64(*pair) for pair in zip(x, noise, strict=True)]
    close(nrq.gradient(x, SPECTRUM, noise), expected, 1e-12)
    exact = jax.vmap(jax.grad(lambda x: nrq.loss(x, jnp.asarray(SPECTRUM))))(x)
    close(nrq.gradient(x, SPECTRUM, 0 * noise), exact, 1e-12, 1e-15)
    rayleigh = [v @ np.diag(SPECTRUM) @ v / (2 * v @ v) for v in x]
    close(nrq.loss(x, SPECTRUM), rayleigh, 1e-12)


def test_the_gradient_is_orthogonal_and_shrinks_with_the_norm():
    # Eq. 6, with noise.
    x, noise = starts(5), starts(5, seed=1)
    g = np.asarray(nrq.gradient(x, SPECTRUM, noise))
    close(np.sum(g * x, axis=1), 0, 0, 1e-14)
    close(nrq.gradient(4 * x, SPECTRUM, noise), g / 4, 1e-14)


def test_eq_8_has_x_where_the_paper_prints_its_direction():
    x, noise = starts(5, 3.0), starts(5, seed=1)
    exact = jax.vmap(jax.grad(lambda x: nrq.quadratic_loss(x, jnp.asarray(SPECTRUM))))
    close(nrq.quadratic_gradient(x, SPECTRUM, 0 * noise), exact(x), 1e-12)
    printed = SPECTRUM * x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.all(np.abs(printed / exact(x) - 1) > 0.4)
    found = nrq.quadratic_gradient(x, SPECTRUM, noise)
    close(found - nrq.quadratic_gradient(x, SPECTRUM, 0 * noise), noise, 1e-12)


# --- the recursion --------------------------------------------------------------------


@pytest.mark.parametrize("model", ["rayleigh", "quadratic"])
def test_without_noise_it_is_the_recursion_of_eq_3(model):
    x0, rate, decay = starts(3), 0.1, 0.05
    x, seen = simulate(sgd(rate, decay), x0, 0.0, 6, every=2, model=model)
    expected, records = x0.copy(), []
    for t in range(6):
        g = [
            gradient64(v, 0.0) if model == "rayleigh" else SPECTRUM * v
            for v in expected
        ]
        new = expected - rate * np.array(g) - rate * decay * expected
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (expected, new))
        loss = np.sum(SPECTRUM * expected**2, axis=1) / 2
        if model == "rayleigh":
            loss = loss / np.sum(expected**2, axis=1)
        angle = 2 * np.arcsin(np.linalg.norm(a - b, axis=1) / 2)
        if t % 2 == 0:
            norm = np.linalg.norm(expected, axis=1)
            records.append((norm, a[:, 0] ** 2, loss, angle))
        expected = new
    close(x, expected, 1e-12)
    # An angle is a difference: its square keeps 1e-16 of what cancels.
    for found, reference in zip(seen, zip(*records, strict=True), strict=True):
        assert found.shape == (3, 3)
        close(found, reference, 1e-7)
    close(seen.norm, [r[0] for r in records], 1e-12)


ROOT = np.array([[1.0, 0, 0, 0], [0.5, 0.2, 0, 0], [0, 1.0, 2.0, 0], [0.3, 0, 0, 0.1]])


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.7, [0.1, 1.0, 0.5, 2.0], ROOT])
def test_the_noise_has_the_covariance_of_eq_5(sigma):
    x0 = starts(1)[0]
    sigma = np.asarray(sigma)
    x1, _ = simulate(sgd(1.0, 0.0), np.tile(x0, (100_000, 1)), jnp.asarray(sigma), 1)
    g = x0 - x1
    root = np.diag(np.broadcast_to(sigma, 4)) if sigma.ndim < 2 else sigma
    unit = x0 / np.linalg.norm(x0)
    projector = np.eye(4) - np.outer(unit, unit)
    expected = projector @ root @ root.T @ projector / (x0 @ x0)
    # Standard errors with 100,000 trials: 0.3% of a standard deviation, 0.45% of a
    # variance; five of them.
    scale = np.sqrt(np.trace(expected))
    close(g.mean(axis=0), gradient64(x0, 0.0), 0, 0.016 * scale)
    close(np.cov(g.T), expected, 0, 0.022 * scale**2)


@pytest.mark.slow
def test_noise_is_fresh_in_every_step_and_trial():
    # The sum of n independent steps has n times the variance; equal ones, n^2 times.
    x0 = np.tile([100.0, 0, 0, 0], (20_000, 1))
    for every in (1, 8):
        x, _ = simulate(sgd(1.0, 0.0), x0, 1.0, 8, spectrum=np.zeros(4), every=every)
        moved = (x - x0)[:, 1:] * 100
        close(moved.var(axis=0), 8, 0.06)  # a standard error is 1%
        close(np.corrcoef(moved.T) - np.eye(3), 0, 0, 0.04)


@pytest.mark.slow
def test_records_of_some_steps_are_those_of_all_steps():
    x0, step = starts(20), sgd(0.1, 0.1)
    x, all_steps = simulate(step, x0, 0.5, 12)
    last, some = simulate(step, x0, 0.5, 12, every=4)
    close(last, x, 1e-12)
    for a, b in zip(some, all_steps, strict=True):
        assert a.shape == (3, 20)
        close(a, b[::4], 1e-9)
    close(all_steps.norm[0], np.linalg.norm(x0, axis=1), 1e-14)
    other, _ = simulate(step, x0, 0.5, 12, seed=1)
    assert np.abs(other - x).min() > 1e-9


@pytest.mark.slow
def test_corollary_3_holds_trial_by_trial():
    x0, rate, decay = starts(50), 0.1, 0.05
    x, seen = simulate(sgd(rate, decay), x0, 0.5, 200, every=20)
    scaled = nrq.equivalent(jnp.asarray(x0), rate, decay, 3.0)
    x3, seen3 = simulate(sgd(*scaled[1:]), scaled[0], 0.5, 200, every=20)
    # Rounding, amplified by 200 steps.
    close(x3, 3 * x, 1e-9, 1e-9)
    close(seen3.alignment, seen.alignment, 1e-9, 1e-12)
    close(seen3.angular_update, seen.angular_update, 1e-7)
    # Not without the learning rate's part, nor without the decay's.
    for changed in ((rate, scaled[2]), (scaled[1], decay)):
        _, other = simulate(sgd(*changed), scaled[0], 0.5, 200, every=20)
        assert np.abs(other.alignment[-1] - seen.alignment[-1]).mean() > 1e-2


@pytest.mark.slow
def test_the_quadratic_model_has_its_predicted_loss():
    x0, rate, decay, sigma = np.array([1.0, -2.0, 0.5, 3.0]), 0.1, 0.3, 0.8
    tx = sgd(rate, decay)
    x, seen = simulate(
        tx, np.tile(x0, (20_000, 1)), sigma, 60, every=10, model="quadratic"
    )
    predicted = nrq.quadratic_risk(
        jnp.arange(0, 60, 10), x0, SPECTRUM, sigma, rate, decay
    )
    # The loss is a sum of four squares: one standard error is at most 0.7%.
    close(predicted, seen.loss.mean(axis=1), 0.03)
    still = nrq.quadratic_risk(100, x0, np.zeros(4), sigma, rate)
    close(still, 0.0, 0, 0)
    drift = nrq.quadratic_risk(7, jnp.zeros(1), jnp.array([1e-12]), 1.0, 0.1) / 1e-12
    close(drift, 7 * 0.01 / 2, 1e-3)  # a walk of 7 steps; 1 - c keeps four digits


def test_other_optimizers_run_on_it():
    x0 = starts(10, 3.0)
    tx = lawn.wrap(optax.adam(1e-2), 3)
    _, seen = simulate(tx, x0, 0.5, 40)
    assert np.ptp(seen.norm[:4], axis=0).min() > 1e-3
    close(seen.norm[4:], np.broadcast_to(seen.norm[3], (36, 10)), 1e-9)


@pytest.mark.slow
def test_the_compiled_program_takes_traced_numbers():
    x0, key = jnp.asarray(starts(4)), jax.random.key(0)

    @jax.jit
    def last(rate, sigma):
        step = sgd(rate, 0.1)
        return nrq.simulate(step, x0, jnp.asarray(SPECTRUM), sigma, 5, key=key)[0]

    expected = [simulate(sgd(r, 0.1), x0, s, 5)[0] for r, s in ((0.1, 1.0), (0.2, 0.5))]
    found = jax.vmap(last)(jnp.array([0.1, 0.2]), jnp.array([1.0, 0.5]))
    close(found, expected, 1e-12)


def test_float32_stays_float32():
    x0 = jnp.asarray(starts(4), jnp.float32)
    x, seen = simulate(sgd(0.1, 0.1), x0, 1.0, 3)
    assert x.dtype == np.float32
    assert {leaf.dtype for leaf in seen} == {np.dtype(np.float32)}


def test_what_does_not_fit_is_refused():
    x0, spectrum, key = jnp.ones((2, 4)), jnp.asarray(SPECTRUM), jax.random.key(0)

    def run(x0=x0, spectrum=spectrum, sigma: object = 1.0, steps=4, **options):
        sigma = jnp.asarray(sigma)
        nrq.simulate(sgd(0.1, 0.1), x0, spectrum, sigma, steps, key=key, **options)

    with pytest.raises(ValueError, match="one of 'rayleigh', 'quadratic', got 'cubic'"):
        run(model="cubic")
    with pytest.raises(ValueError, match=r"`x0` must be \[trials, p\].*\(4,\)"):
        run(x0=jnp.ones(4))
    with pytest.raises(ValueError, match=r"`spectrum` \[p\].*\(3,\)"):
        run(spectrum=jnp.ones(3))
    with pytest.raises(ValueError, match=r"`sigma` must be a number.*p = 4.*\(3,\)"):
        run(sigma=[1.0, 2.0, 3.0])
    for options in ({"steps": 5, "every": 2}, {"steps": 0}, {"every": 0}):
        with pytest.raises(ValueError, match="`steps` must be a multiple of `every`"):
            run(**options)
