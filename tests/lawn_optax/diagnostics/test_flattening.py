"""Gradient noise against dense float64 gradients, and the share of large margins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lawn_optax import diagnostics
from tests.support import curvature as cases
from tests.support.asserts import close
from tests.support.optional import enable_x64

# Float32 gradients of 5 numbers, 11 of them summed.
FLOAT32 = 2e-6


def covariance(gradients):
    apart = gradients - gradients.mean(0)
    return apart.T @ apart / len(apart)


def linear(w, x):
    """The gradient of example x is x."""
    return w @ x.astype(w.dtype)


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 32])
def test_noise_is_the_covariance_of_the_examples(chunk_size):
    params, examples = cases.logistic_data()
    gradients, _ = cases.logistic_dense(params, examples)
    noise = diagnostics.gradient_noise(
        cases.logistic, params, examples, chunk_size=chunk_size
    )
    close(noise.trace, np.trace(covariance(gradients)), FLOAT32)
    close(noise.gradient_norm, np.linalg.norm(gradients.mean(0)), FLOAT32)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_the_documented_factor_is_that_of_all_batches(size, x64):
    x = np.random.default_rng(0).normal(size=(6, 3)) + 2
    means = np.stack([x[rows].mean(0) for rows in cases.batches(6, size)])
    trace = diagnostics.gradient_noise(linear, jnp.zeros(3), x).trace
    exact = np.trace(covariance(means))
    close(trace * (6 - size) / (size * (6 - 1)), exact, 1e-12, atol=1e-15)


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_a_mean_far_larger_than_the_noise_cancels_nothing(chunk_size):
    x = np.float32(1000 + 0.1 * np.random.default_rng(0).normal(size=(100, 4)))
    exact = np.trace(covariance(x.astype(np.float64)))
    noise = diagnostics.gradient_noise(linear, jnp.zeros(4), x, chunk_size=chunk_size)
    # A mean near 1000 is rounded to 6e-5, of deviations near 0.1.
    close(noise.trace, exact, 1e-3)
    naive = (x**2).sum(1, dtype=np.float32).mean(dtype=np.float32) - (
        x.mean(0) ** 2
    ).sum()
    assert abs(naive / exact - 1) > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_types(dtype):
    params, examples = cases.logistic_data()
    with enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda w: jnp.asarray(w, dtype), params)
        gradients, _ = cases.logistic_dense(params, examples)
        noise = diagnostics.gradient_noise(cases.logistic, params, examples)
        wide = jnp.promote_types(dtype, jnp.float32)
        assert noise.trace.dtype == noise.gradient_norm.dtype == wide
        # Gradients are rounded to 8 bits; those of float64 are exact to 1e-15.
        rtol = 1e-12 if dtype == "float64" else 0.02
        close(noise.trace, np.trace(covariance(gradients)), rtol)


def test_noise_under_jit_and_vmap():
    params, examples = cases.logistic_data()
    many = jax.tree.map(lambda w: jnp.stack([w, -w]), params)
    noise = lambda w: diagnostics.gradient_noise(cases.logistic, w, examples)  # noqa: E731
    together = jax.jit(jax.vmap(noise))(many)
    for i in range(2):
        alone = noise(jax.tree.map(lambda w: w[i], many))  # noqa: B023
        for one, other in zip(together, alone, strict=True):
            close(one[i], other, FLOAT32)


def test_the_memory_of_noise_does_not_grow_with_the_examples():
    def temporary(count):
        x = jnp.zeros((count, 8))
        compiled = (
            jax.jit(lambda w, x: diagnostics.gradient_noise(linear, w, x))
            .lower(jnp.zeros(8), x)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    # Gradients would be 32 bytes an example.
    assert temporary(4096) < temporary(1024) + 2**14


def test_share_of_margins_above_the_threshold():
    margins = np.float32([[-3.0, 2.5, 2.6], [9.0, 0.0, 1.0]])
    assert diagnostics.flattened_share(margins) == np.float32(2 / 6)
    share = jax.jit(diagnostics.flattened_share)
    assert share(margins, 0.5) == np.float32(4 / 6)
    assert np.isnan(share(np.float32([1.0, np.nan, 3.0])))
    with enable_x64(True):
        assert diagnostics.flattened_share(margins.astype(np.float64)) == 2 / 6
    with pytest.raises(ValueError, match="at least one entry"):
        diagnostics.flattened_share(np.zeros(0))
