"""The rows of versions, in the table of CONTRIBUTING.md and in the workflow."""

import re
from pathlib import Path

from tests import versions

ROOT = Path(__file__).parents[1]


def test_rows_that_did_not_run_keep_their_lines():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    name = versions.ROWS[1].name
    once = versions.updated(text, [[name, *"abcdefghij"]])
    line = f"| {name} | a | b | c | d | e | f | g | h | i | j |\n"
    assert line in once
    first = versions.ROWS[0].name
    both = versions.updated(once, [[first, *"0123456789"]])
    assert f"| {first} | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |\n{line}" in both
    assert versions.updated(both, [[name, *"abcdefghij"]]) == both


def test_continuous_integration_runs_every_row_with_its_python():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    rows = re.findall(r'\{ python: "(.*)", row: "(.*)" \}', workflow)
    assert rows == [(row.python, row.name) for row in versions.ROWS]
