"""The study of constrained descent: its numbers against their equations, its figure."""

import matplotlib.image
import numpy as np
import pytest

from train.runs.progress import QUIET
from train.studies import constrained, constrained_lamb


def layer_norm(depth, margin, until, steps=4000):
    """Theory III, eq. 13, for one example and equal layers, by Runge and Kutta."""
    slope = lambda r: margin * r ** (depth - 1) * np.exp(-margin * r**depth)  # noqa: E731
    h, r = until / steps, 1.0
    for _ in range(steps):
        a = slope(r)
        b = slope(r + h / 2 * a)
        c = slope(r + h / 2 * b)
        r += h / 6 * (a + 2 * b + 2 * c + slope(r + h * c))
    return r


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_norms_grow_as_gradient_flow_has_it(depth):
    for margin, until in ((1.0, 100.0), (0.3, 50.0)):
        grown = constrained.growth(depth, margin, until)
        assert grown.time[-1] == until and grown.layer[0] == 1
        expected = layer_norm(depth, margin, until)
        # The integral uses trapezoids of width 1e-3 or less, and interpolates.
        np.testing.assert_allclose(grown.layer[-1], expected, rtol=1e-5)
        np.testing.assert_allclose(grown.product, grown.layer**depth, rtol=1e-12)


def test_the_printed_factor_is_as_many_times_too_fast():
    right = constrained.growth(3, until=90.0)
    printed = constrained.growth(3, until=30.0, factor=9)
    np.testing.assert_allclose(printed.product[-1], right.product[-1], rtol=1e-6)


@pytest.fixture(scope="module")
def paths():
    return constrained.margins(steps=400)


def test_every_method_approaches_the_largest_margin(paths):
    points = constrained.separable()
    best = constrained.max_margin(points)
    largest = np.min(points @ best)
    for name, path in paths.items():
        assert len(path.angle) == 401, name
        assert np.all(path.margin <= largest * (1 + 1e-6)), name
        assert path.angle[-1] < 0.15 < path.angle[0], name
        assert path.margin[-1] > 0.85 * largest, name


def test_constrained_norms_stay_and_free_ones_grow(paths):
    for name in ("Lagrange multiplier", "coefficients", "LAWN", "hyperball, 1/t"):
        np.testing.assert_allclose(paths[name].norm, 40, rtol=1e-6)  # float32
    assert 40.01 < paths["tangent gradient"].norm[-1] < 42
    for name in (
        *("gradient descent", "NMGD, a = 0.75"),
        *("weight normalisation", "unit norm, growing ρ"),
    ):
        assert paths[name].norm[-1] > 5 * paths[name].norm[0], name


@pytest.fixture(scope="module")
def lambs():
    return constrained_lamb.curves()


def test_without_decay_lamb_grows_exponentially_and_lamb_plus_does_not(lambs):
    # The trust ratio makes every update 5% of the norm, however small the gradient is;
    # also with weight decay, which is part of the update.
    for name in ("LAMB", "LAMB, weight decay 0.01"):
        np.testing.assert_allclose(lambs[name].length, 0.05, rtol=1e-9)
    lamb, capped = lambs["LAMB"], lambs["LAMB+"]
    # All weights grow by 5% in the end, and the last 100 updates by 1.05^100 = 131.5.
    np.testing.assert_allclose(lamb.norm[-1] / lamb.norm[-101], 1.05**100, rtol=1e-3)
    np.testing.assert_allclose(lamb.norm[-1], 3.935e5, rtol=0.01)
    assert lamb.gradient[0] > 0.5 and lamb.gradient[-1] == 0
    np.testing.assert_allclose(capped.norm[-1], 5.91, atol=0.05)
    np.testing.assert_allclose(capped.length[[0, -1]], [0.05, 0.0017], atol=5e-5)
    assert capped.gradient[-1] > 0.01


def test_weight_decay_or_a_fixed_norm_keeps_lamb_in_bounds(lambs):
    decayed, fixed = lambs["LAMB, weight decay 0.01"].norm, lambs["LAMB-LAWN"]
    np.testing.assert_allclose(decayed[-1], 8.57, atol=0.05)
    assert decayed.max() < 12 and decayed[-1] / decayed[-101] < 1.1
    np.testing.assert_allclose(fixed.norm, fixed.norm[0], rtol=1e-12)
    # The chord of a step of 5% along the tangent.
    np.testing.assert_allclose(fixed.length, 2 * np.sin(np.arctan(0.05) / 2), rtol=1e-6)


def test_the_findings_have_a_row_for_each_form_of_lamb():
    text = constrained_lamb.report(QUIET)
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in text.splitlines()]
    found = {row[0]: row[2] for row in rows[-4:]}
    assert found == {
        "LAMB": "5.0",
        "LAMB+": "0.2",
        "LAMB, weight decay 0.01": "5.0",
        "LAMB-LAWN": "5.0",
    }


def test_the_figure_is_drawn(paths, tmp_path):
    file = tmp_path / "constrained.png"
    growths = {k: constrained.growth(k) for k in (1, 2, 3)}
    constrained.figure(file, paths, growths)
    assert matplotlib.image.imread(file).shape[:2] == (1155, 1100)
