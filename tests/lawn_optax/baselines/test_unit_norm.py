"""The four techniques of descent under norm constraints, against their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lawn_optax import baselines
from tests.support.asserts import assert_same_bits

METHODS = ("lagrange", "coefficient", "tangent", "natural")
EXACT = ("lagrange", "coefficient", "natural")  # keep the norm to rounding
every_method = pytest.mark.parametrize("method", METHODS)


def multiplier(v, g):
    """The root of |v + g - k v| = 1 that is 0 without a step (Theory III, eq. 15)."""
    return 1 + v @ g - np.sqrt(1 - g @ g + (v @ g) ** 2)


def reference(method, v, g):
    """One step g from the unit vector v, from the formulas."""
    t = g - (v @ g) * v
    if method == "lagrange":
        return v + g - multiplier(v, g) * v
    if method == "coefficient":
        return (v + g) / np.sqrt(np.sum((v + g) ** 2))
    if method == "tangent":
        return v + t
    angle = np.sqrt(t @ t)
    return np.cos(angle) * v + np.sin(angle) * t / angle


@functools.cache
def stepper(method):
    tx = baselines.unit_norm(method)
    return tx.init, jax.jit(tx.update)


def taken(method, w, u):
    """The weights after one update of the library, as NumPy."""
    init, update = stepper(method)
    w, u = jnp.asarray(w), jnp.asarray(u)
    return np.asarray(w + update(u, init(w), w)[0], np.float64)


def draw(seed, size=7):
    """A unit vector and a step with radial and tangent parts, |t| near 0.5."""
    rng = np.random.default_rng(seed)
    v, g = rng.normal(size=(2, size))
    return v / np.linalg.norm(v), 0.6 * g / np.linalg.norm(g)


# --- one step -------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("norm", [1.0, 0.03, 40.0])
def test_a_step_is_that_of_the_formula_in_units_of_the_norm(method, norm, x64):
    for seed in range(3):
        v, g = draw(seed)
        expected = norm * reference(method, v, g)
        # A few roundings of float64.
        np.testing.assert_allclose(
            taken(method, norm * v, norm * g), expected, rtol=1e-13, atol=1e-14 * norm
        )


def test_the_multiplier_with_the_product_inside_the_root_loses_the_norm():
    for seed in range(3):
        v, g = draw(seed)
        printed = 1 - np.sqrt(1 - g @ g + (v @ g) ** 2 + v @ g)
        assert abs(np.linalg.norm(v + g - printed * v) - 1) > 0.02
        # The corrected one is what `reference` above steps with.
        assert abs(np.linalg.norm(v + g - multiplier(v, g) * v) - 1) < 1e-14


@every_method
def test_each_group_has_a_norm_of_its_own(method, x64):
    (v, g), (a, b) = draw(0), draw(1)
    params = {"one": {"w": 2 * v[:5], "b": 2 * v[5:]}, "two": {"w": 3 * a}}
    updates = {"one": {"w": 2 * g[:5], "b": 2 * g[5:]}, "two": {"w": 3 * b}}
    params, updates = jax.tree.map(jnp.asarray, (params, updates))
    init, update = stepper(method)
    moved = optax.apply_updates(params, update(updates, init(params), params)[0])
    one = np.concatenate([moved["one"]["w"], moved["one"]["b"]])
    np.testing.assert_allclose(one, 2 * reference(method, v, g), rtol=1e-13)
    np.testing.assert_allclose(moved["two"]["w"], 3 * reference(method, a, b), 1e-13)


@pytest.mark.parametrize("method", EXACT)
def test_a_norm_that_was_changed_elsewhere_returns_to_the_captured_one(method, x64):
    (v, g), (init, update) = draw(2), stepper(method)
    w = jnp.asarray(5 * v)
    _, state = update(jnp.asarray(g), init(w), w)
    off = 1.01 * w
    back = off + update(jnp.asarray(g), state, off)[0]
    np.testing.assert_allclose(np.linalg.norm(back), 5, rtol=1e-14)


# --- orders in the step size ----------------------------------------------------------


def ratios(errors):
    return np.asarray(errors[:-1]) / np.asarray(errors[1:])


def test_one_step_of_all_four_agrees_to_first_order(x64):
    v, g = draw(3)
    steps = 0.1 * 0.5 ** np.arange(4)
    ends = {m: [taken(m, v, eta * g) for eta in steps] for m in METHODS}
    first = [np.linalg.norm(w - (v + eta * (g - (v @ g) * v)))
             for w, eta in zip(ends["natural"], steps, strict=True)]  # fmt: skip
    # Halving the step quarters what is of second order; the next order adds 10%.
    assert np.all(np.abs(ratios(first) - 4) < 0.4)
    for method in ("coefficient", "tangent"):
        apart = np.linalg.norm(np.subtract(ends[method], ends["natural"]), axis=1)
        assert np.all(np.abs(ratios(apart) - 4) < 0.4), method
    # A chord and its arc differ in the third order alone.
    apart = np.linalg.norm(np.subtract(ends["lagrange"], ends["natural"]), axis=1)
    assert np.all(np.abs(ratios(apart) - 8) < 0.8)


def flow(method, steps, time=2.0, c=1.5):
    """Descent on <w, H w> / 2 over a time, in `steps` steps; the end and its norm."""
    h = jnp.diag(jnp.asarray([1.0, 2.0, 4.0]))
    tx = optax.chain(optax.sgd(time / steps), baselines.unit_norm(method))

    def body(_, carry):
        w, state = carry
        updates, state = tx.update(h @ w, state, w)
        return optax.apply_updates(w, updates), state

    w = c * jnp.asarray([2.0, 1.0, 2.0]) / 3
    run = jax.jit(lambda w: jax.lax.fori_loop(0, steps, body, (w, tx.init(w)))[0])
    return np.asarray(run(w))


@every_method
def test_over_a_fixed_time_the_methods_follow_one_flow_to_first_order(method, x64):
    # The flow w' = -P H w on the sphere is the free flow w' = -H w, normalised.
    free = np.exp(-2.0 * np.array([1.0, 2.0, 4.0])) * np.array([2.0, 1.0, 2.0])
    exact = 1.5 * free / np.linalg.norm(free)
    ends = [flow(method, steps) for steps in (400, 800, 1600)]
    direction = [w / np.linalg.norm(w) * 1.5 - exact for w in ends]
    # Halving the step halves the error; the next order adds a few per cent.
    np.testing.assert_allclose(
        ratios([np.linalg.norm(x) for x in direction]), 2, rtol=0.05
    )
    off = [abs(np.linalg.norm(w) / 1.5 - 1) for w in ends]
    if method in EXACT:
        assert max(off) < 1e-15 * 1600  # a rounding a step at the very most
    else:  # second order a step, hence first order over the time
        np.testing.assert_allclose(ratios(off), 2, rtol=0.05)
        assert off[0] > 1e-4


def test_the_norm_of_the_tangent_method_grows_as_its_formula_says(x64):
    v, g = draw(4)
    for eta in (0.1, 0.05):
        t = eta * (g - (v @ g) * v)
        grown = np.linalg.norm(taken("tangent", v, eta * g))
        np.testing.assert_allclose(grown, np.sqrt(1 + t @ t), rtol=1e-15)


# --- the edges ------------------------------------------------------------------------


def test_a_step_too_long_for_a_multiplier_turns_by_a_right_angle(x64):
    v, g = draw(5)
    t = g - (v @ g) * v
    for length in (1.0, 1.5, 1e6):
        long = length * g / np.linalg.norm(t)  # the tangent part has this length
        with np.errstate(invalid="ignore"):
            assert length == 1 or np.isnan(multiplier(v, long))
        moved = taken("lagrange", 3 * v, 3 * long)
        # Near |t| = 1 the root is steep: a rounding of 1e-16 turns by its root.
        np.testing.assert_allclose(moved, 3 * t / np.linalg.norm(t), atol=1e-7)
        np.testing.assert_allclose(np.linalg.norm(moved), 3, rtol=1e-14)


def test_a_great_circle_goes_round(x64):
    v, g = draw(6)
    t = g - (v @ g) * v
    full = 2 * np.pi * t / np.linalg.norm(t)
    np.testing.assert_allclose(taken("natural", 3 * v, 3 * full), 3 * v, rtol=1e-13)
    np.testing.assert_allclose(taken("natural", v, full / 2), -v, rtol=1e-13)


@every_method
def test_no_step_and_a_radial_step_do_not_turn(method, x64):
    v, _ = draw(7)
    assert_same_bits(taken(method, v, 0 * v), v)
    np.testing.assert_allclose(taken(method, v, -0.7 * v), v, rtol=1e-13)


@pytest.mark.parametrize("method", ["lagrange", "natural"])
def test_a_nearly_radial_update_is_as_exact_as_its_tangent_part(method):
    v, g = (x.astype(np.float32) for x in draw(8, size=200))
    u = np.float32(100) * v + g  # |u|^2 - <u,v>^2 would be off by 1e-3
    wide_u = u.astype(np.float64)
    expected = reference(method, v / np.linalg.norm(v.astype(np.float64)), wide_u)
    # float32: 100 times a rounding of 6e-8 in the projection.
    moved = taken(method, v, u)
    np.testing.assert_allclose(moved, expected, atol=3e-6)
    np.testing.assert_allclose(np.linalg.norm(moved), 1, rtol=1e-6)


@pytest.mark.parametrize("method", EXACT)
def test_an_update_whose_square_overflows_leaves_weights_of_their_norm(method):
    v, g = draw(9)
    moved = taken(method, v.astype(np.float32), (1e30 * g).astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(moved), 1, rtol=1e-6)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'tangent', 'natural', got 'true'"):
        baselines.unit_norm("true")
