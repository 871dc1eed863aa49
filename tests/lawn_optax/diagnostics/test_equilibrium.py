"""Predicted angles and times against a float64 simulation of invariant weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import diagnostics
from tests.support.asserts import close

# Predictions are of the first order in these; simulations relax within 1 / (2 RATE).
RATE = 1e-3


def gradient(w, rng, size=1.0):
    """Orthogonal to w, of length size/|w|, with a direction that is drawn anew."""
    z = rng.normal(size=w.shape)
    length = np.linalg.norm(w, axis=1, keepdims=True)
    z -= np.sum(z * w, axis=1, keepdims=True) * w / length**2
    return size * z / np.linalg.norm(z, axis=1, keepdims=True) / length


def angles(before, after):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (before, after))
    return 2 * np.arcsin(np.linalg.norm(a - b, axis=1) / 2)


def sgd_step(rate, decay, gamma):
    """Decay is added to the gradient, then comes the momentum, then the rate."""

    def step(w, g, state, t):
        m = gamma * state[0] + g + decay * w
        return w - rate * m, (m,)

    return step


def adamw_step(rate, decay, b1, b2=0.999):
    def step(w, g, state, t):
        m, v = b1 * state[0] + (1 - b1) * g, b2 * state[1] + (1 - b2) * g * g
        u = m / (1 - b1 ** (t + 1)) / np.sqrt(v / (1 - b2 ** (t + 1)))
        return w - rate * (u + decay * w), (m, v)

    return step


def simulate(step, steps, norm0, trials=16, dim=64, size=1.0, steady=False):
    """Root mean square angle over the trials at each step, and the last norms.

    The gradient is of length size/|w|; of length 1 if steady.
    """
    rng = np.random.default_rng(0)
    w = rng.normal(size=(trials, dim))
    w *= norm0 / np.linalg.norm(w, axis=1, keepdims=True)
    state, turned = (np.zeros_like(w), np.zeros_like(w)), []
    for t in range(steps):
        now = np.linalg.norm(w, axis=1, keepdims=True) if steady else size
        new, state = step(w, gradient(w, rng, now), state, t)
        turned.append(np.sqrt(np.mean(angles(w, new) ** 2)))
        w = new
    return np.array(turned), np.linalg.norm(w, axis=1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("size", [1.0, 7.0])
def test_sgd_turns_by_the_predicted_angle_whatever_the_gradient_s_size(gamma, size):
    decay, rate = 0.02, RATE * (1 - gamma) / 0.02
    norm0 = (rate * size**2 / (2 * decay * (1 - gamma))) ** 0.25
    turned, _ = simulate(sgd_step(rate, decay, gamma), 1500, norm0, size=size)
    # Order RATE without momentum; the rest is the noise of 16 trials.
    found = np.sqrt(np.mean(turned[300:] ** 2))
    expected = diagnostics.sgd_equilibrium_angle(rate, decay, gamma)
    close(expected, found, rtol=2e-3 if gamma == 0 else 1e-2)


def test_without_momentum_the_exact_angle_is_the_arc_cosine():
    # As the docstring says: the prediction is its first order.
    turned, _ = simulate(sgd_step(0.5, 0.02, 0.0), 1200, 2.0, trials=1)
    close(turned[-1], np.arccos(1 - 0.01), rtol=1e-9)
    predicted = float(diagnostics.sgd_equilibrium_angle(0.5, 0.02))
    close(predicted, turned[-1], rtol=0.01 / 6)  # (1 + x/12 ...), x = 0.01
    assert abs(predicted / turned[-1] - 1) > 1e-4


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_adamw_turns_by_the_predicted_angle(b1):
    rate, decay = 0.01, RATE / 0.01
    norm0 = np.sqrt(rate * 64 / (2 * decay))
    turned, _ = simulate(adamw_step(rate, decay, b1), 1500, norm0)
    found = np.sqrt(np.mean(turned[300:] ** 2))
    # Noise of the second moments (0.1%) and of 16 trials.
    close(diagnostics.adamw_equilibrium_angle(rate, decay, b1), found, rtol=1e-2)


def test_the_simulated_optimizers_are_optax_s():
    rng, rate, decay = np.random.default_rng(0), 0.1, 0.3
    pairs = (
        (
            sgd_step(rate, decay, 0.9),
            optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, 0.9)),
        ),
        (adamw_step(rate, decay, 0.9), optax.adamw(rate, weight_decay=decay)),
    )
    for step, tx in pairs:
        w = rng.normal(size=(2, 5))
        x, state, held = np.float32(w), (np.zeros_like(w),) * 2, tx.init(np.float32(w))
        for t in range(4):
            g = rng.normal(size=w.shape)
            w, state = step(w, g, state, t)
            updates, held = tx.update(np.float32(g), held, x)
            x = optax.apply_updates(x, updates)
        close(x, w, rtol=1e-5)


@pytest.mark.parametrize("ratio", [2.0, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.9])
def test_sgd_is_in_equilibrium_after_the_predicted_time(ratio, gamma):
    decay, rate = 0.02, RATE * (1 - gamma) / 0.02
    norm0 = ratio * (rate / (2 * decay * (1 - gamma))) ** 0.25
    trials = 1 if gamma == 0 else 64
    turned, _ = simulate(sgd_step(rate, decay, gamma), 2200, norm0, trials)
    # With momentum the angle means something once the momentum has filled.
    start = 0 if gamma == 0 else 60
    window = 1 if gamma == 0 else 40
    smooth = np.sqrt(np.convolve(turned**2, np.ones(window) / window, "same"))
    target = np.sqrt(2 * rate * decay / (1 + gamma))
    tolerance = 0.05
    far = np.abs(smooth[start:] / target - 1) > tolerance
    found = np.flatnonzero(far[:-window] if window > 1 else far)[-1] + 1
    predicted = diagnostics.sgd_equilibrium_time(
        smooth[start], rate, decay, gamma, tolerance=tolerance
    )
    # At the end the angle moves by 2e-4 of itself per step: 5e-3 of noise in it, as
    # there is with momentum, are 25 steps.
    assert 300 < found < 1500
    assert abs(found - predicted) < (5 if gamma == 0 else 60)


@pytest.mark.parametrize("ratio", [2.0, 0.5])
def test_adamw_is_in_equilibrium_after_the_predicted_time(ratio):
    rate, decay, tolerance = 0.01, RATE / 0.01, 0.1
    norm0, target = ratio * np.sqrt(rate * 64 / (2 * decay)), np.sqrt(2 * rate * decay)

    def found_and_predicted(steady):
        step = adamw_step(rate, decay, 0.0)
        turned, _ = simulate(step, 2000, norm0, 32, steady=steady)
        # One step's angle is noisy, by 1.5%, and near the end moves by 2e-4 per step.
        smooth = np.sqrt(np.convolve(turned**2, np.ones(81) / 81, "same"))[40:-40]
        time = diagnostics.adamw_equilibrium_time(
            smooth[0], rate, decay, 0.0, tolerance=tolerance
        )
        return np.flatnonzero(np.abs(smooth / target - 1) > tolerance)[-1] + 1, time

    # The second moments are right: what is left is noise, 2e-3 of an angle.
    found, predicted = found_and_predicted(steady=True)
    assert 500 < found < 1500
    assert abs(found - predicted) < 25
    # They lag, by 1000 updates where the norm relaxes in 500: as the docstring says.
    found, predicted = found_and_predicted(steady=False)
    assert abs(found - predicted) > 50


def test_times_of_arrived_resting_and_undecayed_weights():
    time = diagnostics.sgd_equilibrium_time
    angle = float(diagnostics.sgd_equilibrium_angle(0.1, 0.01))
    for factor in (0.96, 1.0, 1.04):
        assert float(time(factor * angle, 0.1, 0.01)) == 0
    for factor in (0.94, 1.06):
        assert 0 < float(time(factor * angle, 0.1, 0.01)) < 100
    assert float(time(1.04 * angle, 0.1, 0.01, tolerance=0.01)) > 0
    assert float(time(0.0, 0.1, 0.01)) == np.inf
    assert float(time(angle, 0.1, 0.0)) == np.inf
    assert float(time(0.0, 0.1, 0.0)) == np.inf
    assert float(diagnostics.adamw_equilibrium_time(0.0, 0.1, 0.0)) == np.inf


def test_predictions_take_traced_numbers_and_arrays():
    rates = jnp.array([0.1, 0.2])
    mapped = jax.jit(jax.vmap(diagnostics.sgd_equilibrium_angle, (0, None, None)))
    close(mapped(rates, 0.01, 0.5), np.sqrt(2 * np.array([1e-3, 2e-3]) / 1.5), 1e-6)
    times = jax.jit(diagnostics.sgd_equilibrium_time)(jnp.array([0.5, 1.0]), 0.1, 0.01)
    assert times.shape == (2,) and np.all(times > 0)
    assert diagnostics.adamw_equilibrium_angle(rates, 0.01).shape == (2,)
    # One prediction for what `observe` holds of every group.
    w = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([6.0, 8.0])}
    u = {"a": jnp.array([-0.4, 0.3]), "b": jnp.array([-0.4, 0.3])}
    tx = diagnostics.observe("leaf")
    _, state = tx.update(u, tx.init(w), w)
    times = diagnostics.sgd_equilibrium_time(state.angular_update, 0.1, 0.01)
    scalar = [
        float(diagnostics.sgd_equilibrium_time(a, 0.1, 0.01)) for a in (0.1, 0.05)
    ]
    close(times, scalar, rtol=0.02)  # arctan(0.1) is 0.0997


def test_numbers_out_of_range_are_refused():
    angle, time = diagnostics.sgd_equilibrium_angle, diagnostics.sgd_equilibrium_time
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`learning_rate` must be a finite"):
            angle(bad, 0.1)
        with pytest.raises(ValueError, match="`weight_decay` must be a finite"):
            diagnostics.adamw_equilibrium_angle(0.1, bad)
    for bad in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"`momentum` must be in \[0, 1\)"):
            angle(0.1, 0.1, bad)
        with pytest.raises(ValueError, match=r"`b1` must be in \[0, 1\)"):
            diagnostics.adamw_equilibrium_time(0.1, 0.1, 0.1, bad)
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`tolerance` must be in \(0, 1\)"):
            time(0.1, 0.1, 0.1, tolerance=bad)


# --- the effective learning rate ------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
def test_weights_of_norm_1_at_the_effective_rate_turn_alike(power):
    rng = np.random.default_rng(0)
    w, rate = 3.0 * rng.normal(size=(1, 9)), 0.2
    unit = w / np.linalg.norm(w)
    effective = diagnostics.effective_learning_rate(np.float32(w), rate, power=power)
    g = gradient(w, np.random.default_rng(1))
    g1 = gradient(unit, np.random.default_rng(1))
    if power == 1:  # updates that do not depend on the gradient's size
        g, g1 = g / np.linalg.norm(g), g1 / np.linalg.norm(g1)
    turned = angles(w, w - rate * g)
    assert turned[0] > 1e-3
    close(angles(unit, unit - float(effective[0]) * g1), turned, rtol=1e-5)


def test_the_effective_rate_is_per_group_and_0_for_zero_weights():
    w = {"a": {"kernel": jnp.full((2, 2), 2.0)}, "b": jnp.zeros(3)}
    found = diagnostics.effective_learning_rate(w, 0.8, groups="leaf")
    np.testing.assert_array_equal(found, np.float32([0.8 / 16, 0]))
    found = diagnostics.effective_learning_rate(w, 0.8, groups="leaf", power=1)
    np.testing.assert_array_equal(found, np.float32([0.8 / 4, 0]))
    found = diagnostics.effective_learning_rate({"a": w["a"]}, 0.8, groups="neuron")
    np.testing.assert_array_equal(found, np.float32([0.8 / 8, 0.8 / 8]))
    with pytest.raises(ValueError, match="`power` must be 2"):
        diagnostics.effective_learning_rate(w, 0.8, power=3)


def test_the_effective_rate_of_halves_does_not_overflow_and_traces():
    w = jnp.full(512, 200.0, jnp.float16)  # |w|^2 is beyond float16
    found = jax.jit(diagnostics.effective_learning_rate)(w, 0.5)
    assert found.dtype == jnp.float32
    close(found, [0.5 / (512 * 40000)], rtol=1e-6)


def test_wrap_keeps_the_effective_rate():
    w, tx = jnp.array([3.0, 4.0]), lawn.wrap(optax.sgd(0.1))
    updates, _ = tx.update(jnp.array([1.0, 2.0]), tx.init(w), w)
    rates = [diagnostics.effective_learning_rate(x, 0.1) for x in (w, w + updates)]
    close(rates[1], rates[0], rtol=1e-6)
