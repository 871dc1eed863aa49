"""The README: its example runs as written and prints what is shown; it stays short."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support import compilation

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]\d+)?")


@pytest.mark.slow
def test_the_example_prints_what_the_readme_shows(tmp_path):
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    [shown] = re.findall(r"^```text\n(.*?)^```", README, re.S | re.M)
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        # One device, and programs that need not be fast.
        env={**os.environ, "PYTHONPATH": str(ROOT)}
        | {"XLA_FLAGS": compilation.flags()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    printed = run.stdout
    # The same words in the same order, whatever the numbers and the width of columns.
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    for got, expected in zip(printed.splitlines(), shown.splitlines(), strict=True):
        if not got.startswith("layers/"):
            assert got.split() == expected.split()
            continue
        norms, elements, captured, now, off = map(float, got.split()[1:6])
        wanted = list(map(float, expected.split()[1:6]))
        assert [norms, elements] == wanted[:2]
        # 50 steps of float32 training differ between CPUs by rounding alone.
        assert abs(captured / wanted[2] - 1) < 1e-3
        assert abs(now / captured - 1) < 1e-5  # as printed, six digits
        assert off < 1e-6 and wanted[4] < 1e-6


def test_a_newcomer_reads_it_in_three_minutes():
    assert len(README.split()) <= 600
    first_screen = README.split("\n## ")[0]
    assert first_screen.count("\n") <= 50
    for command in ("python3 quickstart.py ", "python3 quickstart.py test "):
        assert f"\n{command}" in README
