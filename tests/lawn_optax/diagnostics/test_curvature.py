"""Largest eigenvalues against dense float64 matrices, and what they promise."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lawn_optax import diagnostics
from tests.support import curvature as cases
from tests.support.asserts import close
from tests.support.curvature import KEY, largest
from tests.support.optimizers import batch
from tests.support.optimizers import network as parameters

# Float32 sums of a few dozen terms; the iterations exceed the dimensions.
FLOAT32 = 2e-5


@functools.partial(jax.jit, static_argnames=("loss", "chunk_size"))
def growth(loss, params, examples, rate, size, chunk_size=32):
    return diagnostics.escape_growth(
        *(loss, params, examples, KEY),
        learning_rate=rate,
        batch_size=size,
        chunk_size=chunk_size,
    )


def condition(rate, size, hessians):
    """The matrix of eq. 19 less the identity, with Wu et al.'s Sigma."""
    m, mean = len(hessians), hessians.mean(0)
    step = np.eye(len(mean)) - rate * mean
    noise = (hessians @ hessians).mean(0) - mean @ mean
    return (
        step @ step
        + rate**2 * (m - size) / (size * (m - 1)) * noise
        - np.eye(len(mean))
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 4, 32])
def test_logistic_regression(chunk_size):
    params, examples = cases.logistic_data()
    _, hessians = cases.logistic_dense(params, examples)
    mean, square = hessians.mean(0), (hessians @ hessians).mean(0)
    top = diagnostics.top_hessian_eigenvalue
    found = top(cases.mean_of(cases.logistic, examples), params, KEY)
    close(found.value, largest(mean), FLOAT32)
    noise = functools.partial(diagnostics.hessian_noise, chunk_size=chunk_size)
    found = noise(cases.logistic, params, examples, KEY)
    close(found.value, largest(square - mean @ mean), FLOAT32)
    for rate, size in ((0.5, 2), (4.0, 5), (30.0, 1), (30.0, 11)):
        found = growth(
            *(cases.logistic, params, examples, rate, size), chunk_size=chunk_size
        )
        close(found.value, largest(condition(rate, size, hessians)), 10 * FLOAT32)


@pytest.mark.slow
def test_a_network_in_float64_and_the_largest_is_not_that_of_largest_magnitude(x64):
    params, examples = parameters(jnp.float64), batch()
    flat, unravel = ravel_pytree(params)
    for sign in (1.0, -1.0):
        loss = lambda w: sign * cases.mean_of(cases.network, examples)(w)  # noqa: E731, B023
        dense = jax.jit(jax.hessian(lambda x: loss(unravel(x))))(flat)  # noqa: B023
        spectrum = np.linalg.eigvalsh(dense)
        top = diagnostics.top_hessian_eigenvalue
        found = jax.jit(lambda w: top(loss, w, KEY, iterations=30))(params)  # noqa: B023
        assert found.value.dtype == found.residual.dtype == jnp.float64
        close(found.value, spectrum[-1], 1e-9)
        # The case is one only if both signs occur.
        assert spectrum[0] < -0.01 and spectrum[-1] > 0.01
    assert abs(spectrum[0]) > 2 * spectrum[-1]


def test_the_growth_is_that_of_all_batches(x64):
    # Growth of E|x'|^2 for x' = x - rate * (mean Hessian of the batch) x, over all
    # batches.
    hessians, zero = cases.symmetric(6, 4), jnp.zeros(4)
    # At the minimum no example has a gradient: with their covariance as Sigma, as the
    # paper's words have it, the batch size would not matter.
    assert diagnostics.gradient_noise(cases.quadratic, zero, hessians).trace == 0
    for rate, size in itertools.product((0.02, 0.4), (1, 2, 5, 6)):
        means = [hessians[rows].mean(0) for rows in cases.batches(6, size)]
        steps = [np.eye(4) - rate * mean for mean in means]
        exact = largest(np.mean([step @ step for step in steps], axis=0)) - 1
        found = growth(cases.quadratic, zero, hessians, rate, size)
        close(found.value, exact, 1e-9)
        step = np.eye(4) - rate * hessians.mean(0)
        printed = largest(step @ step) - 1
        assert (abs(printed - exact) < 1e-9) == (size == 6)


