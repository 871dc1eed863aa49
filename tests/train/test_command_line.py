"""The command line: messages at a terminal, exit codes, the guard of each command."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_folders
from tests.support import tiny_recommenders as tiny
from tests.support.interruptions import PROGRAM
from train import __main__ as command_line
from train.__main__ import main
from train.runs import records
from train.studies import command as study

ROOT = Path(__file__).parents[2]
DIGITS = "digits --quiet --optimizers adam --hidden 8 --trials 1 --seeds 1 --epochs 1"


def draw(path):
    path.write_bytes(b"figure")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Commands by name that need no time, without --out."""
    findings = lambda: ("Findings.", {"figure.png": draw})  # noqa: E731
    monkeypatch.setitem(study.STUDIES, "margins", findings)
    run_folders.write_run(tmp_path / "runs" / "0", run_folders.level(260))
    return {
        "study": ["study", "margins"],
        "report": ["report", str(tmp_path / "runs")],
        "digits": DIGITS.split(),
    }


NAMES = ("study", "report", pytest.param("digits", marks=pytest.mark.slow))


# ----------------------------------------------------------------------- messages


def at_a_terminal(monkeypatch, call):
    """What a function prints where standard output is a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(sys, "stdout", terminal)
        call()
        terminal.flush()
        os.set_blocking(ours, False)
        try:
            return os.read(ours, 10**6).decode()
        except BlockingIOError:
            return ""
        finally:
            os.close(ours)


@pytest.mark.parametrize(
    "command",
    [
        "digits --epoch 3",
        "digits --epochs many",
        "digits --epochs",
        "image --dataset mnist",
        "evaluate",
        "study",
        "--unknown",
        "recsys --seed 1 2 3",
        "sweep recsys --grid large --seeds x",
    ],
)
def test_an_error_at_a_terminal_is_the_same_plain_line(command, monkeypatch, capsys):
    assert main(command.split()) == 2
    plain = capsys.readouterr().err
    at_a_terminal(monkeypatch, lambda: main(command.split()))
    shown = capsys.readouterr().err
    assert shown == plain and shown.startswith("error: ") and shown.count("\n") == 1
    assert not set(shown) & set("\x1b│─╭╮╰╯")


def test_no_color_is_heard(monkeypatch):
    options = command_line.tyro._experimental_options
    monkeypatch.setitem(options, "ansi_codes", True)
    call = lambda: main(["study", "--help"])  # noqa: E731
    assert "\x1b[" in at_a_terminal(monkeypatch, call)
    monkeypatch.setenv("NO_COLOR", "1")
    text = at_a_terminal(monkeypatch, call)
    assert "--data-dir" in text and "\x1b[" not in text


def test_without_the_extra_a_line_names_it():
    hide = "import sys; sys.modules['tyro'] = None; import runpy;"
    hide += "runpy.run_module('train', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: the Python package tyro is not installed; python -m pip install"
        " '.[train]' installs all that python -m train needs\n"
    )


def test_a_package_that_is_imported_late_is_named_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main([*DIGITS.split(), f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the Python package sklearn.datasets is not instal")


# ---------------------------------------------------------- the guard of each command


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line_and_loses_no_result(
    name, small, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"

    def fail(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        # After config.json, and after the summary of a run that trains.
        written = 2 if name == "digits" else 1
        patch.setattr(records, "write_text", _after(written, fail, records.write_text))
        assert main([*small[name], f"--out={out}"]) == 2
    output, error = capsys.readouterr()
    assert error.count("\n") == 1 and "No space left on device; remedy that" in error
    if name != "digits":
        assert output.startswith(("Findings.", "# Recommenders beside"))
    assert main([*small[name], f"--out={out}"]) == 0


def _after(count, then, first):
    """A function that is `first` for some calls and `then` for all others."""
    left = iter([first] * count)
    return lambda *arguments: next(left, then)(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_two_commands_with_other_options_in_one_folder(name, small, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert main([*small[name], out]) == 0
    before = contents(tmp_path / "out")
    run_folders.write_run(tmp_path / "more" / "1", run_folders.level(250))
    others = {
        "study": ["study", "polynomials"],
        "report": ["report", str(tmp_path / "more")],
        "digits": [*DIGITS.split(), "--split-seed=1"],
    }
    capsys.readouterr()
    assert main([*others[name], out]) == 2
    output, error = capsys.readouterr()
    assert output == "" and "holds a run with another configuration (" in error
    for other in NAMES[:2]:
        if other != name:
            assert main([*small[other], out]) == 2
            assert "holds the results of another command" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_a_report_into_a_folder_of_other_files_leaves_them(small, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert main([*small["report"], f"--out={out}"]) == 0
    assert (out / "table.md").exists() and not (out / "config.json").exists()
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "report", "digits"])
def test_a_reader_that_goes_away_costs_no_result(name, tmp_path):
    run_folders.write_run(tmp_path / "runs" / "0", run_folders.level(260))
    command = {
        "study": ["study", "margins"],
        "report": ["report", str(tmp_path / "runs")],
        "digits": DIGITS.split(),
    }[name]
    fake = "from train.studies import command as s\n"
    fake += "s.STUDIES['margins'] = lambda: ('Findings.', {})\n"
    process = subprocess.Popen(
        [sys.executable, "-c", fake + PROGRAM, *command, f"--out={tmp_path / 'out'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if name == "digits":  # It introduces itself, then it trains.
        assert process.stdout.readline().startswith("Handwritten digits")
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(timeout=300), error) == (141, "")
    last = {"study": "findings.md", "report": "table.md", "digits": "table.md"}
    assert (tmp_path / "out" / last[name]).exists()


@pytest.mark.slow
def test_a_study_that_is_ended_leaves_no_other_folder(tmp_path):
    fake = "import time\nfrom train.studies import command as s\n"
    fake += (
        "s.STUDIES['margins'] = lambda: (print('begun', flush=True), time.sleep(99))\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", fake + PROGRAM),
            *("study", "margins", f"--out={tmp_path / 'out'}"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]


# -------------------------------------------------------------- damaged run folders


def change(name, **values):
    def apply(folder):
        document = json.loads((folder / name).read_text())
        (document["config"] if name == "config.json" else document).update(values)
        (folder / name).write_text(json.dumps(document))

    return apply


def overwrite(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGES = {
    "config null": overwrite("config.json", "null"),
    "config list": overwrite("config.json", "[]"),
    "config text": overwrite("config.json", '"recsys"'),
    "config nest": overwrite("config.json", "[" * 100_000),
    "negative batch": change("config.json", batch_size=-5),
    "unknown data": change("config.json", dataset="netflix"),
    "no loss": change("config.json", loss=None),
    "unknown option": change("config.json", colour="red"),
    "summary empty": overwrite("summary.json", ""),
    "summary without keys": overwrite("summary.json", "{}"),
    "summary list": overwrite("summary.json", "[]"),
    "rows of lists": overwrite("metrics.jsonl", "[1]\n"),
    "rows without metrics": overwrite("metrics.jsonl", '{"epoch": 300}\n'),
    "no rows": overwrite("metrics.jsonl", ""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_a_damaged_folder_is_refused_in_one_line(command, damage, tmp_path, capsys):
    folder = tmp_path / "runs" / "0"
    run_folders.write_run(folder, run_folders.level(260))
    damage(folder)
    data = tiny.write_ratings(tmp_path / "data") if command == "evaluate" else None
    more = [f"--data-dir={data}"] if data else [f"--out={tmp_path / 'report'}"]
    (folder / "checkpoints").mkdir()
    assert main([command, str(folder), *more]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and str(folder) in error
    assert not (tmp_path / "report").exists()


def test_paths_of_a_report_that_lead_nowhere(tmp_path, capsys):
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for path in (circle, tmp_path / ("x" * 300), tmp_path / "gone"):
        assert main(["report", str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: no folder {path}; name")
        assert main(["evaluate", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [circle]
