"""Markdown tables for findings and reports."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table, readable in a terminal as it is.

    Args:
        header: Names of the columns.
        rows: Cells; a row with fewer cells than the header is filled with empty ones.

    Returns:
        The lines, without a newline at the end.
    """
    lines = [list(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines
    )
