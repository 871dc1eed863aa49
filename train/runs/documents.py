"""The checked reader of all files of results: JSON documents, rows, texts.

Every fault of a file raises one `InputError` that names the file.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from train.errors import InputError

Document = dict[str, Any]


def malformed(path: Path, reason: str) -> InputError:
    """The error for a file or a folder that is not as a command writes it."""
    return InputError(
        f"{path}: {reason}; move the folder away, or choose another, and run its"
        " command again"
    )


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Within this, content of another form raises an error about `path`.

    For code that takes numbers out of documents, where anything may lack or be of
    another type. A check of each access would hide what the code does.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise malformed(path, f"not as written ({type(e).__name__}: {e})") from None


def load(text: str | bytes) -> Any:
    """Parses JSON without numbers that are not finite.

    Raises:
        ValueError: If it is not JSON, or too deep.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    def finite(digits: str) -> float:
        if not math.isfinite(float(digits)):
            refuse(digits)
        return float(digits)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("too deep") from None


def read_text(path: Path) -> str:
    """A text file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise malformed(path, f"cannot be read ({error})") from None


def read_json(path: Path) -> Document:
    """A JSON file that holds an object."""
    try:
        document = load(read_text(path))
    except ValueError as error:
        raise malformed(path, f"not JSON ({error})") from None
    if not isinstance(document, dict):
        raise malformed(path, "not a JSON object")
    return document


def read_rows(path: Path) -> list[Document]:
    """The rows of a JSONL file."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [parse_row(path, number, line) for number, line in lines]


def parse_row(path: Path, number: int, line: str | bytes) -> Document:
    """One line of a JSONL file, an object.

    Args:
        path: Path of the file, for messages.
        number: Number of the line, from 1, for messages.
        line: Text of the line.
    """
    try:
        row = load(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise malformed(path, f"row {number} is not a row of metrics")
    return row


def read_config(folder: Path) -> Document:
    """The content of ``config.json``: the options under ``config``, and versions."""
    path = folder / "config.json"
    document = read_json(path)
    options = document.get("config")
    if not isinstance(options, dict) or not isinstance(options.get("experiment"), str):
        raise malformed(path, "no options of a run")
    return document
