"""Gradient flow with and without norm control: what Theory III claims of its path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.separable import (
    DIMENSIONS,
    angle,
    layers,
    network,
    separable,
    start,
)

# --- Theory III, eq. 88: normalised descent and descent in the normalised -------------


def slope(w):
    """-dL/dw of the exponential loss itself."""
    z = separable()
    return np.exp(-(z @ w)) @ z


def runge_kutta(field, x, time, steps):
    h = time / steps
    for _ in range(steps):
        a = field(x)
        b = field(x + h / 2 * a)
        c = field(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + field(x + h * c))
    return x


def shadow(v):
    """I - v v' / |v|^2 over |v|, called S in the paper."""
    n = np.linalg.norm(v)
    return (np.eye(len(v)) - np.outer(v, v) / n**2) / n


@pytest.mark.slow
def test_descent_in_the_normalised_weights_is_not_normalised_descent(x64):
    w, time = start(1.0, seed=6), 2.0
    free = runge_kutta(slope, w, time, 4000)
    # Integrating S dw/dt along the *same* path is the same as normalising at the end:
    both = lambda x: np.r_[slope(x[:4]), shadow(x[:4]) @ slope(x[:4])]  # noqa: E731
    together = runge_kutta(both, np.r_[w, w], time, 4000)
    np.testing.assert_allclose(together[4:], free / np.linalg.norm(free), atol=1e-9)
    # What differs is the path of the weights that are normalised all the time.
    constrained = runge_kutta(lambda v: shadow(v) @ slope(v), w, time, 4000)
    assert abs(np.linalg.norm(constrained) - 1) < 1e-8  # Runge-Kutta's own error
    assert angle(constrained, free) > 0.05

    # The same of the library's methods, with the step tending to 0.
    z = jnp.asarray(separable())
    gradient = jax.grad(lambda w: jnp.sum(jnp.exp(-z @ w[:, 0])))

    def follow(make, steps):
        tx = make(optax.sgd(time / steps))

        def body(_, carry):
            w, state = carry
            updates, state = tx.update(gradient(w), state, w)
            return optax.apply_updates(w, updates), state

        carry = jnp.asarray(w)[:, None], tx.init(jnp.asarray(w)[:, None])
        run = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, body, carry)[0])
        return np.asarray(run(carry))[:, 0]

    ends = {
        "free": (free, lambda inner: inner),
        "normalised": (
            constrained,
            lambda inner: optax.chain(inner, baselines.unit_norm("natural")),
        ),
        "reparametrised": (constrained, baselines.reparametrize),
    }
    for name, (flow, make) in ends.items():
        off = [angle(follow(make, n), flow) for n in (2000, 4000)]
        assert off[1] < 2e-3, name
        np.testing.assert_allclose(off[0] / off[1], 2, rtol=0.05, err_msg=name)


# --- Theory III, eqs. 18 and 99-103: balance and growth -------------------------------


def test_layers_stay_balanced_under_gradient_flow(x64):
    z = jnp.asarray(separable())

    def loss(weights):  # points with their mirror images, so that labels matter
        scores = network(weights, jnp.concatenate([z, -z]))
        y = jnp.concatenate([jnp.ones(len(z)), -jnp.ones(len(z))])
        return jnp.mean(jnp.exp(-y * scores))

    begin = layers((DIMENSIONS, 6, 5, 1))
    squares = lambda ws: np.asarray(lawn.diagnostics.group_norms(ws)) ** 2  # noqa: E731
    drift, grown = [], []
    for steps in (400, 800):
        tx = optax.sgd(4.0 / steps)

        def body(_, ws, tx=tx):
            updates, _ = tx.update(jax.grad(loss)(ws), tx.init(ws), ws)
            return optax.apply_updates(ws, updates)

        end = jax.jit(lambda ws, n=steps, f=body: jax.lax.fori_loop(0, n, f, ws))(begin)
        change = squares(end) - squares(begin)
        drift.append(np.ptp(change))
        grown.append(np.min(change))
    # d/dt |W_k|^2 is one number for all layers (eq. 18); steps break it to first order.
    assert min(grown) > 0.2 and drift[1] < 0.01 * grown[1]
    np.testing.assert_allclose(drift[0] / drift[1], 2, rtol=0.05)


