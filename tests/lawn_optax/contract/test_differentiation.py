"""Derivatives through updates and measurements are finite where there is nothing.

A group of zeros, a gradient of zeros, a radial gradient: nothing is divided by zero
behind a `where`, so derivatives of first and second order are finite, and
`jax_debug_nans` and `checkify` see no NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import lawn_optax as lawn
from lawn_optax import baselines, diagnostics, losses, metrics, nrq

PARAMS = {
    "zero": jnp.zeros((2, 2)),
    "idle": jnp.array([[3.0, 0.5], [4.0, 1.0]]),
    "radial": jnp.array([[1.0, 2.0], [2.0, -1.0]]),
    "moving": jnp.array([[1.0, -1.0], [2.0, 3.0]]),
}
GRADS = {
    "zero": jnp.array([[1.0, 2.0], [-1.0, 0.0]]),
    "idle": jnp.zeros((2, 2)),
    "radial": PARAMS["radial"],
    "moving": jnp.array([[0.5, 1.0], [-1.0, 2.0]]),
}
SGD = optax.sgd(0.1, 0.9)
RATE = optax.piecewise_constant_schedule(0.1, {1: 0.5})


def unit(method):
    return optax.chain(SGD, baselines.unit_norm(method, groups="leaf"))


TRANSFORMS = {
    "wrap, free": lambda: lawn.wrap(SGD, 5, groups="leaf"),
    "wrap": lambda: lawn.wrap(SGD, groups="leaf"),
    "wrap, neuron": lambda: lawn.wrap(SGD, groups="neuron"),
    "renormalize": lambda: optax.chain(
        SGD, lawn.renormalize("leaf", project=False), diagnostics.observe("leaf")
    ),
    "lamb, free": lambda: lawn.lamb(0.1, eps_root=1e-8, switch_step=5, groups="leaf"),
    "lamb": lambda: lawn.lamb_plus(0.1, eps_root=1e-8, groups="leaf"),
    "lagrange": lambda: unit("lagrange"),
    "coefficient": lambda: unit("coefficient"),
    "natural": lambda: unit("natural"),
    "hyperball": lambda: optax.chain(SGD, baselines.hyperball(0.05)),
    "layca": lambda: optax.chain(SGD, baselines.hyperball(0.05, project=True)),
    "control": lambda: optax.chain(
        SGD, baselines.weight_norm_control(0.1, groups="leaf")
    ),
    "reparametrize": lambda: baselines.reparametrize(SGD, groups="leaf"),
    "bounded": lambda: baselines.bounded_weight_norm(SGD),
    "weight_normalization": lambda: baselines.weight_normalization(SGD),
    "sgdp": lambda: baselines.sgdp(0.05),
    "nmgd": lambda: baselines.nmgd(0.1),
    "rescale": lambda: optax.chain(
        optax.sgd(RATE), lawn.rescale_on_decay(RATE, groups="leaf")
    ),
    "monitor": lambda: lawn.monitor("leaf", rtol=float("inf")),
}


def after(tx, params):
    """A function of the parameters and the state after an update."""
    updates, state = tx.update(GRADS, tx.init(params), params)
    seen = jax.tree.leaves((optax.apply_updates(params, updates), state))
    return sum(
        jnp.sum((x - 0.3) ** 2) for x in seen if jnp.issubdtype(x.dtype, jnp.inexact)
    )


def assert_finite(derivative, x):
    # `jax_debug_nans` looks at every operation, those of the derivatives too.
    with jax.debug_nans(True):
        slopes = jax.tree.leaves(derivative(x))
    assert slopes and all(np.isfinite(g).all() for g in slopes)


def of_second_order(f):
    slopes = lambda x: jax.tree.leaves(jax.grad(f)(x))  # noqa: E731
    return jax.grad(lambda x: sum(jnp.sum(g**2) for g in slopes(x)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_update_has_finite_derivatives(name):
    tx = TRANSFORMS[name]()
    assert_finite(jax.grad(lambda params: after(tx, params)), PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_update_has_finite_second_derivatives(name):
    tx = TRANSFORMS[name]()
    assert_finite(of_second_order(lambda params: after(tx, params)), PARAMS)


def test_the_rate_has_a_derivative_beside_a_group_of_zeros():
    for switch_step in (0, 5):
        with jax.debug_nans(True):
            slope = jax.grad(
                lambda rate, n=switch_step: after(
                    lawn.wrap(optax.sgd(rate), n, groups="leaf"), PARAMS
                )
            )(0.1)
        assert np.isfinite(slope) and slope != 0


@pytest.mark.slow
def test_checkify_finds_no_fault_in_an_update():
    for switch_step in (0, 5):
        tx = lawn.wrap(SGD, switch_step, groups="leaf")
        checked = checkify.checkify(
            lambda params, tx=tx: after(tx, params), errors=checkify.float_checks
        )
        error, _ = jax.jit(checked)(PARAMS)
        error.throw()


LABELS = jnp.array([0, 1])
SPECTRUM = jnp.array([1.0, 2.0, 3.0])
MEASURES = {
    "group_norms": lambda p: diagnostics.group_norms(p, groups="leaf").sum(),
    "radial_fraction": lambda p: sum(
        diagnostics.radial_fraction(u, w, groups="leaf").sum()
        for u, w in ((p, GRADS), (GRADS, p))
    ),
    "angular_update": lambda p: sum(
        diagnostics.angular_update(u, w, groups="leaf").sum()
        for u, w in ((p, GRADS), (GRADS, p), (jax.tree.map(jnp.negative, p), p))
    ),
    "effective_learning_rate": lambda p: sum(
        diagnostics.effective_learning_rate(p, 0.1, groups="leaf", power=k).sum()
        for k in (1, 2)
    ),
    "normalized_margin": lambda p: metrics.normalized_margin(
        p["idle"] - 0.5, jnp.array([2.0, 1.5])
    ).sum(),
    "losses": lambda p: sum(
        jnp.sum(x)
        for x in (
            losses.focal_loss(p["zero"], LABELS),
            losses.exponential_loss(p["idle"], LABELS),
            losses.binary_exponential_loss(p["zero"], jnp.eye(2)),
            losses.flood(p["idle"].mean(), 3.0),
            metrics.multiclass_margin(p["idle"], LABELS),
            metrics.expected_calibration_error(p["moving"], LABELS),
            metrics.hit_ratio(p["idle"], 1) + metrics.ndcg(p["zero"], 1),
        )
    ),
    "gradient_noise": lambda p: diagnostics.gradient_noise(
        lambda w, x: w["zero"][0] @ x + (w["idle"] ** 2).sum(), p, jnp.ones((2, 2))
    ).gradient_norm,
    "alignment_sde": lambda p: sum(
        jnp.sum(x)
        for x in nrq.alignment_sde(
            jnp.eye(3) + p["zero"][0, 0] + p["idle"][0, 0] * jnp.eye(3),
            SPECTRUM, 0.1, 0.1,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURES)
def test_measurements_have_finite_derivatives(name):
    assert_finite(of_second_order(MEASURES[name]), PARAMS)


def test_a_margin_of_zero_has_the_slope_of_its_neighbours():
    slope = jax.grad(lambda m: metrics.normalized_margin(m, jnp.array([2.0, 1.5])))
    np.testing.assert_allclose([slope(0.0), slope(1.0)], 1 / 3, rtol=1e-6)


def test_answers_without_a_number_raise_no_alarm():
    with jax.debug_nans(True):
        time = diagnostics.sgd_equilibrium_time(jnp.array([0.0, 0.1]), 0.1, 5e-4)
        never = diagnostics.adamw_equilibrium_time(jnp.array([0.0, 0.1]), 0.1, 0.0)
        tail = jnp.array([10.0, 0.0])
        norm = nrq.escape_norm(SPECTRUM, 0.1, 0.1, 0.01, xi=0.5, tail=tail)
        tx = lawn.wrap(SGD, lawn.switch_when(3.0, plateau=0.1), groups="leaf")
        tx.update(GRADS, tx.init(PARAMS), PARAMS, switch_value=jnp.inf)
    assert np.isinf(time[0]) and time[1] > 0 and np.isinf(never).all()
    assert np.isinf(norm[0]) and np.isfinite(norm[1])
