"""Losses with dense float64 gradients and Hessians for each example."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(3)


def logistic(w, example):
    """Logistic regression; its tree has two leaves."""
    x, y = example
    score = jnp.vdot(w["a"], x[:3]) + jnp.vdot(w["b"], x[3:])
    return jnp.logaddexp(0, -y.astype(score.dtype) * score)


def logistic_data(count=11, seed=0):
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(count, 5)))
    y = np.where(rng.random(count) < 0.5, -1.0, 1.0).astype(np.float32)
    w = np.float32(rng.normal(size=5))
    return {"a": w[:3], "b": w[3:]}, (x, y)


def logistic_dense(params, examples):
    """Each example's gradient and Hessian by the formulas, float64."""
    x, y = (np.asarray(part, np.float64) for part in examples)
    w = np.concatenate([np.asarray(params[k], np.float64) for k in "ab"])
    p = 1 / (1 + np.exp(y * (x @ w)))
    gradients = -(p * y)[:, None] * x
    hessians = (p * (1 - p))[:, None, None] * x[:, :, None] * x[:, None, :]
    return gradients, hessians


def network(params, example):
    """A tanh network with squared error: Hessians of both signs."""
    x, y = example
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return (
        (hidden @ params["second"]["kernel"] + params["second"]["bias"] - y) ** 2
    ).sum()


def mean_of(loss, examples):
    return lambda params: jax.vmap(loss, (None, 0))(params, examples).mean()


def quadratic(w, hessian):
    """Each example is a Hessian; all have their minimum at 0."""
    return 0.5 * w @ hessian @ w


def symmetric(count, dim, seed=0):
    h = np.random.default_rng(seed).normal(size=(count, dim, dim))
    return h + h.transpose(0, 2, 1)


def largest(matrix):
    return np.linalg.eigvalsh(matrix)[-1]


def batches(count, size):
    """All batches that may be drawn without replacement."""
    return [list(rows) for rows in itertools.combinations(range(count), size)]
