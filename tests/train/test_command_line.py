"""The command line: messages at a terminal, exit codes, the guard of each command."""

import errno
import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import run_folders
from tests.support.interruptions import PROGRAM
from train import __main__ as command_line
from train import terminal
from train.__main__ import main
from train.report import command as report
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
    monkeypatch.setitem(study.STUDIES, "constrained", findings)
    run_folders.write_run(tmp_path / "runs" / "0", run_folders.level(260))
    return {
        "study": ["study", "constrained"],
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


def test_an_empty_word_is_no_path(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # It would be this folder.
    for words, flag in (
        (["language", "--data-dir", ""], "--data-dir"),
        (["recsys", "--out="], "--out"),
        (["evaluate", ""], "evaluate"),
        (["sweep", "image", "--data-dir=", "--out", "run"], "--data-dir"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error == f"error: nothing is given after {flag}; name something\n"
    assert list(tmp_path.iterdir()) == []


def test_what_the_encoding_lacks_is_written_all_the_same(small, tmp_path, monkeypatch):
    with io.TextIOWrapper(io.BytesIO(), "ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main([*small["report"], f"--out={tmp_path / 'out'}"]) == 0
        assert b"epoch: mean \\xb1 sample" in terminal.buffer.getvalue()
    assert "epoch: mean ± sample" in (tmp_path / "out" / "table.md").read_text()


def test_no_text_commands_the_terminal(capsys):
    assert terminal.visible("a\tb\n\x1b[31m\r\x07\x9b é\ufffd") == (
        "a\tb\n\\x1b[31m\\r\\x07\\x9b é\ufffd"
    )
    assert main(["report", "\x1b[31mred\udcff"]) == 2
    assert capsys.readouterr().err.startswith("error: no folder \\x1b[31mred\\udcff;")


def test_a_report_without_paths_says_where_runs_are(capsys):
    assert main(["report"]) == 2
    error = capsys.readouterr().err
    assert "python -m train report runs" in error and error.count("\n") == 1


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


@pytest.mark.parametrize("name", ["table.md", "figure-1.png"])
def test_a_report_replaces_no_file_that_is_not_of_a_report(
    name, small, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    found = lambda *_: ({"table.md": "# Studies\n"}, {"figure-1.png": draw})  # noqa: E731
    monkeypatch.setattr(report, "texts_and_figures", found)
    assert main([*small["report"], f"--out={out}"]) == 2
    assert f"{out} has a {name} that is not of a report" in capsys.readouterr().err
    assert contents(out) == {name: b"mine"}
    # A report without its config.json, as published ones are.
    (out / "table.md").write_text("# Recommenders beside the papers' numbers\n")
    assert main([*small["report"], f"--out={out}"]) == 0
    assert (out / "table.md").read_text() == "# Studies\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study", "report", "digits"])
def test_a_reader_that_goes_away_costs_no_result(name, tmp_path):
    run_folders.write_run(tmp_path / "runs" / "0", run_folders.level(260))
    command = {
        "study": ["study", "constrained"],
        "report": ["report", str(tmp_path / "runs")],
        "digits": DIGITS.split(),
    }[name]
    fake = "from train.studies import command as s\n"
    fake += "s.STUDIES['constrained'] = lambda: ('Findings.', {})\n"
    with subprocess.Popen(
        [sys.executable, "-c", fake + PROGRAM, *command, f"--out={tmp_path / 'out'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if name == "digits":  # It introduces itself, then it trains.
            assert process.stdout.readline().startswith("Handwritten digits")
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (141, "")
    last = {"study": "findings.md", "report": "table.md", "digits": "table.md"}
    assert (tmp_path / "out" / last[name]).exists()


@pytest.mark.slow
def test_a_study_that_is_ended_leaves_no_other_folder(tmp_path):
    fake = "import time\nfrom train.studies.command import STUDIES\n"
    fake += "begin = lambda: (print('begun', flush=True), time.sleep(99))\n"
    fake += "STUDIES['constrained'] = begin\n"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", fake + PROGRAM),
            *("study", "constrained", f"--out={tmp_path / 'out'}"),
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
