"""Norm-minimising gradient descent: its factors, and where it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import baselines
from tests.support.asserts import assert_close, assert_same_bits


def least_squares(seed=0):
    """Three equations for seven unknowns: (A, b, solution of smallest norm)."""
    rng = np.random.default_rng(seed)
    a = np.linalg.qr(rng.normal(size=(7, 3)))[0].T * np.array([[1.0], [0.8], [0.6]])
    b = rng.normal(size=3)
    return a, b, np.linalg.pinv(a) @ b


def descend(tx, w, steps):
    a, b, _ = least_squares()

    def body(_, carry):
        w, state = carry
        updates, state = tx.update(a.T @ (a @ w - b), state, w)
        return optax.apply_updates(w, updates), state

    run = jax.jit(lambda w: jax.lax.fori_loop(0, steps, body, (w, tx.init(w)))[0])
    return np.asarray(run(jnp.asarray(w)))


@pytest.mark.parametrize(("power", "offset"), [(0.5, 1.0), (0.9, 0.2), (0.3, 7.0)])
def test_every_update_is_that_of_the_paper(power, offset, x64):
    # Theory III eqs. 9 and 26, n from 1 on behind the offset, with a schedule inside.
    rng = np.random.default_rng(1)
    rates, grads = [0.3, 0.2, 0.1], rng.normal(size=(3, 5))
    tx = baselines.nmgd(lambda t: jnp.asarray(rates)[t], power, offset)
    w = rng.normal(size=5)
    ours, state = jnp.asarray(w), tx.init(jnp.asarray(w))
    for n, (rate, grad) in enumerate(zip(rates, grads, strict=True), start=1):
        s = (n + offset) ** -power
        w = w - (1 - s) * rate * grad - s * w
        updates, state = tx.update(jnp.asarray(grad), state, ours)
        ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours, w, rtol=1e-14)  # a few roundings


def test_with_n_from_1_as_printed_the_first_update_erases_the_weights(x64):
    w, grads = jnp.arange(1.0, 4), jnp.ones(3)

    def first(offset):
        tx = baselines.nmgd(0.1, 0.5, offset)
        return optax.apply_updates(w, tx.update(grads, tx.init(w), w)[0])

    # An offset of 0 is refused, but a traced one passes unchecked.
    np.testing.assert_array_equal(jax.jit(first)(0.0), np.zeros(3))
    assert jnp.abs(first(1.0)).min() > 0.2


def test_it_forgets_any_start_and_gradient_descent_does_not(x64):
    a, b, smallest = least_squares()
    null = np.eye(7) - np.linalg.pinv(a) @ a
    rng = np.random.default_rng(2)
    for start in (np.zeros(7), 30 * rng.normal(size=7), 30 * rng.normal(size=7)):
        kept = descend(optax.sgd(1.0), start, 400)
        # The gradient has no part in the null space, so what was there stays there.
        np.testing.assert_allclose(kept, smallest + null @ start, atol=1e-11)
        found = descend(baselines.nmgd(1.0, 0.75), start, 40_000)
        # s = 3.5e-4 at the end, over the smallest curvature 0.36.
        assert np.linalg.norm(found - smallest) < 1.1e-3 * np.linalg.norm(smallest)


def test_how_far_it_ends_from_the_solution_is_the_shrinkage_over_the_curvature(x64):
    a, b, smallest = least_squares()
    inverse = np.linalg.pinv(a.T @ a)
    for power, steps in ((0.75, 40_000), (0.5, 10_000)):
        s = (steps + 1.0) ** -power
        found = descend(baselines.nmgd(1.0, power), np.ones(7), steps)
        # w = (1-s)(w - H (w - w*)) to first order in s; the second is s/0.36 of it.
        expected = -s * inverse @ smallest
        np.testing.assert_allclose(
            found - smallest, expected, atol=2 * s / 0.36 * np.linalg.norm(expected)
        )


def test_what_the_gradient_cannot_see_shrinks_by_the_product_of_the_factors(x64):
    a, _, _ = least_squares()
    hidden = (np.eye(7) - np.linalg.pinv(a) @ a) @ np.ones(7)
    left = descend(baselines.nmgd(1.0, 0.5, 3.0), 10 * hidden, 50)
    n = np.arange(1, 51)
    expected = 10 * np.prod(1 - (n + 3.0) ** -0.5) * hidden @ hidden
    np.testing.assert_allclose(left @ hidden, expected, rtol=1e-10)


def test_it_stands_behind_any_optimizer(x64):
    tx = optax.chain(optax.adam(0.1), baselines.halpern(0.5))
    w = {"a": jnp.ones(3), "b": 2 * jnp.ones(1)}
    grads = jax.tree.map(jnp.ones_like, w)
    updates, _ = tx.update(grads, tx.init(w), w)
    alone, _ = optax.adam(0.1).update(grads, optax.adam(0.1).init(w), w)
    s = 2**-0.5
    expected = jax.tree.map(lambda u, w: (1 - s) * (w + u) - w, alone, w)
    assert_close(updates, expected, rtol=1e-14)


def test_traced_powers_and_offsets_serve_a_grid(x64):
    powers, offsets = jnp.asarray([0.3, 0.6]), jnp.asarray([1.0, 4.0])

    @jax.jit
    @jax.vmap
    def first(power, offset):
        tx = baselines.halpern(power, offset)
        return tx.update(jnp.zeros(2), tx.init(jnp.ones(2)), jnp.ones(2))[0]

    expected = -(np.array([2.0, 5.0]) ** -np.array([0.3, 0.6]))
    np.testing.assert_allclose(first(powers, offsets)[:, 0], expected, rtol=1e-14)


def test_absent_updates_stay_absent():
    tx = baselines.halpern()
    params = {"a": jnp.ones(2), "b": jnp.ones(2), "c": None}
    updates = {"a": jnp.zeros(2), "b": optax.MaskedNode(), "c": None}
    out, _ = tx.update(updates, tx.init(params), params)
    assert out["b"] == optax.MaskedNode() and out["c"] is None
    assert_same_bits(out["a"], jnp.full(2, -(np.float32(2) ** np.float32(-0.5))))


@pytest.mark.parametrize("make", [baselines.halpern, lambda *a: baselines.nmgd(1, *a)])
def test_bad_powers_and_offsets_are_refused(make):
    for power in (0, 1, 1.5, -0.5, float("nan")):
        with pytest.raises(ValueError, match="`power` must be more than 0 and less th"):
            make(power)
    for offset in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`offset` must be finite and more than 0"):
            make(0.5, offset)
    with pytest.raises(ValueError, match="halpern needs `params`"):
        tx = make(0.5)
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
