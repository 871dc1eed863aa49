"""The study of polynomials: its closed forms against loops and dense algebra."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from scipy.interpolate import BarycentricInterpolator

from lawn_optax import baselines
from tests.support.findings import reported
from train.studies import polynomials as study
from train.studies import polynomials_smallest_norm as smallest_norm


def uniform(degree, seed=0):
    return study.polynomial(np.random.default_rng(seed).uniform(-1, 1, 9), degree)


def slope(fit, w):
    return fit.features.T @ (fit.features @ w - fit.targets) / len(fit.targets)


@pytest.mark.parametrize("degree", [4, 30])
@pytest.mark.parametrize("power", [None, 0.9, 0.5])
def test_the_course_is_that_of_single_updates(degree, power):
    # Uniform points have eigenvalues from 1e-10 to 5; steps are 0.2 times as long.
    fit = uniform(degree)
    w = np.random.default_rng(1).normal(size=degree + 1)
    times, noise = np.array([0, 1, 700, 1500]), np.random.default_rng(2)
    found = study.descend(
        fit,
        w[None],
        times,
        power=power,
        kick=0.3,
        until=700,
        rng=np.random.default_rng(2),
    )
    expected = [w]
    for n in range(1, 1501):
        if n == 2:  # after the record at 1; there is no noise at 0 and 700
            w = w + 0.3 * noise.normal(size=(1, degree + 1))[0]
        s = 0 if power is None else (n + 1) ** -power
        w = (1 - s) * (w - 0.2 * slope(fit, w))
        if n in times:
            expected.append(w)
    # 1,500 rounding errors of a few units.
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9, atol=1e-11)


def test_a_step_beyond_the_curvature_turns_the_sign():
    fit = study.polynomial(0.9 + 0.01 * np.arange(9.0), 30)  # all near one end
    eigenvalues = np.linalg.svd(fit.features / 3)[1] ** 2
    assert 1 < 0.2 * eigenvalues[0] < 2
    w = np.ones(31)
    for power in (None, 0.75):
        found = study.descend(fit, w[None], np.array([0, 7]), power=power)
        expected = w
        for n in range(1, 8):
            s = 0 if power is None else (n + 1) ** -power
            expected = (1 - s) * (expected - 0.2 * slope(fit, expected))
        np.testing.assert_allclose(found[-1, 0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_nmgd_is_that_of_the_library():
    fit = study.polynomial(study.chebyshev(9), 39)
    tx = baselines.nmgd(0.2, 0.9)

    def body(_, carry):
        w, state = carry
        updates, state = tx.update(slope(fit, w), state, w)
        return w + updates, state

    w = jnp.ones(40)
    ours = jax.lax.fori_loop(0, 500, body, (w, tx.init(w)))[0]
    found = study.descend(fit, np.ones((1, 40)), np.array([0, 200, 500]), power=0.9)
    np.testing.assert_allclose(found[-1, 0], ours, rtol=1e-9, atol=1e-12)


def test_what_perturbations_leave_behind():
    # Dense algebra moves each perturbed solution to the nearest that fits the points.
    fit = study.polynomial(study.chebyshev(9), 39)
    inverse = np.linalg.pinv(fit.features)
    noise = study.NOISE * np.random.default_rng(0).normal(size=(20_000, 40))
    # Each noise comes with its negative, so that terms linear in it cancel.
    kicked = np.concatenate([noise, -noise]) + inverse @ fit.targets
    settled = kicked - (kicked @ fit.features.T - fit.targets) @ inverse.T
    found = study.measure(fit, np.array([1]), settled[None])
    np.testing.assert_allclose(found.training, 0, atol=1e-20)
    before = np.mean(
        (fit.test_features @ inverse @ fit.targets - fit.test_targets) ** 2
    )
    added = found.test[0].reshape(2, -1).mean(axis=0) - before
    # Four standard errors.
    error = 4 * added.std() / np.sqrt(len(added))
    assert error < 0.5 * study.hidden_risk()
    assert abs(added.mean() - study.hidden_risk()) < error
    square = (found.norm[0] ** 2).reshape(2, -1).mean(axis=0)
    error = 4 * square.std() / np.sqrt(len(square))
    assert abs(square.mean() - study.random_walk(np.array(1)) ** 2) < error


def test_smallest_norms_are_those_of_dense_algebra():
    # With few points, float64 gives some correct digits; this uses all monomials.
    points, tests = 6, 10
    x, at = study.chebyshev(points), np.linspace(-1, 1, tests)
    found = study.smallest_norms((3, 5, 9, 21), points, tests)
    np.testing.assert_array_equal(found.monomials, [4, 6, 10, 22])
    for k, monomials in enumerate(found.monomials):
        powers = np.arange(monomials)
        w = np.linalg.pinv(x[:, None] ** powers) @ study.target(x)
        error = np.mean((at[:, None] ** powers @ w - study.target(at)) ** 2)
        np.testing.assert_allclose(found.exact[k], error, rtol=1e-9)
        np.testing.assert_allclose(found.rounded[k], error, rtol=1e-9)


def test_the_exact_sine_has_more_digits_than_float64():
    with localcontext(prec=60):
        # The sine of a tenth is known.
        frequency = Decimal(2 * np.pi * 4)
        tenth = Decimal("0.1") / frequency
        sine = smallest_norm.exact_target(np.array([tenth]))[0]
        known = Decimal("0.09983341664682815230681419841062202698991538801798225999277")
        assert abs(sine - known) < Decimal("1e-58")
        x = np.array([Decimal(1), Decimal("-0.37")])
    np.testing.assert_allclose(
        smallest_norm.exact_target(x).astype(float), study.target(x.astype(float)),
        rtol=1e-12, atol=1e-14,
    )  # fmt: skip


def test_as_many_monomials_as_points_interpolate():
    # At condition number 1e14 float64 loses the digits; interpolation and we do not.
    x, at = study.chebyshev(40), np.linspace(-1, 1, 50)
    exact = BarycentricInterpolator(x, study.target(x))(at)
    found = study.smallest_norms((39,), 40, 50)
    error = np.mean((exact - study.target(at)) ** 2)
    # Errors of 1e-6 of values near 1 leave nine digits.
    np.testing.assert_allclose(found.exact, error, rtol=1e-6)


@pytest.fixture(scope="module")
def found():
    return study.courses(runs=4)


@pytest.fixture(scope="module")
def norms():
    return study.smallest_norms((5, 51, 75, 99, 151, 299))


def test_the_paper_s_claims(found, norms):
    end = {name: course.test[-1].mean() for name, course in found.items()}
    assert end["degree 30, uniform points"] > 10
    for name in ("degree 4, nodes", "degree 4, nodes, perturbed"):
        assert end[name] < 0.5
    least = np.linalg.norm(study.smallest(study.polynomial(study.chebyshev(9), 39)))
    walk, nmgd = (found[f"degree 39, {name}"] for name in ("descent", "NMGD"))
    # 41 perturbations of the 31 hidden numbers, in four runs.
    expected = study.random_walk(np.array(41))
    np.testing.assert_allclose(walk.norm[-1].mean(), expected, rtol=0.1)
    np.testing.assert_array_equal(walk.norm[-20:].std(axis=0) < 1e-3, True)
    np.testing.assert_allclose(nmgd.norm[-1], least, rtol=0.01)
    # The error falls, then rises; float64 is worse from 52 monomials on.
    assert np.argmin(norms.exact) in (2, 3) and norms.exact[-1] > 1e-4
    # With a sine in float64 the least error would be 5e-31.
    assert 1e-59 < norms.exact[2] < 1e-58 and np.all(
        norms.rounded[1:] > 10 * norms.exact[1:]
    )


def test_the_report_and_the_figure(found, norms, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "courses", lambda progress: found)
    monkeypatch.setattr(study, "smallest_norms", lambda progress: norms)
    assert len(found) == study.COURSES
    text = reported(tmp_path, study.report())
    assert "means over 4 runs" in text and "41 perturbations" in text
    assert "after 127 updates, 0.4840, and ends at 0.4963, above the 0.4950" in text
    assert "| 76 " in text
    assert "to 22.64 in expectation, from the smallest, 15.98" in text
    assert all(f"| {name} " in text for name in found)
    assert matplotlib.image.imread(tmp_path / "polynomials.png").shape[:2] == (
        880,
        1430,
    )
