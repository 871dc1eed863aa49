"""Runs the library's tests with the versions of JAX and Optax that it must work with.

    python -m tests.versions                all rows, each in an environment of its own
    python -m tests.versions 0.7.0 newest   these rows
    python -m tests.versions -- -k norms    all rows; the rest goes to pytest

It makes the environments in build/versions, runs tests/lawn_optax in them, prints a
table and writes its lines to CONTRIBUTING.md; rows that do not run keep their lines.
Each row needs its Python on PATH (or in ~/.pyenv/versions) and a package index.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "CONTRIBUTING.md"
PACKAGES = ("jax", "optax", "flax", "numpy")
HEAD = ("row", "Python", *PACKAGES, "passed", "skipped", "failed", "minutes", "commit")
INSTALLED = f"""
import importlib.metadata as metadata, json
found = {{d.metadata["Name"]: d.version for d in metadata.distributions()}}
print(json.dumps([found.get(name, "none") for name in {PACKAGES!r}]))
"""


class Row(NamedTuple):
    """Versions that are tested together."""

    name: str
    python: str
    pins: tuple[str, ...]


def _row(python: str, jax: str, *more: str) -> Row:
    return Row(jax, python, (f"jax=={jax}", f"jaxlib=={jax}", *more))


ROWS = [
    _row("3.11", "0.7.0", "optax==0.2.2"),
    _row("3.11", "0.9.2", "optax==0.2.6"),
    _row("3.11", "0.10.1", "optax==0.2.6"),
    _row("3.11", "0.10.2"),
    _row("3.12", "0.11.2"),
    Row("newest", "3.13", ()),
]


def interpreter(version: str) -> str:
    """A Python of this version, such as "3.12"; ends the program if there is none."""
    pyenv = f"{Path.home()}/.pyenv/versions/{version}.*/bin/python"
    known = [sys.executable, shutil.which(f"python{version}"), *glob.glob(pyenv)]
    code = "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
    for path in filter(None, known):
        done = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return path
    sys.exit(f"Python {version} is not on PATH: install it, or name other rows.")


def set_up(row: Row, folder: Path) -> str:
    """The Python of an environment with the versions of the row."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = [*row.pins, "-e", f"{ROOT}[test-library]"]
    key = (ROOT / "pyproject.toml").read_text() + repr((row.python, wanted))
    stamp = folder / "set-up"
    if not stamp.exists() or stamp.read_text() != key:
        base = interpreter(row.python)
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        subprocess.run([*pip, "--quiet", *wanted], check=True)
        stamp.write_text(key)
    return str(python)


def tested(row: Row, folder: Path, options: list[str]) -> list[str]:
    """Runs the tests of a row; the cells of its line in the table."""
    python = set_up(row, folder)
    installed = subprocess.check_output([python, "-c", INSTALLED])
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", "tests/lawn_optax", *options]
    print("+", *command, flush=True)
    begin = time.monotonic()
    code = subprocess.run(command, cwd=ROOT).returncode
    minutes = f"{(time.monotonic() - begin) / 60:.1f}"
    total, skipped, failures, errors = counts(report)
    failed = str(failures + errors)
    if code and not failures + errors:
        failed = f"exit code {code}"
    passed = str(total - skipped - failures - errors)
    cells = [passed, str(skipped), failed, minutes, commit()]
    return [row.name, row.python, *json.loads(installed), *cells]


def counts(report: Path) -> tuple[int, ...]:
    """Numbers of tests, skipped ones, failures and errors in a report of pytest."""
    if not report.exists():
        return 0, 0, 0, 0
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    return tuple(
        int(suite.attrib[key]) for key in ("tests", "skipped", "failures", "errors")
    )


def commit() -> str:
    """The commit of the checkout, with a plus if files differ from it."""
    git = ["git", "-C", str(ROOT)]
    name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True)
    changed = subprocess.check_output([*git, "status", "--porcelain"], text=True)
    return name.strip() + "+" * bool(changed)


def updated(text: str, lines: list[list[str]]) -> str:
    """The text with these lines in its table, in the order of the rows."""
    head, rule = _line(HEAD), _line(["---"] * len(HEAD))
    before, found, after = text.partition(f"{head}\n{rule}\n")
    if not found:
        sys.exit(f"{TABLE.name} has no table that begins with\n{head}")
    old, end = [], after
    while end.startswith("|"):
        first, _, end = end.partition("\n")
        old.append(first)
    by_name = {line.split("|")[1].strip(): line for line in old}
    by_name |= {cells[0]: _line(cells) for cells in lines}
    known = [by_name[row.name] for row in ROWS if row.name in by_name]
    return before + found + "\n".join(known) + "\n" + end


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> int:
    """Runs the rows; 1 if a test failed."""
    ours, options = argv, []
    if "--" in argv:
        cut = argv.index("--")
        ours, options = argv[:cut], argv[cut + 1 :]
    parser = argparse.ArgumentParser("python -m tests.versions", epilog=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [row.name for row in ROWS]
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(names)} (default: all)")
    chosen = parser.parse_args(ours).rows
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there is no row {unknown[0]!r}: name some of {', '.join(names)}")
    lines = []
    for row in ROWS:
        if row.name in (chosen or names):
            lines.append(tested(row, ROOT / "build" / "versions" / row.name, options))
    print(*map(_line, [HEAD, ["---"] * len(HEAD), *lines]), sep="\n")
    if not options:  # a part of the tests is no line of the table
        TABLE.write_text(updated(TABLE.read_text(), lines))
    return int(any(line[HEAD.index("failed")] != "0" for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
