"""The command of the studies: text, figures, errors."""

import errno
import inspect
import math
import os
import re
from functools import partial

import pytest
from matplotlib.figure import Figure

from tests.support.findings import reported
from train.__main__ import main
from train.runs import records
from train.studies import command as study
from train.studies import constrained, constrained_lamb, exponential, rayleigh
from train.studies import exponential_toy as toy

pytestmark = pytest.mark.usefixtures("all_work_is_reported")


def test_a_study_leaves_its_findings_and_figure(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["study", "constrained", f"--out={out}"]) == 0
    output, progress = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "constrained.png",
        "findings.md",
    ]
    findings = (out / "findings.md").read_text()
    assert findings.strip() in output and "| gradient descent " in findings
    # Figure 11, with the printed factor beside the right one.
    assert "| 2        | 7.06" in findings
    # One line at the start, then twelve for fifteen optimizers, with the time left.
    first, *lines = progress.splitlines()
    assert first == "gradient descent"
    names = [re.fullmatch(r"(.*): done  \d+ s left", line)[1] for line in lines]
    parts = [*constrained.methods(), *constrained_lamb.OPTIMIZERS]
    assert names == [parts[math.ceil(k * 15 / 12) - 1] for k in range(1, 13)]


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize(
    "error, code, message",
    [
        (FULL, 2, "error: {out}: No space left on device; remedy that, then the same"),
        (KeyboardInterrupt(), 130, "interrupted: no results were written"),
    ],
    ids=["full_disk", "ctrl_c"],
)
@pytest.mark.parametrize("place", [(Figure, "savefig"), (records, "write_text")])
def test_a_study_that_cannot_be_written_leaves_nothing(
    place, error, code, message, tmp_path, monkeypatch, capsys
):
    def fail(*args, **options):
        raise error

    margins = partial(constrained.margins, steps=3)
    monkeypatch.setattr(constrained, "margins", margins)
    monkeypatch.setattr(*place, fail)
    out = tmp_path / "run"
    assert main(["study", "constrained", f"--out={out}"]) == code
    output = capsys.readouterr()
    # What was found is shown, if it could be found at all.
    assert ("| gradient descent " in output.out) == (place[0] is Figure)
    assert output.err.splitlines()[-1].startswith(message.format(out=out))
    assert list(tmp_path.iterdir()) == []


def test_every_study_is_a_choice_with_a_sentence(capsys):
    for name in study.STUDIES:
        assert f"\n{name}: " in inspect.getdoc(study.Config)
    assert main(["study", "mathematics"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(name in error for name in study.STUDIES)


@pytest.mark.slow
def test_the_study_of_the_rayleigh_quotient_at_a_small_size(tmp_path, monkeypatch):
    small = rayleigh.Choices(
        dim=4, trials=8, decays=(5e-3, 5e-4), steps=(200, 400, 200), records=20, parts=2
    )
    monkeypatch.setattr(rayleigh, "Choices", lambda: small)
    text = reported(tmp_path, rayleigh.report())
    assert "p = 4, spectrum" in text and text.count("\n| a ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rayleigh.png"]


@pytest.mark.slow
def test_the_study_of_exponential_rates_at_a_small_size(tmp_path, monkeypatch):
    small = exponential.Config(steps=8, eval_every=4, channels=2)
    monkeypatch.setattr(exponential, "Config", lambda: small)
    cases = {
        name: partial(case, steps=1_200, seeds=2) for name, case in toy.CASES.items()
    }
    monkeypatch.setattr(toy, "CASES", cases)
    lines = reported(tmp_path, exponential.report()).splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "exponential.png",
        "together.png",
        "toy.png",
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
