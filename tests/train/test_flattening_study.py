"""The study of loss flattening: its quantities, and both data sets at a small size."""

import dataclasses

import curvature_cases as cases
import numpy as np
import optax
import pytest
import ratings
from curvature_cases import close

from train.__main__ import main
from train.studies import flattening
from train.studies.flattening import Choices, Problem

SMALL = Choices(seeds=2, epochs=3, points=2, sample=8, iterations=2)


def header_and_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return cells[0], cells[2:]


def test_quantities_of_logistic_regression():
    params, (x, y) = cases.logistic_data()
    sign = lambda labels: 2.0 * labels - 1  # noqa: E731
    problem = Problem(
        lambda w, x: x[..., :3] @ w["a"] + x[..., 3:] @ w["b"],
        lambda z, labels: optax.sigmoid_binary_cross_entropy(z, labels),
        lambda z, labels: sign(labels) * z,
        *(x, (y + 1) / 2, 3, 110),
    )
    values = flattening.measure(problem, Choices(sample=4, iterations=6), params)
    gradients, hessians = cases.logistic_dense(params, (x, y))
    w = np.concatenate([params["a"], params["b"]]).astype(np.float64)
    margins = y * (x @ w)
    loss = np.logaddexp(0, -margins).mean()
    product = np.linalg.norm(w[:3]) * np.linalg.norm(w[3:])
    few = hessians[:4]
    noise = (few @ few).mean(0) - few.mean(0) @ few.mean(0)
    step = np.eye(5) - 0.3 * few.mean(0)
    eq19 = step @ step + 0.09 * (110 - 3) / (3 * 109) * noise - np.eye(5)
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
        # Growth is 0 in a direction that four examples do not have.
        close(values[name], value, 1e-4, atol=1e-6 if name == "growth" else 0)


def test_digits_at_a_small_size(tmp_path, monkeypatch):
    monkeypatch.setattr(flattening, "Choices", lambda: SMALL)
    text = flattening.report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flattening.png"]
    header, rows = header_and_rows(text)
    assert [row[0] for row in rows] == list(flattening.DIGITS)
    values = {row[0]: float(row[header.index("loss")].split()[0]) for row in rows}
    # Three epochs, six steps: each learns something, and at its own rate.
    assert values["adam-lawn"] < values["adam"] < 2.4
    assert "rate 0.3" in text and "3 epochs, 2 seeds" in text


@pytest.mark.parametrize("full", [False, True])
def test_movielens_at_a_small_size(full, tmp_path, monkeypatch):
    data, out = tmp_path / "ml-100k", tmp_path / "run"
    ratings.write_raw(data, "ml-100k", ratings.some_ratings(0))
    small = dataclasses.replace(SMALL, points=1)
    monkeypatch.setattr(flattening, "_FULL" if full else "_SHORT", small)
    flags = ["--full"] if full else []
    assert (
        main(["study", "flattening", f"--data-dir={data}", f"--out={out}"] + flags) == 0
    )
    text = (out / "findings.md").read_text()
    header, rows = header_and_rows(text)
    assert [row[0] for row in rows] == ["adam", "adam-lawn"]
    assert header[-1] == "HR@10" and 0 <= float(rows[0][-1].split()[0]) <= 1
    assert ("ML-100k, batch 100,000" in text) == full
    assert (out / "flattening.png").is_file()
