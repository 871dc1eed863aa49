"""The study of loss flattening: its quantities, and both data sets at a small size."""

import dataclasses
from functools import partial

import jax
import numpy as np
import optax
import pytest

from tests.support import curvature as cases
from tests.support import rating_files as ratings
from tests.support.asserts import close
from tests.support.findings import reported
from train.__main__ import main
from train.studies import flattening
from train.studies.flattening import Choices, Problem

ALL = [*flattening.PANELS, "curvature residual", "growth residual", "smallest margin"]
SMALL = Choices(seeds=2, epochs=12, points=2, sample=8, iterations=2)


def header_and_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return cells[0], cells[2:]


def test_quantities_of_logistic_regression():
    params, (x, y) = cases.logistic_data()
    sign = lambda labels: 2.0 * labels - 1  # noqa: E731
    problem = Problem(
        lambda w, x: x[..., :3] @ w["one"]["a"] + x[..., 3:] @ w["two"]["b"],
        lambda z, labels: optax.sigmoid_binary_cross_entropy(z, labels),
        lambda z, labels: sign(labels) * z,
        x,
        (y + 1) / 2,
        3,
        110,
    )
    layers = {"one": {"a": params["a"]}, "two": {"b": params["b"]}}
    choices = Choices(sample=4, iterations=6, rate=30.0)
    values = jax.jit(partial(flattening.measure, problem, choices))(layers)
    gradients, hessians = cases.logistic_dense(params, (x, y))
    w = np.concatenate([params["a"], params["b"]]).astype(np.float64)
    margins = y * (x @ w)
    loss = np.logaddexp(0, -margins).mean()
    product = np.linalg.norm(w[:3]) * np.linalg.norm(w[3:])
    few = hessians[:4]
    noise = (few @ few).mean(0) - few.mean(0) @ few.mean(0)
    step = np.eye(5) - 30 * few.mean(0)
    eq19 = step @ step + 900 * (110 - 3) / (3 * 109) * noise - np.eye(5)
    exact = {
        "share": (margins > 2.5).mean(),
        "loss": loss,
        "gradient noise": gradients.var(0).sum(),
        "curvature": cases.largest(hessians.mean(0)),
        "Hessian noise": cases.largest(noise),
        "growth": cases.largest(eq19),
        "smoothed margin": -np.log(np.expm1(loss)) / product,
        "smallest margin": margins.min() / product,
    }
    assert 0 < exact["share"] < 1
    for name, value in exact.items():
        close(values[name], value, 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("all_work_is_reported")
def test_digits_at_a_small_size(tmp_path, monkeypatch):
    two = dict(list(flattening.DIGITS.items())[:2])
    monkeypatch.setattr(flattening, "DIGITS", two)
    monkeypatch.setattr(flattening, "Choices", lambda: SMALL)
    text = reported(tmp_path, flattening.report())
    assert [path.name for path in tmp_path.iterdir()] == ["flattening.png"]
    header, rows = header_and_rows(text)
    assert [row[0] for row in rows] == ["adam", "adam-lawn"]
    values = {row[0]: float(row[header.index("loss")].split()[0]) for row in rows}
    # 24 steps: each learns something, at its own rate.
    assert values["adam-lawn"] < values["adam"] < 2.4
    assert "rate 0.3" in text and "12 epochs, 2 seeds" in text


@pytest.fixture
def movielens(tmp_path):
    folder = tmp_path / "ml-100k"
    ratings.write_raw(folder, "ml-100k", ratings.some_ratings(0, items=300))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("all_work_is_reported")
def test_movielens_at_a_small_size(movielens, tmp_path, monkeypatch):
    def loss_alone(problem, choices, params):
        logits = problem.apply(params, problem.inputs)
        loss = problem.loss(logits, problem.labels).mean()
        return {name: loss for name in ALL if name != "score"}

    small = dataclasses.replace(SMALL, epochs=1, points=1)
    monkeypatch.setattr(flattening, "SHORT", small)
    monkeypatch.setattr(flattening, "measure", loss_alone)
    out = tmp_path / "run"
    flags = [f"--data-dir={movielens}", f"--out={out}"]
    assert main(["study", "flattening", *flags]) == 0
    assert (out / "flattening.png").is_file()
    header, rows = header_and_rows((out / "findings.md").read_text())
    assert [row[0] for row in rows] == ["adam", "adam-lawn"]
    assert header[-1] == "HR@10" and 0 < float(rows[0][-1].split()[0]) <= 1
    # The small first weights give logits near 0.
    loss = float(rows[0][header.index("loss")].split()[0])
    assert 0.1 < loss < 0.7


@pytest.mark.slow
def test_the_full_size_is_the_recommender_s_own(movielens, tmp_path, monkeypatch):
    seen = {}

    def note(task, data, trial, switch):
        seen[trial["switch_step"].item()] = task, trial, switch

    values = {name: np.ones((1, 2)) for name in ALL}
    curves = flattening.Curves(np.array([1]), values, np.nan)
    monkeypatch.setattr(flattening, "_recommender", note)
    monkeypatch.setattr(flattening, "follow", lambda *args: curves)
    text, _ = flattening.report(movielens, full=True)
    assert "ML-100k, batch 100,000, 300 epochs, 3 seeds" in text
    (adam, rate, none), (lawn, lawn_rate, switch) = seen[0], seen[50]
    assert adam.model.features == lawn.model.features == (128, 64, 1)
    assert np.isnan(none) and switch == 50
    assert rate["learning_rate"] == np.float32(1e-3)
    assert lawn_rate["learning_rate"] == np.float32(1.4e-3)
