"""The study of constrained descent: its numbers against their equations, its figure."""

import matplotlib.image
import numpy as np
import pytest

from train.studies import constrained


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


def test_the_figure_is_drawn(paths, tmp_path):
    file = tmp_path / "constrained.png"
    growths = {k: constrained.growth(k) for k in (1, 2, 3)}
    constrained.figure(file, paths, growths)
    assert matplotlib.image.imread(file).shape[:2] == (1050, 1000)