def test_examples_may_be_a_sample_of_more(x64):
    hessians = cases.symmetric(6, 4)
    found = diagnostics.escape_growth(
        *(cases.quadratic, jnp.zeros(4), hessians, KEY),
        learning_rate=0.3,
        batch_size=50,
        num_examples=600,
    )
    # The noise of six examples, in the proportion of 600.
    every, none = condition(0.3, 1, hessians), condition(0.3, 6, hessians)
    share = (600 - 50) / (50 * 599)
    close(found.value, largest(share * every + (1 - share) * none), 1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_value_and_residual_are_those_of_the_krylov_space(iterations, x64):
    # Rayleigh-Ritz on an orthonormal basis of the start and its images, densely.
    spectrum = np.concatenate([np.linspace(-30, 1, 28), [1.6, 2.0]])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    a = (basis * spectrum) @ basis.T
    start = np.asarray(jax.random.normal(jax.random.split(KEY, 1)[0], (30,)))
    powers = [np.linalg.matrix_power(a, k) @ start for k in range(iterations)]
    q = np.linalg.qr(np.stack(powers, axis=1))[0]
    values, vectors = np.linalg.eigh(q.T @ a @ q)
    y = q @ vectors[:, -1]
    found = diagnostics.top_hessian_eigenvalue(
        lambda w: 0.5 * w @ jnp.asarray(a) @ w,
        jnp.zeros(30),
        KEY,
        iterations=iterations,
    )
    close(found.value, values[-1], 1e-8)
    close(found.residual, np.linalg.norm(a @ y - values[-1] * y), 1e-6)
    assert np.abs(spectrum - found.value).min() <= found.residual * (1 + 1e-9)
    assert found.value <= 2.0


def test_many_iterations_in_float32_neither_exceed_nor_lose_the_largest():
    spectrum = np.float32(np.concatenate([np.linspace(-3, 1, 60), [2.0]]))
    loss = lambda w: 0.5 * jnp.vdot(jnp.asarray(spectrum), w**2)  # noqa: E731
    found = diagnostics.top_hessian_eigenvalue(loss, jnp.zeros(61), KEY, iterations=100)
    close(found.value, 2.0, 1e-5)
    assert found.residual < 1e-4


@pytest.mark.parametrize("value", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize("shape", [(), (1,), (5,)])
def test_one_eigenvalue_is_found_at_once_and_stays(value, shape):
    # The start's image is parallel to it: no second vector, and no second eigenvalue 0.
    found = diagnostics.top_hessian_eigenvalue(
        lambda w: 0.5 * value * jnp.sum(w**2), jnp.ones(shape), KEY
    )
    close(found.value, value, 1e-6)
    close(found.residual, 0, atol=1e-6)


def test_flat_losses_have_small_eigenvalues_not_zeros():
    # Squares of 1e-25 are no float32 numbers.
    h = np.float32([3.0, 1.0, -5.0])
    loss = lambda w: 0.5e-25 * jnp.vdot(jnp.asarray(h), w**2)  # noqa: E731
    found = diagnostics.top_hessian_eigenvalue(loss, jnp.ones(3), KEY)
    close(found.value, 3e-25, 1e-5)


def test_small_growth_is_not_lost_beside_1():
    args = cases.quadratic, jnp.zeros(1), jnp.full((2, 1, 1), -1e-6), KEY
    found = diagnostics.escape_growth(*args, learning_rate=0.01, batch_size=1)
    close(found.value, 2e-8, 1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_loss_gets_narrow_parameters_as_they_are(dtype):
    params, examples = cases.logistic_data()
    params = jax.tree.map(lambda w: jnp.asarray(w, dtype), params)
    _, hessians = cases.logistic_dense(params, examples)

    def loss(w, example):
        assert w["a"].dtype == dtype
        return cases.logistic(w, example)

    found = diagnostics.hessian_noise(loss, params, examples, KEY)
    assert found.value.dtype == jnp.float32
    mean = hessians.mean(0)
    # Tangents are rounded to the parameters' 8 or 11 bits; 2% is some of the former.
    close(found.value, largest((hessians @ hessians).mean(0) - mean @ mean), 0.02)


@pytest.mark.slow
def test_jit_and_vmap_over_parameters_rates_and_keys():
    params, examples = cases.logistic_data()
    many = jax.tree.map(lambda w: jnp.stack([w, -w, 2 * w]), params)
    rates = jnp.array([0.5, 2.0, 8.0])

    def turned(w, rate, key):
        return diagnostics.escape_growth(
            *(cases.logistic, w, examples, key), learning_rate=rate, batch_size=3
        ).value

    keys = jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(turned))(many, rates, keys)
    alone = jax.jit(turned)
    for i in range(3):
        one = alone(jax.tree.map(lambda w: w[i], many), rates[i], keys[i])  # noqa: B023
        close(together[i], one, FLOAT32)


@pytest.mark.slow
def test_memory_does_not_grow_with_examples_or_iterations():
    def temporary(count, iterations):
        params, examples = cases.logistic_data(count)
        noise = functools.partial(
            *(diagnostics.hessian_noise, cases.logistic), iterations=iterations
        )
        compiled = jax.jit(noise).lower(params, examples, KEY).compile()
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes - memory.argument_size_in_bytes

    # The tridiagonal matrix is 4 KiB and its eigenvectors as many; vectors would be
    # 64 bytes an example, 64 KiB.
    few = temporary(1024, 4)
    assert temporary(2048, 4) < few + 2**14
    assert temporary(1024, 32) < few + 2**16


def test_what_is_not_finite_shows():
    params, examples = cases.logistic_data()
    params["a"][0] = np.nan
    loss = cases.mean_of(cases.logistic, examples)
    assert np.isnan(diagnostics.top_hessian_eigenvalue(loss, params, KEY).value)


def test_errors_say_what_to_do():
    params, examples = cases.logistic_data()
    top, loss = (
        diagnostics.top_hessian_eigenvalue,
        cases.mean_of(cases.logistic, examples),
    )
    with pytest.raises(ValueError, match="`iterations` must be at least 1, got 0"):
        top(loss, params, KEY, iterations=0)
    with pytest.raises(TypeError, match="Python integer.*static_argnames"):
        jax.jit(functools.partial(top, loss, params, KEY))(iterations=3)
    with pytest.raises(TypeError, match="b is int32. Let `loss` close over"):
        top(loss, {"a": jnp.ones(3), "b": jnp.arange(2)}, KEY)
    with pytest.raises(ValueError, match="no leaves"):
        top(loss, {}, KEY)
    escape = functools.partial(
        *(diagnostics.escape_growth, cases.logistic, params), learning_rate=1.0
    )
    with pytest.raises(ValueError, match="1 to 11.*got 12.*give `num_examples`"):
        escape(examples, KEY, batch_size=12)
    with pytest.raises(ValueError, match=r"same length in each.*\(11, 5\), \(3,\)"):
        escape((examples[0], examples[1][:3]), KEY, batch_size=1)
    with pytest.raises(ValueError, match="`chunk_size` must be.*at least 1, got 0"):
        escape(examples, KEY, batch_size=1, chunk_size=0)
