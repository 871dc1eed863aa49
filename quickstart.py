"""Set up and run in one command, with nothing but Python 3.11 or newer.

python3 quickstart.py              set up .venv, then run: python -m train digits
python3 quickstart.py --seeds 2    more arguments go to that command
python3 quickstart.py test         set up .venv, then run: python -m pytest -q -n auto
python3 quickstart.py test -k wrap more arguments go to pytest

Written for Python 3.6 as well, so that an old Python can say that it is too old.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def problem(version: tuple) -> str:
    """Reason why this Python cannot do the set-up, in one line; empty if it can."""
    found = ".".join(map(str, version[:3]))
    if version < (3, 11):
        return (
            f"quickstart.py needs Python 3.11 or newer, this is {found}: run it "
            "with a newer one, for example `python3.12 quickstart.py`."
        )
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return (
            f"quickstart.py needs the modules venv and ensurepip, which this Python "
            f"{found} lacks: install them (Debian, Ubuntu: `apt install "
            f"python{version[0]}.{version[1]}-venv`) or use another Python."
        )
    return ""


def plan(argv: "list[str]") -> "tuple[str, list[str], str]":
    """The extra to install, the command to run, and what to tell the user."""
    if argv[:1] == ["test"]:
        command = [str(PYTHON), "-m", "pytest", "-q", "-n", "auto", *argv[1:]]
        return "test", command, "runs the tests (11 minutes on 2 cores)"
    command = [str(PYTHON), "-m", "train", "digits", *argv]
    return "train", command, "trains on handwritten digits (under 2 minutes on 2 cores)"


def run(command: "list[str]") -> int:
    """Print the command, run it in the repository root, return its exit code."""
    print("+", shlex.join(command), flush=True)
    child = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            code = child.wait()
            return code if code >= 0 else 128 - code  # as a shell reports signals
        except KeyboardInterrupt:
            pass  # the child got the same Ctrl-C and may need a moment to save


def set_up(extra: str) -> int:
    """Make .venv hold the project with this extra; 0 if it does."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    text = "\n".join([pyproject, sys.version, str(ROOT)])
    key = hashlib.sha256(text.encode()).hexdigest()
    stamp, unfinished = VENV / f"set-up-{extra}", VENV / "set-up-unfinished"
    if not unfinished.exists() and stamp.exists() and stamp.read_text() == key:
        return 0
    config = VENV / "pyvenv.cfg"
    same_python = "version = {}.{}.{}\n".format(*sys.version_info)
    if unfinished.exists() or not (
        config.exists() and PYTHON.exists() and same_python in config.read_text()
    ):
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        unfinished.touch()
        code = run([sys.executable, "-m", "venv", str(VENV)])
        if code:
            return code
    unfinished.touch()
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    code = run([*pip, "-e", f".[{extra}]"])
    if code:
        return code
    stamp.write_text(key)
    unfinished.unlink()
    return 0


def main(argv: "list[str]") -> int:
    """Set up, then run; the exit code is that of the first command that failed."""
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    why = problem(sys.version_info)
    if why:
        print(why, file=sys.stderr)
        return 2
    extra, command, purpose = plan(argv)
    print(f"Sets up .venv (a few minutes and 1.2 GB, once), then {purpose}.")
    code = set_up(extra)
    if code:
        print("The set-up did not finish: run the same command again.", file=sys.stderr)
        return code
    return run(command)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
