"""The command of the studies: text, figures, errors."""

from functools import partial

import pytest

from train.__main__ import main
from train.studies import command as study
from train.studies import (
    exponential,
    rayleigh,
)
from train.studies import (
    exponential_toy as toy,
)


def test_a_study_leaves_its_findings_and_figure(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["study", "constrained", f"--out={out}"]) == 0
    output = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "constrained.png", "findings.md")
    ]
    findings = (out / "findings.md").read_text()
    assert findings.strip() in output and "| gradient descent " in findings
    # Figure 11, with the printed factor beside the right one.
    assert "| 2        | 7.06" in findings


def test_every_study_is_a_choice_with_a_sentence(capsys):
    for name in study.STUDIES:
        assert f"\n    {name}: " in study.Config.__doc__
    assert main(["study", "mathematics"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(name in error for name in study.STUDIES)


def test_the_study_of_the_rayleigh_quotient_at_a_small_size(tmp_path, monkeypatch):
    small = rayleigh.Choices(dim=4, trials=8, steps=(200, 400, 200), records=20)
    monkeypatch.setattr(rayleigh, "Choices", lambda: small)
    text = rayleigh.report(tmp_path)
    assert "p = 4, spectrum" in text and text.count("\n| a ") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["rayleigh.png"]


def test_the_study_of_exponential_rates_at_a_small_size(tmp_path, monkeypatch):
    small = exponential.Config(steps=8, eval_every=4, channels=2)
    monkeypatch.setattr(exponential, "Config", lambda: small)
    cases = {
        name: partial(case, steps=1_200, seeds=2) for name, case in toy.CASES.items()
    }
    monkeypatch.setattr(toy, "CASES", cases)
    lines = exponential.report(tmp_path).splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("exponential.png", "together.png", "toy.png")
    ]
    rows = {x.split("|")[1].strip(): x.split("|")[2:-1] for x in lines if "|" in x}
    assert {"both", "normalization alone", "weight decay alone"} < set(rows)
    decay, twin = (
        [float(cell) for cell in rows[name][:4]]
        for name in ("step decay, weight decay", "exponential equivalent")
    )
    # The same function: loss and accuracy agree, norm and rate do not.
    assert decay[:2] == pytest.approx(twin[:2], rel=1e-3)
    assert twin[2] > 1.001 * decay[2] and twin[3] > decay[3]
