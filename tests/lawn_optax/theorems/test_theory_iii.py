"""Formulas of "Theory III" that no function of ours computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def regularised(w, decay):
    """Eq. 62, two layers of two weights each and one example."""
    return jnp.exp(-w[0] * w[1] - w[2] * w[3]) + decay * jnp.sum(w**2)


def determinant(w, decay, sign):
    """Eq. 64 with ``exp(sign 2 f)`` in both factors; the paper has -1 there."""
    f, square = w[0] * w[1] + w[2] * w[3], np.sum(w**2)
    first = 4 * decay**2 * np.exp(sign * 2 * f) - 1
    second = 4 * decay**2 * np.exp(sign * 2 * f) + 2 * decay * np.exp(f) * square
    return np.exp(-4 * f) * first * (second + 2 * f - 1)


def test_equation_64_needs_the_other_sign(x64):
    rng = np.random.default_rng(0)
    for w, decay in zip(rng.normal(size=(5, 4)), rng.uniform(0.1, 1, 5), strict=True):
        found = np.linalg.det(jax.hessian(regularised)(jnp.asarray(w), decay))
        np.testing.assert_allclose(determinant(w, decay, +1), found, rtol=1e-9)
        assert abs(determinant(w, decay, -1) / found - 1) > 0.01


def test_a_decay_leaves_degenerate_minima_and_makes_the_origin_one_above_a_half(x64):
    decay = 0.2
    # Eq. 63: exp(-f) = 2 decay on two circles.
    f = -np.log(2 * decay)
    for share in (0.0, 0.3, 1.0):
        one, other = np.sqrt(f * share), np.sqrt(f * (1 - share))
        w = jnp.array([one, one, other, other])
        np.testing.assert_allclose(jax.grad(regularised)(w, decay), 0, atol=1e-12)
        curvature = np.linalg.eigvalsh(jax.hessian(regularised)(w, decay))
        np.testing.assert_allclose(curvature[0], 0, atol=1e-12)
    for decay in (0.1, 0.49, 0.51, 2.0):
        curvature = np.linalg.eigvalsh(jax.hessian(regularised)(jnp.zeros(4), decay))
        np.testing.assert_allclose(curvature[0], 2 * decay - 1, atol=1e-12)


def test_equation_70_does_not_follow_from_smoothness():
    # g(w) = w' diag(0.01, 1) w / 2 is 1-smooth; descent at the rate 0.9.
    curvature, rate, w = np.array([0.01, 1.0]), 0.9, np.array([1.0, 1.0])
    start, updates = w @ w, 5
    for _ in range(updates):
        w = w - rate * curvature * w
    bound = (1 - rate * 1.0) ** (2 * updates) * start
    assert bound == pytest.approx(2e-10)
    assert w @ w == pytest.approx(0.991**10, rel=1e-6)
    # What holds is the bound with the smallest curvature in the place of the largest.
    assert w @ w <= (1 - rate * curvature[0]) ** (2 * updates) * start


def test_equations_30_to_34_lack_a_factor_2():
    rng, decay, unit = np.random.default_rng(0), 0.3, np.eye(3)
    x, y, w = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=3)

    def loss(w):
        return np.sum((y - x @ w) ** 2) + decay * np.sum(w**2)

    # Differences of a quadratic function are exact.
    flow = [(loss(w - e) - loss(w + e)) / 2 for e in unit]
    hessian = [
        [loss(w + a) + loss(w + b) - loss(w + a + b) - loss(w) for a in unit]
        for b in unit
    ]
    pull, square = 2 * (y - x @ w) @ x, x.T @ x
    np.testing.assert_allclose(flow, pull - 2 * decay * w, rtol=1e-9)
    np.testing.assert_allclose(hessian, -2 * (square + decay * unit), rtol=1e-9)
    assert np.all(np.abs(flow - (pull - decay * w)) > 0.01)  # eq. 32
    assert np.all(hessian / (-square - decay * unit) > 1.9)  # eqs. 30 and 34


@pytest.mark.parametrize("layers", [1, 2], ids=["eqs_40_41", "eqs_50_52_53"])
def test_the_same_factor_is_lost_under_the_exponential_loss(layers, x64):
    rng, decay = np.random.default_rng(0), 0.05
    x = jnp.asarray(np.abs(rng.normal(size=(6, 3))))  # points times their labels

    def loss(w):  # each layer multiplies each input by a weight
        return jnp.sum(jnp.exp(-x @ jnp.prod(w, axis=0)))

    def flow(w):
        return -jax.grad(lambda w: loss(w) + decay * jnp.sum(w**2))(w)

    w = jnp.asarray(rng.normal(size=(layers, 3)))
    pull = -jax.grad(loss)(w)  # the sum of eqs. 40 and 50
    np.testing.assert_allclose(flow(w), pull - 2 * decay * w, rtol=1e-9)
    assert np.all(np.abs(flow(w) - (pull - decay * w)) > 1e-3)  # as printed

    hessian = jax.jacobian(flow)(w).reshape(w.size, w.size)
    free = -jax.hessian(loss)(w).reshape(w.size, w.size)
    np.testing.assert_allclose(hessian, free - 2 * decay * np.eye(w.size), atol=1e-12)
    assert np.all(np.diag(free - decay * np.eye(w.size)) - np.diag(hessian) > 0.01)

    w = jax.lax.fori_loop(0, 20_000, lambda _, w: w + 0.05 * flow(w), w)
    pull = -jax.grad(loss)(w)
    assert np.linalg.norm(w) > 1 and np.all(np.abs(flow(w)) < 1e-9)
    np.testing.assert_allclose(pull, 2 * decay * w, atol=1e-8)
    assert np.all(np.abs(pull - decay * w) > 1e-3)  # eq. 52


@pytest.mark.parametrize(
    "curvature, rate, expands",
    [(-1.0, 1.0, True), (1.0, 1.9, False), (1.0, 2.1, True)],
    ids=["definition_8", "theorem_11", "theorem_11_at_a_long_step"],
)
def test_a_step_expands_by_its_curvature_and_rate(curvature, rate, expands):
    # The gradient of g(x) = curvature x^2 / 2 has the Lipschitz constant 1 here.
    step = lambda x: x - rate * curvature * x  # noqa: E731
    assert (abs(step(3.0) - step(1.0)) > 2) == expands
