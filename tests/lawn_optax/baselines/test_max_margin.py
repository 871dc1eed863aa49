"""Where norm-controlled descent ends: at maximum margins.

The exponential loss enters as its logarithm, which has the same paths and is faster:
gradient flow of log L is that of L in another time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize, nnls

import lawn_optax as lawn
from lawn_optax import baselines
from tests.support.optional import partition
from tests.support.separable import (
    angle,
    layers,
    max_margin,
    network,
    separable,
    start,
)


@functools.cache
def on_sphere(norm):
    """The direction of the loss's minimum on a sphere, by small steps in NumPy."""
    z, v = separable(), max_margin()[0]
    for _ in range(20_000):
        p = np.exp(np.min(norm * z @ v) - norm * z @ v)
        g = (p @ z) / np.sum(p)
        v = v + 0.4 / norm * g
        v = v / np.linalg.norm(v)
    assert np.linalg.norm(g - (g @ v) * v) < 1e-11  # it stands still
    return v


def descend(tx, start, steps):
    z = jnp.asarray(separable())

    def loss(w):
        return jax.nn.logsumexp(-z @ w[:, 0])

    def body(_, carry):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return optax.apply_updates(w, updates), state

    run = jax.jit(lambda w: jax.lax.fori_loop(0, steps, body, (w, tx.init(w)))[0])
    return np.asarray(run(jnp.asarray(start)[:, None]))[:, 0]


def unit(method):
    return optax.chain(optax.sgd(1.0), baselines.unit_norm(method))


