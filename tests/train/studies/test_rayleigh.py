"""The study in the shape of Figure 2: its claims, and a figure with twelve panels."""

import numpy as np
import pytest

from train.studies import rayleigh

# A fifth of the steps, with a stronger decay and about half the dimension.
SMALL = rayleigh.Choices(
    dim=6,
    decay=0.02,
    decays=(0.02, 0.002),
    trials=200,
    steps=(800, 3_000, 600),
    records=50,
    parts=2,
)


@pytest.fixture(scope="module")
def rows():
    return rayleigh.compute(SMALL)


def late(values):
    return values[-10:].mean()


def test_a_larger_angle_is_faster_and_ends_higher(rows):
    fast, slow = rows[0]
    assert fast.risk[5] < 0.8 * slow.risk[5]
    assert late(fast.risk) > 2 * late(slow.risk)
    # Two dozen records after the start, with other noise.
    np.testing.assert_allclose(fast.equation[5:].mean(), fast.risk[5:].mean(), 0.1)
    assert fast.equation[5] < 0.8 * slow.equation[5]
    for line in (fast, slow):
        np.testing.assert_allclose(late(line.equation), line.predicted_risk, rtol=0.15)
        # Ten records of 200 trials; the strong decay is coarse, with steps of 8°.
        np.testing.assert_allclose(late(line.risk), line.predicted_risk, rtol=0.15)
        np.testing.assert_allclose(late(line.angle), line.predicted_angle[-1], 0.05)


def test_the_risk_escapes_after_a_decay_unless_the_weights_are_rescaled(rows):
    plain, rescaled = rows[1]
    half = plain.risk.size // 2
    assert late(plain.risk[:half]) > 1.5 * plain.predicted_risk
    assert plain.risk[half:].min() < 0.65 * plain.predicted_risk
    assert rescaled.risk[half:].min() > 0.75 * plain.predicted_risk
    # The rescaled angle is in equilibrium from the first record after the decay.
    end = rescaled.predicted_angle[-1]
    np.testing.assert_allclose(rescaled.angle[half:], end, rtol=0.15)
    assert plain.angle[half] < 0.5 * end
    np.testing.assert_allclose(plain.norm, plain.predicted_norm, rtol=0.05)
    np.testing.assert_allclose(rescaled.norm, rescaled.predicted_norm, rtol=0.05)


def test_rate_and_decay_make_up_for_another_start(rows):
    first, moved, adjusted = rows[2]
    # Rounding, amplified by 600 steps in float32.
    np.testing.assert_allclose(adjusted.risk, first.risk, rtol=1e-2)
    np.testing.assert_allclose(adjusted.norm, 10 * first.norm, rtol=1e-2)
    assert moved.risk[5] > 1.5 * first.risk[5]
    np.testing.assert_allclose(late(moved.risk), late(first.risk), rtol=0.1)
    np.testing.assert_allclose(moved.norm[10:], moved.predicted_norm[10:], rtol=0.1)


def test_only_the_limit_of_the_rayleigh_quotient_falls_with_the_decay(rows):
    fast, slow = rayleigh.quadratic_limits(SMALL)
    # Each of five directions by hand: eta^2 / (1 - (1 - eta (1 + lambda))^2).
    np.testing.assert_allclose(fast, 5 / 2 * 0.25 / (1 - 0.49**2), rtol=1e-3)
    assert 1 < slow / fast < 1.02
    assert late(rows[0][0].loss) > 2 * late(rows[0][1].loss)


def test_table_and_figure_show_every_line(rows, tmp_path):
    text = rayleigh.table(rows)
    assert [text.count(line.label) for row in rows for line in row].count(0) == 0
    assert len(text.splitlines()) == 2 + 2 + 2 + 3
    rayleigh.draw(tmp_path / "rayleigh.png", rows, SMALL)
    assert (tmp_path / "rayleigh.png").stat().st_size > 50_000
    assert "p = 6, spectrum 0 and 5 times 1" in SMALL.describe()
