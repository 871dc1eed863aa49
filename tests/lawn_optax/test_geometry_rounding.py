"""The geometry of one step: its closed form, and rounding."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import _geometry as geometry
from tests.support.one_group import (
    W,
    exact,
    retract,
    single,
    sums,
)

pytestmark = pytest.mark.usual_compilation

# --- the closed form ------------------------------------------------------------------


def direct(u, w, norm, *, project=True):
    """The update in float64 as the papers write it: project, add, rescale."""
    u, w = np.asarray(u, np.float64), np.asarray(w, np.float64)
    if project:
        u = u - (u @ w) / (w @ w) * w
    return (w + u) * (norm / np.linalg.norm(w + u)) - w


@pytest.mark.parametrize("project", [True, False], ids=["projected", "as_is"])
@pytest.mark.parametrize("length", [0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_the_closed_form_is_the_direct_computation(length, project):
    rng = np.random.default_rng(0)
    w = rng.normal(size=300).astype(np.float32)
    u = (length * rng.normal(size=300)).astype(np.float32)
    norm = np.float32(1.01 * np.linalg.norm(w))  # the weights have drifted
    expected = np.asarray(w, np.float64) + direct(u, w, norm, project=project)
    actual = np.asarray(w, np.float64) + np.asarray(
        jax.jit(lambda u, w, norm: retract(u, w, norm, project=project))(u, w, norm),
        np.float64,
    )
    # Coefficients carry a few roundings of float32 each (6e-8); so does each weight.
    np.testing.assert_allclose(
        actual, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max(), equal_nan=False
    )
    np.testing.assert_allclose(np.linalg.norm(actual), norm, rtol=1e-6)


def test_the_closed_form_is_the_direct_computation_in_float64(x64):
    rng = np.random.default_rng(1)
    w, u = rng.normal(size=50), 0.3 * rng.normal(size=50)
    for project in (True, False):
        np.testing.assert_allclose(
            retract(u, w, 7.0, project=project),
            direct(u, w, 7.0, project=project),
            rtol=1e-13,
            atol=1e-13,
            equal_nan=False,
        )


@pytest.mark.parametrize("sign", [1, -1], ids=["along", "against"])
@pytest.mark.parametrize("length", [1.0, 1e2, 1e4, 1e6, 1e10])
def test_cancellation_gives_no_nan_and_no_norm_below_that_of_the_weights(length, sign):
    # A long update nearly parallel to w: <u,u> - <u,w>^2/<w,w> is pure rounding.
    rng = np.random.default_rng(2)
    for _ in range(20):
        w = rng.normal(size=257).astype(np.float32)
        u = sign * length * (w + 1e-5 * rng.normal(size=257).astype(np.float32))
        grouping, ws = single(w)
        us = [jnp.asarray(u)]
        uu, uw, ww = (sums(grouping, *p) for p in ((us, us), (us, ws), (ws, ws)))
        c = jnp.sqrt(ww)
        p, q = geometry.retraction(uu, uw, ww, c, project=True)
        # p = c / |.| is at most 1: the norm in it is never below sqrt(<w,w>).
        assert 0 < float(p[0]) <= 1 + 1e-6
        assert np.isfinite(float(q[0]))
        new = np.asarray(retract(u, w, c[0])) + w
        assert np.isfinite(new).all() and np.linalg.norm(new) > 0


def test_an_error_from_cancellation_is_gone_at_the_next_step():
    rng = np.random.default_rng(3)
    w = jnp.asarray(rng.normal(size=257), jnp.float32)
    c = float(jnp.linalg.norm(w))
    tx = lawn.wrap(optax.sgd(1.0), projections=2)
    step = jax.jit(tx.update)
    state = tx.init(w)
    for gradient in (0 * w, -1e6 * w, 1e-3 * w[::-1], 0 * w):
        updates, state = step(gradient, state, w)
        w = w + updates
    np.testing.assert_allclose(np.linalg.norm(np.asarray(w, np.float64)), c, rtol=1e-6)


def test_an_update_a_million_times_longer_keeps_the_norm():
    rng = np.random.default_rng(4)
    w = jnp.asarray(rng.normal(size=64), jnp.float32)
    update = np.asarray(retract(1e6 * rng.normal(size=64), w, 8.0), np.float64)
    np.testing.assert_allclose(np.linalg.norm(w + update), 8.0, rtol=1e-6)


@pytest.mark.parametrize("length", [1e19, 1e25])
def test_an_update_whose_square_overflows_does_not_zero_the_weights(length):
    # Finite gradients, finite weights, so the norm is to hold.
    w = jnp.asarray(W)
    g = length * jnp.array([1.0, -0.5, 0.25, 0.0])
    for tx in (lawn.wrap(optax.sgd(1.0)), lawn.renormalize()):
        updates, state = tx.update(g, tx.init(w), w)
        exact(state.norms, [4.0])
        new = np.asarray(w + updates, np.float64)
        np.testing.assert_allclose(np.linalg.norm(new), 4.0, rtol=1e-6)


# --- rounding -------------------------------------------------------------------------


@pytest.mark.parametrize("alike", [False, True], ids=["random", "alike"])
@pytest.mark.parametrize(
    "shape, kept",
    [((3, 250_000, 2), kept) for kept in ((), (0,), (1,), (2, 0))]
    + [((3, 7, 10_000), kept) for kept in ((2,), (2, 0))],  # sums of 21 and of 7 terms
    ids=str,
)
def test_inner_products_of_large_arrays_are_exact_to_rounding(shape, kept, alike):
    x, y = (
        np.full(shape, value, np.float32)
        if alike
        else np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
        for seed, value in enumerate((0.013, 0.7))
    )
    product = jax.jit(lambda x, y: geometry.dot(x, y, jnp.float32, kept))(x, y)
    terms = x.astype(np.float64) * y
    expected = terms.sum(tuple(a for a in range(3) if a not in kept))
    if kept == (2, 0):
        expected = expected.T
    np.testing.assert_allclose(product, expected, rtol=1e-6, equal_nan=False)


@pytest.mark.parametrize("kept, terms", [((), 70), ((1,), 70), ((1,), 7)], ids=str)
def test_inner_products_have_both_derivatives_also_in_a_batch(kept, terms):
    # Small whole numbers, so that every sum is exact.
    shape = 3, 5, terms, 3
    x, y, v = np.random.default_rng(6).integers(-8, 8, shape).astype(np.float32)

    def square(x, y):
        return jnp.sum(geometry.dot(x, y, jnp.float32, kept) ** 2)

    def along(x, y, v):  # the Hessian times v
        return jax.jvp(lambda x: jax.grad(square)(x, y), (x,), (v,))[1]

    sums = functools.partial(np.sum, axis=(1,) if kept else (1, 2), keepdims=True)
    slope = jax.jit(jax.vmap(jax.grad(square)))(x, y)
    np.testing.assert_array_equal(slope, 2 * sums(x * y) * y)
    bent = jax.jit(jax.vmap(along))(x, y, v)
    np.testing.assert_array_equal(bent, 2 * sums(v * y) * y)


def small_step(dtype, length, n=50_000):
    """Narrow weights and update, the norm, and the exact new weights in float64."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=n).astype(dtype)
    u = (length * rng.normal(size=n)).astype(dtype)
    c = np.float32(np.linalg.norm(w.astype(np.float64)))
    return w, u, c, w.astype(np.float64) + direct(u, w, np.float64(c))


