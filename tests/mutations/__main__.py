"""Breaks one rule at a time in a copy of the project and runs the tests that must fail.

    python -m tests.mutations            all mutations; writes results.md
    python -m tests.mutations ece loop   those with one of these words in rule or file
    python -m tests.mutations --check    only whether every mutation still applies

A mutation is an entry of a TOML file in this folder: the rule that it breaks, the file,
the old text (found exactly once), the new text, and the tests of which one must fail.
"""

import argparse
import concurrent.futures
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.md"
SECONDS = 900  # A mutation that makes a test wait forever is caught as well.
TESTS_FAILED = 1  # Pytest's exit code.


class Mutation(NamedTuple):
    """One broken rule."""

    rule: str
    file: str
    old: str
    new: str
    tests: list[str]

    def count(self, root: Path) -> int:
        """How often the old text is in the file."""
        path = root / self.file
        return path.read_text().count(self.old) if path.exists() else 0

    def apply(self, root: Path) -> str:
        """Changes the file; returns what it was."""
        path = root / self.file
        text = path.read_text()
        path.write_text(text.replace(self.old, self.new))
        return text


def read() -> list[Mutation]:
    """All mutations, in the order of the files."""
    return [
        Mutation(**entry)
        for path in sorted(HERE.glob("*.toml"))
        for entry in tomllib.loads(path.read_text())["mutation"]
    ]


def stale(mutations: list[Mutation]) -> list[str]:
    """What is wrong with mutations that do not apply, a line each."""
    lines = []
    for mutation in mutations:
        number = mutation.count(ROOT)
        if number != 1:
            lines.append(
                f"{mutation.file}: {mutation.old!r} is there {number} times, not once"
                f" ({mutation.rule})"
            )
        if mutation.old == mutation.new:
            lines.append(f"{mutation.file}: {mutation.old!r} does not change")
        lines += [
            f"{test}: no such file ({mutation.rule})"
            for test in mutation.tests
            if not (ROOT / test.partition("::")[0]).exists()
        ]
    return lines


def copy(folder: Path) -> Path:
    """Copies what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(root: Path, tests: list[str], cache: str) -> tuple[int, str]:
    """Pytest's exit code up to the first failure, and its output."""
    command = ["-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    environment = {
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",  # Two changes within a second look alike.
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    try:
        done = subprocess.run(
            [sys.executable, *command, *tests],
            cwd=root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return TESTS_FAILED, f"FAILED {tests[0]}"
    return done.returncode, done.stdout


def outcome(mutation: Mutation, root: Path, cache: str) -> tuple[str, float]:
    """Which test catches a mutation, or what else happens; and the seconds."""
    began = time.perf_counter()
    before = mutation.apply(root)
    try:
        code, output = run(root, mutation.tests, cache)
    finally:
        (root / mutation.file).write_text(before)
    seconds = time.perf_counter() - began
    if code == 0:
        return "MISSED", seconds
    if code != TESTS_FAILED:
        return f"NOT RUN (exit code {code})", seconds
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return (found[1] if found else "NO TEST NAMED"), seconds


def caught(rows: list[tuple[Mutation, str, float]]) -> int:
    """How many mutations make a test fail."""
    return sum(name.startswith("tests/") for _, name, _ in rows)


def table(rows: list[tuple[Mutation, str, float]]) -> str:
    """The results as Markdown."""
    lines = [
        f"{caught(rows)} of {len(rows)} mutations are caught. Written by"
        " `python -m tests.mutations`.",
        "",
        "| rule | file | caught by | seconds |",
        "|---|---|---|---|",
    ]
    for mutation, name, seconds in rows:
        name = name.removeprefix("tests/").replace("|", "\\|")
        lines.append(f"| {mutation.rule} | {mutation.file} | {name} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.mutations", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("words", nargs="*", help="part of a rule or of a file's name")
    parser.add_argument("--check", action="store_true", help="run no tests")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at a time")
    options = parser.parse_args()

    mutations = read()
    chosen = [
        mutation
        for mutation in mutations
        if not options.words
        or any(word in f"{mutation.rule} {mutation.file}" for word in options.words)
    ]
    problems = stale(chosen)
    if problems or options.check:
        print("\n".join([*problems, f"{len(chosen)} mutations"]))
        return 1 if problems else 0

    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(options.jobs):
            (Path(folder) / str(number)).mkdir()
            copies.put(copy(Path(folder) / str(number)))
        cache = str(Path(folder) / "cache")

        @contextlib.contextmanager
        def borrowed() -> Iterator[Path]:
            root = copies.get()
            try:
                yield root
            finally:
                copies.put(root)

        def unchanged(tests: list[str]) -> None:
            with borrowed() as root:
                code, output = run(root, tests, cache)
            if code:
                raise SystemExit(f"{output}\nThese tests fail without a mutation.")

        def one(mutation: Mutation) -> tuple[Mutation, str, float]:
            with borrowed() as root:
                name, seconds = outcome(mutation, root, cache)
            print(f"{seconds:4.0f} s  {name}: {mutation.rule}", flush=True)
            return mutation, name, seconds

        tests = sorted({test for mutation in chosen for test in mutation.tests})
        print(f"{len(tests)} tests without a mutation", flush=True)
        parts = [tests[number :: options.jobs] for number in range(options.jobs)]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(unchanged, filter(None, parts)))
            rows = list(pool.map(one, chosen))

    if len(chosen) == len(mutations):
        RESULTS.write_text(table(rows))
    print(f"{caught(rows)} of {len(rows)} mutations are caught")
    return 0 if caught(rows) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
