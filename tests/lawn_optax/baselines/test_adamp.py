"""AdamP and SGDP."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import baselines
from tests.support.asserts import assert_same_bits
from tests.support.optimizers import network, run


def invariant(w, g, delta):
    """The authors' question, of the rows of both."""
    cosines = np.abs(np.sum(w * g, axis=1)) / (
        np.linalg.norm(w, axis=1) * np.linalg.norm(g, axis=1)
    )
    return np.all(cosines < delta / np.sqrt(w.shape[1]))


def projected(w, g, r, delta):
    """(direction, whether projected) for a kernel whose units are its columns."""
    views = (
        (lambda x: x.T, lambda x: x.T),
        (lambda x: x.reshape(1, -1), lambda x: x.reshape(w.shape)),
    )
    for view, back in views:
        if invariant(view(w), view(g), delta):
            a, b = view(w), view(r)
            along = np.sum(a * b, axis=1, keepdims=True) / np.sum(a * a, 1)[:, None]
            return back(b - along * a), True
    return r, False


def gradients(w, kind, rng):
    """A gradient at right angles to all columns, the whole, one column, or nothing."""
    g = rng.normal(size=w.shape)
    along = np.sum(g * w, axis=0) / np.sum(w * w, axis=0)
    g = g - along * w
    if kind == "leaf":  # radial parts of the columns that cancel in the sum
        balance = np.linalg.norm(w[:, 1]) ** 2 / np.linalg.norm(w[:, 0]) ** 2
        g[:, 0] += balance * w[:, 0]
        g[:, 1] -= w[:, 1]
    if kind == "one column":
        g[:, 1] += 0.5 * w[:, 1]
    return g + 0.5 * w if kind == "neither" else g


@pytest.mark.parametrize("kind", ["unit", "leaf", "one column", "neither"])
@pytest.mark.parametrize("name", ["adamp", "sgdp"])
def test_updates_are_those_of_the_authors_rule(name, kind, x64):
    rng = np.random.default_rng(3)
    w, bias = rng.normal(size=(6, 2)), rng.normal(size=2)
    wd, ratio, delta, lr = 0.3, 0.25, 0.1, 0.05
    if name == "adamp":
        tx = baselines.adamp(lr, weight_decay=wd, wd_ratio=ratio, delta=delta)
    else:
        tx = baselines.sgdp(lr, 0.9, weight_decay=wd, wd_ratio=ratio, delta=delta)
    params = {"kernel": jnp.asarray(w), "bias": jnp.asarray(bias)}
    state, update = tx.init(params), jax.jit(tx.update)
    m, v, seen = 0.0, 0.0, set()
    for t in range(1, 4):
        g = gradients(w, kind, rng)
        if name == "adamp":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            decay = wd
        else:
            m = 0.9 * m + g
            r, decay = m, wd / (1 - 0.9)
        r, hit = projected(w, g, r, delta)
        seen.add(hit)
        w = w * (1 - lr * decay * (ratio if hit else 1)) - lr * r
        bias = bias * (1 - lr * decay)  # a vector: never projected, always decayed
        grads = {"kernel": jnp.asarray(g), "bias": jnp.zeros(2)}
        steps, state = update(grads, state, params)
        params = optax.apply_updates(params, steps)
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(params["bias"], bias, rtol=1e-12)
    assert seen == {kind in ("unit", "leaf")}


@pytest.mark.parametrize(("share", "hit"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("view", ["unit", "leaf"])
def test_how_near_a_right_angle_counts(view, share, hit, x64):
    rng = np.random.default_rng(4)
    w = rng.normal(size=(6, 2))
    w = w / np.linalg.norm(w, axis=0)  # columns of norm 1, the whole of norm sqrt(2)
    t = rng.normal(size=(6, 2))
    t = t - np.sum(t * w, axis=0) * w
    t = t / np.linalg.norm(t, axis=0)
    if view == "unit":  # columns with the cosine c = share * delta / sqrt(6)
        c = share * 0.1 / np.sqrt(6)
        g = np.sqrt(1 - c**2) * t + c * w
    else:  # the whole with c = share * delta / sqrt(12), columns with -0.6 and 0.6 + 2c
        c = share * 0.1 / np.sqrt(12)
        along = np.array([-0.6, 0.6 + 2 * c])
        g = np.sqrt(1 - along**2) * t + along * w
        np.testing.assert_allclose(np.sum(g * w) / 2, c, rtol=1e-12)
    tx = baselines.sgdp(1.0, 0.0)
    updates, _ = tx.update(jnp.asarray(g), tx.init(jnp.asarray(w)), jnp.asarray(w))
    radial = np.sum(np.asarray(updates) * w)
    assert (abs(radial) < 1e-14) == hit


def test_views_that_differ_lead_to_different_updates():
    # Else the parametrised test above could not tell the two views apart.
    rng = np.random.default_rng(3)
    w = rng.normal(size=(6, 2))
    g = gradients(w, "leaf", rng)
    assert not invariant(w.T, g.T, 0.1)
    assert invariant(w.reshape(1, -1), g.reshape(1, -1), 0.1)


def test_a_network_without_scale_grows_less_under_adamp_than_under_adam():
    def scale_invariant(params):
        w = params["kernel"]
        unit = w / jnp.sqrt(jnp.sum(w * w, axis=0, keepdims=True))
        x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
        return jnp.mean(jnp.square(x @ unit - jnp.sin(3 * x[:, :3])))

    start = {"kernel": network()["first"]["kernel"]}
    ends = [
        run(tx, start, 60, scale_invariant)[0][-1]["kernel"]
        for tx in (baselines.adamp(0.1), optax.adam(0.1))
    ]
    adamp, adam = (np.linalg.norm(x) / np.linalg.norm(start["kernel"]) for x in ends)
    assert 1 < adamp < adam


def test_zero_gradients_and_weights_give_finite_updates():
    params = {"kernel": jnp.zeros((3, 2)), "other": jnp.ones((3, 2))}
    for tx in (baselines.adamp(0.1, weight_decay=0.1), baselines.sgdp(0.1)):
        updates, _ = tx.update(
            jax.tree.map(jnp.zeros_like, params), tx.init(params), params
        )
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))
        assert_same_bits(updates["kernel"], jnp.full((3, 2), -0.0))