FIXED = {
    "lagrange": lambda: unit("lagrange"),
    "coefficient": lambda: unit("coefficient"),
    "tangent": lambda: unit("tangent"),
    "natural": lambda: unit("natural"),
    "wrap": lambda: lawn.wrap(optax.sgd(1.0)),
    "reparametrize": lambda: baselines.reparametrize(optax.sgd(1.0)),
    # A matrix of one column is one channel.
    "bounded": lambda: baselines.bounded_weight_norm(optax.sgd(1.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_fixed_norms_end_at_the_minimum_on_the_sphere(name, x64):
    end = descend(FIXED[name](), start(40.0), 6000)
    norm = np.linalg.norm(end)
    if name == "tangent":  # its norm has grown, by second order a step
        assert 40.1 < norm < 42
    else:
        np.testing.assert_allclose(norm, 40, rtol=1e-12)
    # Gradients, NumPy's too, have converged to what float64 resolves.
    assert angle(end, on_sphere(norm)) < 1e-7
    # 40 is not infinite: the SVM's direction is 0.05 away.
    assert 0.02 < angle(end, max_margin()[0]) < 0.1


def test_the_minimum_tends_to_the_maximum_margin_as_one_over_the_norm(x64):
    away = [
        angle(descend(unit("lagrange"), start(c), 12_000), max_margin()[0])
        for c in (160.0, 320.0, 640.0)
    ]
    # Halved with each doubling; the next order is exponentially small by then.
    np.testing.assert_allclose(np.divide(away[:-1], away[1:]), 2, rtol=0.05)
    assert away[-1] < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("project", [False, True], ids=["hyperball", "layca"])
def test_steps_of_fixed_length_converge_once_they_decay(project, x64):
    rate = lambda t: 1 / (t + 4.0)  # noqa: E731
    tx = optax.chain(optax.sgd(1.0), baselines.hyperball(rate, project=project))
    end = descend(tx, start(40.0), 8000)
    # Steps of 1/t can be no nearer than their own length, 1.2e-4.
    assert angle(end, on_sphere(40.0)) < 2.5e-4
    constant = optax.chain(optax.sgd(1.0), baselines.hyperball(0.1, project=project))
    assert angle(descend(constant, start(40.0), 4000), on_sphere(40.0)) > 5e-3


def test_free_norms_reach_the_maximum_margin(x64):
    best, margin = max_margin()
    ends = {
        "descent": [descend(optax.sgd(1.0), start(1.0), n) for n in (5000, 10_000)],
        "nmgd": [descend(baselines.nmgd(1.0, 0.75), start(1.0), n)
                 for n in (5000, 40_000)],
    }  # fmt: skip
    # The error is that of a sphere of the norm reached, which grows as n (descent:
    # log L falls at the rate of the margin) or as n^power (NMGD: 1/s times the rest).
    away = [angle(w, best) for w in ends["descent"]]
    np.testing.assert_allclose(away[0] / away[1], 2, rtol=0.05)
    away = [angle(w, best) for w in ends["nmgd"]]
    np.testing.assert_allclose(away[0] / away[1], 8**0.75, rtol=0.15)
    for w, n in zip(ends["nmgd"], (5000, 40_000), strict=True):
        # dw/dn = margin - w / n^a, whose solution lags n^a by a n^(a - 1) of it.
        expected = margin * n**0.75 * (1 - 0.75 * n**-0.25)
        np.testing.assert_allclose(np.linalg.norm(w), expected, rtol=0.01)
    assert max(angle(w[-1], best) for w in ends.values()) < 1.5e-3


@pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])
def test_weight_normalization_reaches_the_maximum_margin(unit, x64):
    # w turns |g / v|^2 times as fast as under descent, too fast for a constant rate
    # when g grows: the rate of v falls as that of g's square. With unit norms of v,
    # these are eqs. 12 to 14.
    # The norm of v grows otherwise, and allows a higher rate.
    slower = optax.sgd(lambda t: (1 + (0.5 if unit else 0.3) * t) ** -2.0)
    if unit:
        slower = optax.chain(slower, baselines.unit_norm("lagrange"))
    inner = partition({"v": slower, "g": optax.sgd(1.0)}, baselines.Polar("v", "g"))
    tx = baselines.weight_normalization(inner)
    ends = [descend(tx, start(1.0), n) for n in (5000, 10_000)]
    away = [angle(w, max_margin()[0]) for w in ends]
    np.testing.assert_allclose(away[0] / away[1], 2, rtol=0.1)
    assert away[1] < 1.5e-3


# --- LAWN, Appendix E, Lemma 1 --------------------------------------------------------


CUT = 24  # of the vector of all weights: matrices (4, 6) and (6, 1)


def labelled():
    """Inputs and labels; any labels will do for a network that can fit them."""
    y = np.where(np.arange(len(separable())) % 2 == 0, 1.0, -1.0)
    return y[:, None] * separable(), y


def scores(flat, kinks=False):
    """(phi, its Jacobian): the target class logits of a two-layer network, in NumPy.

    Inputs at the kink of a unit have its smaller slope there if `kinks` is an array.
    """
    (x, y), w1, w2 = labelled(), flat[:CUT].reshape(4, 6), flat[CUT:]
    h = x @ w1
    slope = np.where((h > 0) & ~np.asarray(kinks), 1.0, 0.2)  # leaky, as `network`
    first = y[:, None, None] * x[:, :, None] * (slope * w2)[:, None, :]
    second = y[:, None] * slope * h
    return second @ w2, np.concatenate([first.reshape(len(y), -1), second], axis=1)


def norms(flat):
    return np.array([np.linalg.norm(flat[:CUT]), np.linalg.norm(flat[CUT:])])


def scaled(flat, c):
    """The same directions with norms c."""
    return flat * np.repeat(c / norms(flat), (CUT, len(flat) - CUT))


def largest_on_spheres(begin):
    """Eq. 7 by sequential quadratic programming, from weights near its solution."""
    c = norms(begin)
    layer = np.repeat(np.eye(2), (CUT, len(begin) - CUT), axis=1)
    constraints = [
        {
            "type": "ineq",
            "fun": lambda x: scores(x[1:])[0] - x[0],
            "jac": lambda x: np.c_[-np.ones(len(separable())), scores(x[1:])[1]],
        },
        {
            "type": "eq",
            "fun": lambda x: norms(x[1:]) ** 2 - c**2,
            "jac": lambda x: np.c_[np.zeros(2), 2 * layer * x[1:]],
        },
    ]
    found = minimize(
        lambda x: -x[0],
        np.r_[np.min(scores(begin)[0]), begin],
        jac=lambda x: -np.eye(len(x))[0],
        method="SLSQP",
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success, found.message
    return found.x[1:]


def stationarity(flat):
    """Residual of the conditions for a maximum of eq. 7 at the norms that `flat` has.

    With multipliers a >= 0 of the smallest scores, that sum to 1, and one per sphere,
    which homogeneity makes phi / c^2: sum a_i dphi_i/dw_l = (phi / c_l^2) w_l. Maxima
    lie at kinks, where the slope of unit k for input i may be any s_ik in [0.2, 1]:
    a_i s_ik = 0.2 a_i + b_ik with 0 <= b_ik <= 0.8 a_i.
    """
    (x, y), w1, w2 = labelled(), flat[:CUT].reshape(4, 6), flat[CUT:]
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w1, axis=0)
    kinks = np.abs(x @ w1) < 1e-7 * lengths
    phi, jacobian = scores(flat, kinks)
    active = np.flatnonzero(phi < np.min(phi) * (1 + 1e-6))
    bent = [(n, k) for n, i in enumerate(active) for k in np.flatnonzero(kinks[i])]
    extra = np.zeros((len(bent), len(flat)))
    bounds = np.zeros((len(bent), len(active)))
    for row, (n, k) in enumerate(bent):
        i = active[n]
        part = np.zeros((4, 6))
        part[:, k] = y[i] * w2[k] * x[i]
        extra[row, :CUT], bounds[row, n] = part.ravel(), -0.8
    wanted = np.min(phi) * flat / np.repeat(norms(flat) ** 2, (CUT, len(flat) - CUT))
    unit, m = np.linalg.norm(wanted), len(bent)
    system = np.block(
        [
            [jacobian[active].T / unit, extra.T / unit, np.zeros((len(flat), m))],
            [np.ones((1, len(active))), np.zeros((1, 2 * m))],
            [bounds, np.eye(m), np.eye(m)],  # the last are what is left of 0.8 a
        ]
    )
    return nnls(system, np.concatenate([wanted / unit, [1.0], np.zeros(m)]))[1]


def normalised_margin(flat):
    """What eq. 6 maximises."""
    return np.min(scores(flat)[0]) / np.prod(norms(flat))


def test_normalised_and_constrained_margins_have_one_maximum(x64):
    # Lemma 1, from one start near a local maximum: trained by LAWN.
    ws = [3 * w for w in layers((4, 6, 1), seed=1)]
    x, y = map(jnp.asarray, labelled())
    tx = lawn.wrap(optax.sgd(0.02))

    def body(_, carry):
        ws, state = carry
        loss = lambda ws: jax.nn.logsumexp(-y * network(ws, x))  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(ws), state, ws)
        return optax.apply_updates(ws, updates), state

    run = jax.jit(lambda ws: jax.lax.fori_loop(0, 20_000, body, (ws, tx.init(ws)))[0])
    trained = np.concatenate([np.asarray(w).ravel() for w in run(ws)])
    held = [np.linalg.norm(w) for w in ws]
    np.testing.assert_allclose(norms(trained), held, rtol=1e-12)
    best = largest_on_spheres(trained)
    margin = normalised_margin(best)
    # LAWN is near the maximum, as its norms are finite, and has not passed it.
    assert 0.9 * margin < normalised_margin(trained) < margin
    assert stationarity(trained) > 1e-2

    # The maximum for these norms is one for all norms, in the same directions, ...
    for c in (norms(best), np.array([0.5, 3.0]), np.array([7.0, 0.1])):
        assert stationarity(scaled(best, c)) < 1e-5
        np.testing.assert_allclose(normalised_margin(scaled(best, c)), margin, 1e-12)
    # ... and one of the normalised margin among weights of any norms.
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(300):
            other = best + size * rng.normal(size=len(best))
            assert normalised_margin(other) < margin * (1 + 1e-9)