def aligned(depth, f):
    """An example, and the layers of a deep linear network with margin f and norms 1."""
    rng = np.random.default_rng(depth)
    units = [x / np.linalg.norm(x) for x in rng.normal(size=(depth + 1, 3))]
    units[-1] = np.ones(1)
    layers = [np.outer(b, a) for a, b in zip(units[:-1], units[1:], strict=True)]
    return f * units[0], layers


def slopes(x, ws):
    """Minus the gradients of exp(-score) of one example."""
    before = [x]
    for w in ws:
        before.append(w @ before[-1])
    back, out = np.exp(-before[-1]), []
    for w, h in zip(ws[::-1], before[-2::-1], strict=True):
        out.append(np.outer(back, h))
        back = w.T @ back
    return out[::-1]


def speeds(norms, f):
    """d/dt of each layer's norm, by the matrices."""
    x, layers = aligned(len(norms), f)
    found = slopes(x, [norm * w for norm, w in zip(norms, layers, strict=True)])
    return np.array([np.sum(w * g) for w, g in zip(layers, found, strict=True)])


def grow(depth, f, times, substeps=2):
    """Product of norms and first norm of a deep linear network, by its matrices."""
    x, ws = aligned(depth, f)
    sizes = [w.shape for w in ws]
    cuts = np.cumsum([w.size for w in ws])[:-1]

    def field(flat):
        ws = [p.reshape(s) for p, s in zip(np.split(flat, cuts), sizes, strict=True)]
        return np.concatenate([g.ravel() for g in slopes(x, ws)])

    flat, norms = np.concatenate([w.ravel() for w in ws]), []
    for a, b in zip(times[:-1], times[1:], strict=True):
        flat = runge_kutta(field, flat, b - a, substeps)
        norms.append([np.linalg.norm(p) for p in np.split(flat, cuts)])
    return np.prod(norms, axis=1), np.asarray(norms)[:, 0]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_product_of_norms_grows_by_the_corrected_law(depth):
    f, h = 0.8, 0.01
    product, _ = grow(depth, f, np.arange(0, 8, h))
    r = np.exp(f * product)
    speed = (r[2:] - r[:-2]) / (2 * h)  # central, so second order: 1e-5
    law = depth * f ** (2 / depth) * np.log(r[1:-1]) ** (2 - 2 / depth)
    np.testing.assert_allclose(speed, law, rtol=1e-4)
    printed = depth * law  # eq. 103 has K squared
    if depth > 1:
        np.testing.assert_allclose(printed / speed, depth, rtol=1e-4)


def test_eq_99_has_the_product_in_the_exponent():
    norms, f = np.array([0.5, 1.3, 2.0]), 0.8
    product, found = np.prod(norms), norms * speeds(norms, f)
    np.testing.assert_allclose(found, f * product * np.exp(-f * product), rtol=1e-9)
    printed = f * product * np.exp(-f * np.sum(norms))
    assert np.all(found > 5 * printed)
    # Eq. 101, where all norms are one number: without the printed K.
    rho = np.full(3, 1.1)
    law = f * rho**2 * np.exp(-f * rho**3)
    np.testing.assert_allclose(speeds(rho, f), law, rtol=1e-9)
    assert np.all(3 * law > 2.9 * speeds(rho, f))


def test_alpha_infinity_is_infinite():
    # The paper's R' = alpha (log R)^2 in the limit of depth K, alpha = lim f^(2/K) K^2.
    f, log_r, alphas = 0.8, 3.0, []
    depths = np.array([8, 64, 512])
    for depth in depths:
        rho = np.full(depth, (log_r / f) ** (1 / depth))  # log R is f rho^K
        growth = f * np.sum(np.prod(rho) / rho * speeds(rho, f))  # of log R
        alphas.append(np.exp(log_r) * growth / log_r**2)
    assert np.all(np.diff(alphas) > 40)
    # What has a limit is alpha / K: in the time K t the law is R' = (log R)^2.
    np.testing.assert_allclose(alphas, depths * (f / log_r) ** (2 / depths), rtol=1e-9)
    np.testing.assert_allclose(alphas[-1] / depths[-1], 1, rtol=0.01)


def test_products_grow_faster_and_single_layers_slower_with_depth():
    times = np.r_[0, np.geomspace(0.02, 500, 150)]
    ends = [grow(depth, 0.8, times, 10) for depth in (1, 2, 3)]
    products, singles = ([x[k][-1] for x in ends] for k in (0, 1))
    assert products == sorted(products) and singles == sorted(singles, reverse=True)
