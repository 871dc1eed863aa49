"""The instability of LAMB without weight decay, which LAMB+ cures (arXiv, D.4.3)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lawn_optax as lawn

RATE, UPDATES = 0.05, 300


@functools.cache
def points():
    """Points times their labels, separable through the origin with room."""
    x = np.random.default_rng(0).normal(size=(50, 4))
    score = x @ np.array([1.0, -1.0, 0.5, 0.2])
    return (x * np.sign(score)[:, None])[np.abs(score) > 0.3]


def trained(optimizer, **options):
    """Norms of the weights, relative lengths of the updates, and last gradient."""
    z, tx = jnp.asarray(points()), optimizer(RATE, **options)

    def step(carry, _):
        w, state = carry
        g = jax.grad(lambda w: jnp.mean(jax.nn.softplus(-z @ w)))(w)
        updates, state = tx.update(g, state, w)
        length = jnp.linalg.norm(w)
        return (w + updates, state), (length, jnp.linalg.norm(updates) / length, g)

    w = jnp.asarray([0.3, 0.4, -0.2, 0.1])
    run = jax.jit(lambda: jax.lax.scan(step, (w, tx.init(w)), length=UPDATES)[1])
    norm, relative, g = run()
    return np.asarray(norm), np.asarray(relative), np.linalg.norm(g[-1])


@pytest.mark.usefixtures("x64")
def test_without_decay_lamb_grows_exponentially_and_lamb_plus_does_not():
    never = 10**9
    lamb, length, gradient = trained(lawn.lamb, switch_step=never)
    # The trust ratio makes every update 5% of the weights, however small the gradient.
    np.testing.assert_allclose(length, RATE, rtol=1e-3)
    assert lamb[-1] > 1e5 and lamb[-1] / lamb[-101] > 100
    assert gradient == 0
    capped, length, gradient = trained(lawn.lamb_plus, switch_step=never)
    assert capped[-1] < 10 and capped[-1] / capped[-101] < 1.5
    assert length[-1] < RATE / 10 and gradient > 0
    # Weight decay, or a fixed norm, keeps LAMB itself in bounds.
    assert trained(lawn.lamb, switch_step=never, weight_decay=0.01)[0][-1] < 20
    fixed = trained(lawn.lamb, switch_step=0)[0]
    np.testing.assert_allclose(fixed, fixed[0], rtol=1e-9)
