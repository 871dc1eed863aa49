"""One projection or retraction of an array as a single group."""

import jax.numpy as jnp
import numpy as np

import lawn_optax as lawn
from lawn_optax import _geometry as geometry
from lawn_optax.groups._resolve import resolve

W = [2.0, 2.0, 2.0, 2.0]  # norm 4


def exact(actual, expected):
    np.testing.assert_array_equal(actual, np.asarray(expected))
    assert not np.isnan(np.asarray(actual)).any()


def sums(grouping, xs, ys):
    """All inner products in one vector."""
    parts = geometry.inner_products(grouping, xs, ys, [()] * len(ys))
    return jnp.concatenate([part.reshape(-1) for part in parts])


def single(w):
    w = jnp.asarray(w)
    return resolve("all", w), [w]


def project(x, w):
    tx, w = lawn.project_tangent("all"), jnp.asarray(w)
    return tx.update(jnp.asarray(x), tx.init(w), w)[0]


def retract(u, w, norm, *, project=True):
    """`renormalize` in the middle of a run that has captured this norm."""
    tx, w = lawn.renormalize("all", project=project), jnp.asarray(w)
    _, state = tx.update(0 * w, tx.init(w), w)
    state = state._replace(norms=jnp.full_like(state.norms, norm))
    return tx.update(jnp.asarray(u), state, w)[0]
