"""The toy of Li and Arora's section 3, and small runs of the comparison."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.digits.experiment import load_data
from train.studies import exponential as study
from train.studies import exponential_toy as toy


@pytest.mark.usefixtures("x64")
def test_the_printed_gradient_of_case_3_ascends():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=4), rng.normal(size=4)
    y, length = np.sign(x[0]), np.linalg.norm(w)
    tangent = x - (w @ x) / length**2 * w
    printed = y / (1 + np.exp(x @ w / length * y)) * tangent / length
    gradient = jax.grad(toy.loss)(jnp.asarray(w), jnp.asarray(x), True)
    np.testing.assert_allclose(gradient, -printed, rtol=1e-12)

    def loss(v):
        return np.log1p(np.exp(-(x @ v) / np.linalg.norm(v) * y))

    assert loss(w - 0.01 * printed) > loss(w) > loss(w + 0.01 * printed)
    plain = jax.grad(toy.loss)(jnp.asarray(w), jnp.asarray(x), False)
    np.testing.assert_allclose(plain, -y * x / (1 + np.exp(x @ w * y)), rtol=1e-12)


def test_the_error_is_the_angle_over_pi():
    w = np.array([1.0, 0.7, -0.4])
    x = np.random.default_rng(0).normal(size=(200_000, 3))
    wrong = np.mean(x @ w * np.sign(x[:, 0]) <= 0)
    angle = np.arccos(w[0] / np.linalg.norm(w))
    curves = toy.Curves(jnp.asarray(angle), jnp.asarray(1.0))
    # Four standard errors of 200,000 samples; the angle itself is 3.1 times that.
    assert abs(wrong - float(curves.error)) < 4 * np.sqrt(0.25 / 200_000)


@pytest.mark.usefixtures("x64")
def test_eq_17_bounds_the_gradient_without_the_rate():
    size, count = 16, 2_000
    rng = np.random.default_rng(0)
    w, xs = rng.normal(size=size), rng.normal(size=(count, size))
    length = np.linalg.norm(w)
    along = xs @ w / length
    across = np.linalg.norm(xs - along[:, None] * w / length, axis=1)
    happens = (np.abs(along) < 1) & (across >= np.sqrt(size) / 4)  # eqs. 15 and 16
    assert happens.mean() > 1 / 6
    gradients = jax.vmap(jax.grad(toy.loss), (None, 0, None))
    found = gradients(jnp.asarray(w), jnp.asarray(xs[happens]), True)
    found = np.linalg.norm(found, axis=1)
    bound = np.sqrt(size) / (4 * length) / (1 + np.e)
    assert np.all(found >= bound)
    # As printed the bound grows with the rate, and the gradient does not.
    rate = 30.0
    assert np.all(found < rate * bound)


def test_theorem_3_1_by_hand_and_its_condition():
    common = {"rate": 0.1, "weight_decay": 0.1, "dimension": 16, "delta": np.exp(-1)}
    # 32 * 25 * 0.05 / (0.1 * 4) = 100; twice 0.01 - 2 * 0.05^2 is 0.01.
    steps = toy.nonconvergence_steps(0.05, norm=5.0, **common)
    np.testing.assert_allclose(steps, np.log(100) / 0.01 + 6, rtol=1e-12)
    # Short weights need no time to shrink.
    np.testing.assert_allclose(toy.nonconvergence_steps(0.05, norm=0.1, **common), 6)
    with pytest.raises(ValueError, match="angle below 0.0707107"):
        toy.nonconvergence_steps(0.0708, norm=5.0, **common)


def test_weight_decay_or_normalization_converges_and_both_do_not():
    steps, rate, decay, dimension = 4_000, 0.1, 0.05, 4
    common = {"rate": rate, "dimension": dimension, "steps": steps, "seeds": 16}
    both = toy.curves(normalized=True, weight_decay=decay, **common)
    alone = toy.curves(normalized=True, weight_decay=0.0, **common)
    plain = toy.curves(normalized=False, weight_decay=decay, **common)
    last = slice(steps // 2, None)
    angles = {k: np.asarray(v.angle) for k, v in
              {"both": both, "alone": alone, "plain": plain}.items()}  # fmt: skip
    middle = {name: np.median(a[:, last]) for name, a in angles.items()}
    assert middle["both"] > 2 * middle["alone"] and middle["both"] > 2 * middle["plain"]
    # Case 2: the fourth power of the norm grows linearly, so the angle keeps falling.
    fourth = np.asarray(alone.norm).mean(0) ** 4
    growth = (fourth[-1] - fourth[2000]) / (fourth[2000] - fourth[0])
    assert 0.7 < growth < 1.2
    # Theorem 3.1: the angle exceeds epsilon in all windows of that length except a
    # share of at most delta.
    epsilon, delta = 0.03, 0.01
    norm = float(np.asarray(both.norm)[:, steps // 2 :].max())
    window = int(np.ceil(toy.nonconvergence_steps(
        epsilon, rate=rate, weight_decay=decay, dimension=dimension, norm=norm,
        delta=delta)))  # fmt: skip
    assert window < steps // 2
    late = angles["both"][:, last]
    windows = np.lib.stride_tricks.sliding_window_view(late, window, axis=1)
    assert np.mean(windows.max(-1) <= epsilon) <= delta
    # Smaller angles do occur.
    assert late.min() < epsilon


SMALL = study.Config(steps=12, batch_size=32, channels=3, blocks=1, eval_every=4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_both_schedules_train_alike_and_are_drawn(tmp_path):
    config = dataclasses.replace(SMALL, weight_decay=0.02)
    train = study.trainer(config, load_data(0))
    curves = study.compare(train, study.equivalents(config))
    assert {len(v) for run in curves.values() for v in run} == {3}
    decayed = curves["step decay, weight decay"]
    growing = curves["exponential equivalent"]
    # float64, a dozen updates.
    np.testing.assert_allclose(growing.loss, decayed.loss, rtol=1e-12)
    np.testing.assert_allclose(growing.angle, decayed.angle, rtol=1e-11)
    exact = study.equivalents(config)["exponential equivalent"][0]
    growth = np.exp(exact.log_growth[[4, 8, 12]])
    np.testing.assert_allclose(growing.norm / decayed.norm, growth, rtol=1e-12)
    np.testing.assert_allclose(growing.rate, np.exp(exact.log_rates[3::4]), rtol=1e-12)
    assert growing.norm[-1] > 1.005 * decayed.norm[-1]
    np.testing.assert_allclose(decayed.rate, [0.1, 0.01, 0.001], rtol=1e-6)
    np.testing.assert_array_equal(growing.decay, 0)
    cosine, exact, tapered = (
        curves[f"{name}cosine{end}"].loss
        for name, end in (
            ("", ", weight decay"),
            ("exponential ", ""),
            ("tapered ", ""),
        )
    )
    # The rate of 0 after the last update has no equivalent; float64.
    np.testing.assert_allclose(exact, cosine, rtol=1e-12)
    assert np.abs(tapered / cosine - 1).max() > 1e-6
    again = train(*study.rounded(study.equivalents(config)["tapered exponential"]))
    difference = np.abs(again.loss / curves["tapered exponential"].loss - 1).max()
    assert 0 < difference < 1e-12
    study.draw_curves(tmp_path / "curves.png", config, curves)
    both = toy.curves(normalized=True, weight_decay=0.1, steps=9, seeds=2)
    toy.draw(tmp_path / "toy.png", {"both": both})
    for name in ("curves.png", "toy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_rate_and_decay_of_figure_5():
    once, twice = study.together(
        study.Config(steps=8, rate=0.2, weight_decay=0.3)
    ).values()
    steps = np.arange(8)
    np.testing.assert_allclose([once[0](t) for t in steps], [0.2] * 4 + [0.02] * 4)
    assert once[1] == 0.3
    both = [(float(twice[0](t)), float(twice[1](t))) for t in steps]
    wanted = [(0.2, 0.3)] * 4 + [(0.02, 3.0)] * 2 + [(0.002, 30.0)] * 2
    np.testing.assert_allclose(both, wanted, rtol=1e-6)


def test_the_paper_s_rates_at_full_size_stay_in_range():
    runs = study.equivalents(study.FULL)
    epochs = np.arange(160) * 390
    for rate, _ in runs.values():
        assert np.all(np.isfinite(rate(epochs)))
    # Figure 1: the rate grows by 1.481 per epoch. That epoch has 391 updates; ours
    # leaves out the last, smaller batch.
    first, second = runs["tapered exponential"][0](np.array([0, 391]))
    np.testing.assert_allclose(second / first, 1.481, atol=5e-4)
    # The rate is divided by 10 at the epochs that the paper names.
    rates = runs["step decay, weight decay"][0](np.arange(160 * 390))
    drops = np.flatnonzero(np.diff(rates)) + 1
    np.testing.assert_array_equal(drops, [80 * 390, 120 * 390])