# Longer steps leave more weights whose difference to the old one is itself rounded: the
# update's type cannot hold it. At 0.03 casting the update misses 3% of bf16 weights.
NARROW = pytest.mark.parametrize(
    "dtype, unit, length",
    [
        (ml_dtypes.bfloat16, 2.0**-8, 0.003),
        (ml_dtypes.bfloat16, 2.0**-8, 0.03),
        (np.float16, 2.0**-11, 0.003),
        (np.float16, 2.0**-11, 0.02),
    ],
    ids=["bf16_short", "bf16_longer", "f16_short", "f16_longer"],
)


@NARROW
def test_a_narrow_weight_is_the_exact_result_rounded_once(dtype, unit, length):
    w, u, c, result = small_step(dtype, length)
    step = jax.jit(lambda u, w: optax.apply_updates(w, retract(u, w, c)))
    new = np.asarray(step(u, w))
    assert new.dtype == dtype
    assert np.mean(new == result.astype(dtype)) >= 0.995
    # Each rounding of a weight x is off by at most unit |x| / 2, at random: a norm of n
    # of them by about unit / sqrt(12 n) relative; five times that is beyond chance.
    norm = np.linalg.norm(new.astype(np.float64))
    np.testing.assert_allclose(norm, c, rtol=5 * unit / np.sqrt(12 * w.size))


@NARROW
def test_casting_the_update_alone_would_fail_that_test(dtype, unit, length):
    w, _, _, result = small_step(dtype, length)
    twice = w + (result - w.astype(np.float64)).astype(dtype)
    assert np.mean(twice == result.astype(dtype)) < 0.995


@pytest.mark.parametrize("inner", ["bf16", "f32"])
def test_the_update_has_the_dtype_of_the_inner_optimizer(inner):
    w = jnp.asarray(W, jnp.bfloat16)
    cast = optax.stateless(
        lambda us, _: jax.tree.map(
            lambda u: u.astype(jnp.bfloat16 if inner == "bf16" else jnp.float32), us
        )
    )
    g = jnp.array([1.0, -3.0, 2.0, 0.0], jnp.bfloat16)
    tx = lawn.wrap(optax.chain(optax.sgd(0.1), cast), switch_step=1)
    state = tx.init(w)
    for _ in range(2):  # in both phases
        updates, state = tx.update(g, state, w)
        assert updates.dtype == (jnp.bfloat16 if inner == "bf16" else jnp.float32)
