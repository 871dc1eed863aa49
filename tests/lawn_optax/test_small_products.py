"""Many small products, summed: jax 0.10.2 is silently wrong for such programs on CPUs,
and 0.11.1 and 0.11.2 for others.

In `jit(vmap(lambda x: sum((m @ x) ** 2)))` it fuses product and sum, and for some sizes
the result is off by up to 100% (jax issue 39103). Here the library does all that it
does with many small vectors at once, at sizes of that kind: two or three dimensions,
and a few more vectors than numbers that fill 128 KiB.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from tests.support.asserts import close
from tests.support.optional import enable_x64

pytestmark = [
    pytest.mark.usual_compilation,
    pytest.mark.parametrize(
        ("dtype", "size"), [("float32", 34567), ("float64", 18000)]
    ),
]
ROWS = lawn.groups.neuron(axis=0)


@pytest.fixture(autouse=True)
def precision(dtype):
    with enable_x64(dtype == "float64"):
        yield


def draw(dtype, *shape):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def test_noise_of_examples_in_one_chunk_is_that_of_many(dtype, size):
    weights, examples = (
        draw(dtype, 3)[None] * np.eye(3, dtype=dtype),
        draw(dtype, size, 3),
    )

    def noise(chunk_size):
        loss = lambda w, x: jnp.sum(jnp.tanh(w @ x) ** 2)  # noqa: E731
        measure = lawn.diagnostics.gradient_noise
        measured = lambda w, x: measure(loss, w, x, chunk_size=chunk_size)  # noqa: E731
        return jax.jit(measured)(weights, examples)

    for whole, in_parts in zip(noise(size), noise(500), strict=True):
        close(whole, in_parts, rtol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_simulated_noise_has_its_covariance_in_every_trial(dim, dtype, size):
    root, key = draw(dtype, dim, dim), jax.random.key(0)
    after, _ = lawn.nrq.simulate(
        optax.sgd(1.0),
        jnp.zeros((size, dim), dtype),
        jnp.zeros(dim, dtype),
        root,
        1,
        key=key,
        model="quadratic",
    )
    noise = jax.random.normal(jax.random.fold_in(key, 0), (size, dim), dtype)
    expected = -np.asarray(noise, float) @ root.T.astype(float)
    close(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_of_the_rayleigh_quotient(dim, dtype, size):
    # On CPUs, jax 0.11.1 and 0.11.2 make NaN of such a projection of 4,096 vectors.
    x, spectrum = draw(dtype, size, dim), np.arange(float(dim))
    noise = x[::-1]
    found = jax.jit(lawn.nrq.gradient)(x, spectrum.astype(dtype), noise)
    x, noise = x.astype(float), noise.astype(float)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    g = spectrum * x / length + noise
    expected = (g - np.sum(g * x, axis=1, keepdims=True) / length**2 * x) / length
    # Differences of numbers of the size of the gradient.
    largest = np.abs(g / length).max(axis=1, keepdims=True)
    close(found / largest, expected / largest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_sums_over_vectors_that_vmap_treats_one_by_one(dim, dtype, size):
    weights, updates = draw(dtype, size, dim), 0.1 * draw(dtype, size, dim)[::-1]

    def angle(u, w):
        return lawn.diagnostics.angular_update(u, w, groups="all")[0]

    total = jax.jit(lambda u, w: jax.vmap(angle)(u, w).sum())(updates, weights)
    old, new = (x.astype(float) for x in (weights, weights + updates))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    half = np.linalg.norm(unit(new) - unit(old), axis=1) / 2
    close(total, np.sum(2 * np.arcsin(half)), rtol=1e-5)

    tx = lawn.wrap(optax.sgd(0.1), groups="all")

    @jax.jit
    def step(g, w):
        move = lambda g, w: tx.update(g, tx.init(w), w)[0]  # noqa: E731
        after = w + jax.vmap(move)(g, w)
        return after, jnp.sum(after * after)

    after, square = step(updates, weights)
    close(np.linalg.norm(np.asarray(after, float), axis=1), np.linalg.norm(old, axis=1))
    close(square, np.sum(old * old))


@pytest.mark.parametrize("dim", [2, 3])
def test_norms_of_many_small_slices_have_the_right_mean(dim, dtype, size):
    kernel = draw(dtype, size, dim)
    start = jax.jit(lambda w: lawn.baselines.bounded_init({"kernel": w}, groups=ROWS))
    wide = kernel.astype(float)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    expected = wide / lengths * np.sqrt(np.mean(lengths**2))
    close(start(kernel)["kernel"], expected, rtol=1e-5)
