"""Linearly separable points, their maximum margin, and a network to score them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.svm import SVC

DIMENSIONS = 4  # the last is a constant 1: the bias is an input


@functools.cache
def separable():
    """Points times labels, separable through the origin."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(14, DIMENSIONS))
    x[:, -1] = 1
    score = x @ np.array([1.0, -0.5, 0.8, 0.3])
    keep = np.abs(score) > 0.3
    return x[keep] * np.sign(score[keep])[:, None]


@functools.cache
def max_margin():
    """The unit vector of the hard-margin SVM without intercept, and its margin."""
    z = separable()
    # Each point with its mirror image: by symmetry the intercept is 0.
    x, y = np.r_[z, -z], np.r_[np.ones(len(z)), -np.ones(len(z))]
    svm = SVC(kernel="linear", C=1e8, tol=1e-10).fit(x, y)
    assert abs(svm.intercept_[0]) < 1e-6
    w = svm.coef_[0]
    # The quadratic programme itself: stationary, feasible, complementary.
    alphas = np.abs(svm.dual_coef_[0])
    support = x[svm.support_] * y[svm.support_][:, None]
    np.testing.assert_allclose(alphas @ support, w, atol=1e-6)
    assert np.min(z @ w) > 1 - 1e-6 and np.max(alphas * (support @ w - 1)) < 1e-5
    return w / np.linalg.norm(w), 1 / np.linalg.norm(w)


def angle(v, w):
    """Between two vectors; exact also where the cosine is 1 to rounding."""
    v, w = v / np.linalg.norm(v), w / np.linalg.norm(w)
    return 2 * np.arcsin(np.linalg.norm(v - w) / 2)


def start(norm, seed=5):
    v = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return norm * v / np.linalg.norm(v)


def layers(sizes, seed=0):
    rng = np.random.default_rng(seed)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    return [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0])) for s in shapes]


def network(weights, x):
    """A bias-free network with one score, homogeneous of degree one in each layer."""
    for w in weights[:-1]:
        x = jax.nn.leaky_relu(x @ w, 0.2)  # plain ReLUs die on some points
    return (x @ weights[-1])[:, 0]
