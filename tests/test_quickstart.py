"""The set-up script: what it runs, what it reuses, and what it tells a person."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "quickstart.py"

# An old Python in miniature: the script sees its version, and nothing more is run.
PRETEND = (
    "import runpy, sys; sys.version_info = {version}; sys.argv = ['quickstart.py'];"
    "{also} runpy.run_path({script!r}, run_name='__main__')"
)


@pytest.fixture
def quickstart(monkeypatch, tmp_path):
    """The module on an empty project, with `run` recording instead of running."""
    import quickstart

    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    monkeypatch.setattr(quickstart, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(quickstart, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return quickstart


class Commands(list):
    """Stands for `run`: makes what `python -m venv` makes, fails where told to."""

    def __init__(self, quickstart):
        self.quickstart, self.pip_code = quickstart, 0

    def __call__(self, command):
        self.append("venv" if "venv" in command else command[-1])
        if "venv" in command:
            version = ".".join(map(str, sys.version_info[:3]))
            config = self.quickstart.VENV / "pyvenv.cfg"
            config.write_text(f"home = /usr/bin\nversion = {version}\n")
            self.quickstart.PYTHON.parent.mkdir()
            self.quickstart.PYTHON.touch()
            return 0
        return self.pip_code


@pytest.fixture
def commands(quickstart, monkeypatch):
    recorded = Commands(quickstart)
    monkeypatch.setattr(quickstart, "run", recorded)
    return recorded


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 14)])
def test_an_old_python_ends_with_one_line_that_names_the_remedy(version, tmp_path):
    script = shutil.copy(SCRIPT, tmp_path)
    code = PRETEND.format(version=version, also="", script=script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    found = ".".join(map(str, version))
    assert f"needs Python 3.11 or newer, this is {found}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_can_parse_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_ends_with_one_line(module, tmp_path):
    script = shutil.copy(SCRIPT, tmp_path)
    hide = f"sys.modules[{module!r}] = None;"
    code = PRETEND.format(version=(3, 12, 1), also=hide, script=script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "apt install python3.12-venv" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


def test_this_python_is_accepted(quickstart):
    assert quickstart.problem(sys.version_info) == ""
    assert quickstart.problem((3, 11, 0)) == ""
    assert quickstart.problem((4, 0, 0)) == ""


def test_plan_passes_further_arguments_on(quickstart):
    extra, command, _ = quickstart.plan([])
    assert (extra, command[1:]) == ("train", ["-m", "train", "digits"])
    extra, command, _ = quickstart.plan(["--seeds", "2"])
    assert command[1:] == ["-m", "train", "digits", "--seeds", "2"]
    extra, command, _ = quickstart.plan(["test", "-k", "wrap"])
    assert (extra, command[1:]) == (
        "test",
        ["-m", "pytest", "-q", "-n", "auto", "-k", "wrap"],
    )
    assert command[0] == str(quickstart.PYTHON)


def test_a_finished_set_up_is_reused(quickstart, commands):
    assert quickstart.set_up("train") == 0
    assert commands == ["venv", ".[train]"]
    assert quickstart.set_up("train") == 0
    assert commands == ["venv", ".[train]"]


def test_another_extra_keeps_the_environment(quickstart, commands):
    quickstart.set_up("train")
    mine = quickstart.VENV / "installed-by-hand"
    mine.touch()
    quickstart.set_up("test")
    assert commands == ["venv", ".[train]", ".[test]"]
    assert mine.exists()
    quickstart.set_up("train")
    quickstart.set_up("test")
    assert commands == ["venv", ".[train]", ".[test]"]


def test_a_changed_pyproject_is_installed_again(quickstart, commands):
    quickstart.set_up("train")
    (quickstart.ROOT / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    quickstart.set_up("train")
    assert commands == ["venv", ".[train]", ".[train]"]


def test_a_moved_checkout_is_installed_again(quickstart, commands, monkeypatch):
    quickstart.set_up("train")
    moved = quickstart.ROOT / "moved"
    moved.mkdir()
    shutil.copy(quickstart.ROOT / "pyproject.toml", moved)
    monkeypatch.setattr(
        quickstart, "ROOT", moved
    )  # the install points to the old place
    quickstart.set_up("train")
    assert commands == ["venv", ".[train]", ".[train]"]


def test_an_interrupted_set_up_is_redone_from_nothing(quickstart, commands):
    commands.pip_code = 1
    assert quickstart.set_up("train") == 1
    half = quickstart.VENV / "half-installed"
    half.touch()
    commands.pip_code = 0
    assert quickstart.set_up("train") == 0
    assert commands == ["venv", ".[train]"] * 2
    assert not half.exists()


def test_an_interrupted_change_of_a_finished_set_up_is_redone(quickstart, commands):
    quickstart.set_up("train")
    commands.pip_code = 1
    quickstart.set_up("test")
    commands.pip_code = 0
    assert quickstart.set_up("train") == 0
    assert commands == ["venv", ".[train]", ".[test]", "venv", ".[train]"]


def test_an_environment_of_another_python_is_replaced(
    quickstart, commands, monkeypatch
):
    quickstart.set_up("train")
    other = SimpleNamespace(
        version="3.99.0 (main)", version_info=(3, 99, 0), executable=sys.executable
    )
    monkeypatch.setattr(quickstart, "sys", other)
    assert quickstart.set_up("train") == 0
    assert commands == ["venv", ".[train]"] * 2


def test_a_failed_set_up_ends_the_run(quickstart, commands, capsys):
    commands.pip_code = 7
    assert quickstart.main(["test"]) == 7
    assert commands == ["venv", ".[test]"]
    assert "run the same command again" in capsys.readouterr().err


def test_main_says_what_it_does_and_returns_the_exit_code(quickstart, commands, capsys):
    commands.pip_code = 0
    quickstart.set_up("test")
    commands.pip_code = 5  # the only command left is pytest
    assert quickstart.main(["test", "-x"]) == 5
    assert commands[-1] == "-x"
    assert "runs the tests" in capsys.readouterr().out


def test_run_prints_the_command_and_returns_its_exit_code(quickstart, capfd):
    assert quickstart.run([sys.executable, "-c", "import sys; sys.exit(3)"]) == 3
    assert capfd.readouterr().out.startswith(f"+ {sys.executable} -c ")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_run_reports_a_signal_as_a_shell_does(quickstart):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert quickstart.run([sys.executable, "-c", kill]) == 128 + 15


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_lets_the_child_finish(quickstart, capfd):
    # The child interrupts its parent (this process), then still needs a moment.
    child = (
        "import os, signal, time; os.kill(os.getppid(), signal.SIGINT);"
        "time.sleep(0.6); print('saved'); raise SystemExit(130)"
    )
    assert quickstart.run([sys.executable, "-c", child]) == 130
    assert "saved" in capfd.readouterr().out
