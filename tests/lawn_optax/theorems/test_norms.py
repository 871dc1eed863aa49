"""Norms stay where they were captured, for long, in narrow types and at any rate.

They are measured in float64, also those of narrower weights: the loops run with x64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import close
from tests.support.optional import enable_x64
from tests.support.training import SMALL, draw, gradients, norms, returning, train

pytestmark = pytest.mark.usual_compilation

DENSE = {"bias": (32,), "kernel": (31, 32)}  # 1024 elements


def norms_and_row(params):
    return norms(params), params["dense"]["kernel"][0]


def wave(count):
    """A schedule that rises and falls between 0 and 0.02."""
    return 0.01 + 0.01 * jnp.sin(0.01 * count)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda n: lawn.wrap(optax.adam(wave), n), id="wrapped adam"),
        pytest.param(lambda n: lawn.wrap(optax.sgd(wave, 0.9), n), id="wrapped sgd"),
        pytest.param(lambda n: lawn.lamb(wave, switch_step=n), id="lamb"),
    ],
)
def test_float32_norms_are_the_captured_ones_after_each_of_10000_steps(make):
    with enable_x64(True):
        params = draw(dense=DENSE, pair={"scale": (2,)}, wide={"kernel": (48, 64)})
        grads = functools.partial(gradients, alike=True)  # hardest to sum without error
        (after, weights), state = train(make(5), params, 10_005, norms_and_row, grads)
        assert after.dtype == "float64" and weights.dtype == "float32"
        captured = np.asarray(after[4])
        close(state.norms, captured, rtol=1e-6)
        close(after[5:], np.broadcast_to(captured, (10_000, 3)), rtol=1e-6)
        # It did train, freely at first.
        assert np.all(np.abs(after[3] / captured - 1) > 1e-5)
        assert np.abs(weights[-1] - weights[5]).mean() > 0.1


def test_norms_of_large_groups_are_the_captured_ones():
    # Sums that are accumulated term by term are off by 1e-3 and more here, most where
    # the weights are alike.
    with enable_x64(True):
        params = draw(large={"kernel": (1000, 2000)})
        params["alike"] = {"kernel": jnp.full((600, 1000), 0.013, "float32")}
        tx = lawn.wrap(optax.sgd(1e-4), 1)
        after, state = train(tx, params, 3, norms)
        captured = np.asarray(after[0])
        close(state.norms, captured, rtol=1e-6)
        close(after[1:], np.broadcast_to(captured, (2, 2)), rtol=1e-6)
        assert np.all(np.abs(captured / norms(params) - 1) > 1e-8)  # it did train


# At this rate steps are longer than the spacing of bfloat16 numbers. Shorter ones are
# lost for large weights, and so are the corrections of the norm.
@pytest.mark.slow
@pytest.mark.parametrize("grad_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adam], ids=["sgd", "adam"])
def test_bfloat16_norms_stay_near_and_do_not_drift(optimizer, grad_dtype):
    tx = lawn.wrap(optimizer(0.05))
    with enable_x64(True):
        params = draw(dtype="bfloat16", dense=DENSE, wide={"kernel": (32, 40)})
        grads = functools.partial(gradients, dtype=grad_dtype)
        (after, weights), _ = train(tx, params, 10_000, norms_and_row, grads)
        assert weights.dtype == "bfloat16"
        assert not np.array_equal(weights[-1], weights[-100])  # it still moves
        error = np.asarray(after) / np.asarray(norms(params)) - 1
        size, early, late = np.abs(error), error[:2000], error[-2000:]
        assert np.all(size.mean(0) < 1e-4)
        assert np.all(size.max(0) < 1e-3)
        # A random walk would be three times as far off at the end, a drift nine times.
        assert np.all(np.abs(late).mean(0) < 2 * np.abs(early).mean(0))


def test_bfloat16_weights_are_the_exact_ones_rounded_once():
    # Rounding the update and then the sum would miss about 3% of them.
    w = draw(0, "bfloat16", m={"kernel": (200, 100)})
    u = jax.tree.map(lambda x: 0.02 * x, draw(1, "bfloat16", m={"kernel": (200, 100)}))
    tx = lawn.renormalize()
    step, _ = tx.update(u, tx.init(w), w)
    new = np.asarray(optax.apply_updates(w, step)["m"]["kernel"])
    w, u = (np.asarray(x["m"]["kernel"], float) for x in (w, u))
    exact = w + u - np.sum(u * w) / np.sum(w * w) * w
    exact *= np.linalg.norm(w) / np.linalg.norm(exact)
    assert new.dtype == "bfloat16"
    assert np.mean(new != exact.astype(new.dtype)) < 0.005
    assert np.mean(new.astype(float) != w) > 0.5


@pytest.mark.parametrize("factor", [0.5, 1.001, 3.0])
@pytest.mark.parametrize(
    "tx",
    [
        pytest.param(lawn.wrap(optax.sgd(0.1)), id="wrapped sgd"),
        pytest.param(lawn.wrap(optax.adam(0.1), projections=1), id="one projection"),
        pytest.param(lawn.lamb(0.1), id="lamb"),
    ],
)
def test_weights_scaled_by_hand_return_to_the_captured_norm(tx, factor):
    params = draw(**SMALL)

    def move(params, t):  # at step 5 the optimizer sees other weights than it left
        return jax.tree.map(lambda w: jnp.where(t == 5, factor, 1) * w, params)

    state, anchor, after = tx.init(params), norms(params), []
    update = jax.jit(tx.update)
    for t in range(7):
        params = move(params, t)
        updates, state = update(gradients(params, t), state, params)
        params = optax.apply_updates(params, updates)
        after.append(norms(params))
    close(after, np.tile(anchor, (7, 1)), rtol=1e-6)


ALGORITHMS = {
    "wrapped sgd": lambda rate: lawn.wrap(optax.sgd(rate, 0.9)),
    "wrapped adam": lambda rate: lawn.wrap(optax.adam(rate)),
    "one projection": lambda rate: lawn.wrap(optax.adam(rate), projections=1),
    "lamb": lawn.lamb,
    "lamb+": lawn.lamb_plus,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_rate_zero_keeps_the_weights_and_rate_a_million_the_norms(name):
    def rate(count):
        return jnp.where(count < 20, 0.0, jnp.where(count == 20, 1e6, 0.01))

    def grads(params, t):  # 0 for a while
        dense = gradients(params, t)
        return jax.tree.map(lambda g: jnp.where(t // 10 == 1, 0, g), dense)

    params = {
        "half": draw(dtype="bfloat16", m={"kernel": (40, 30)})["m"],
        "single": draw(m={"bias": (3,), "kernel": (4, 3)})["m"],
    }
    after, _ = train(ALGORITHMS[name](rate), params, 25, lambda p: (p, norms(p)), grads)
    for module, rtol in (("half", 0), ("single", 1e-6)):
        for leaf, start in params[module].items():
            kept = np.asarray(after[0][module][leaf][:20], float)
            close(kept, np.broadcast_to(start, kept.shape), rtol)
    error = np.asarray(after[1][20:]) / np.asarray(norms(params)) - 1
    assert np.all(np.abs(error) < [1e-3, 1e-6]), error


@pytest.mark.parametrize("projections", [1, 2])
@pytest.mark.parametrize("factor", [1e6, -1e6, -1.0])
def test_a_step_along_the_weights_is_finite_and_the_next_one_exact(factor, projections):
    # After the projection, rounding errors are left of it; without one, w - w is 0.
    params = draw(**SMALL)
    usual, along = draw(1, **SMALL), jax.tree.map(lambda w: factor * w, params)
    one = lawn.wrap(returning(along), projections=projections)
    other = lawn.wrap(returning(usual), projections=projections)
    updates, state = one.update(usual, one.init(params), params)
    after = optax.apply_updates(params, updates)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    updates, state = other.update(usual, state, after)
    close(norms(optax.apply_updates(after, updates)), norms(params), rtol=1e-6)
