"""The metrics of a run in two forms: JSON lines and TensorBoard events."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter

from train import InputError

# protobuf makes these classes at run time.
Event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
Summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]

EVENTS, METRICS = "events.out.tfevents.0.run", "metrics.jsonl"


class Line(NamedTuple):
    """One line of the metrics file."""

    text: bytes  # with the newline
    row: dict[str, Any]


def read_lines(folder: Path) -> list[Line]:
    """Reads the metrics file, without a last line that a kill cut off.

    Args:
        folder: The folder of a run; the file may be missing.

    Raises:
        InputError: If another line is not JSON.
    """
    path, lines = folder / METRICS, []
    texts = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, text in enumerate(texts, 1):
        if text.endswith(b"\n"):
            try:
                lines.append(Line(text, json.loads(text)))
            except ValueError:
                raise InputError(
                    f"{path}, line {number}: not JSON; choose another --out"
                ) from None
    return lines


class Writers:
    """The open files of metrics.

    Args:
        folder: The folder of the run.
        lines: The rows to keep. Files that hold more rows are cut.
    """

    def __init__(self, folder: Path, lines: Sequence[Line]) -> None:
        """Opens both files."""
        self._metrics = (folder / METRICS).open("ab")
        self._metrics.truncate(sum(len(line.text) for line in lines))
        # The file is rewritten in place with the same bytes, so that a TensorBoard
        # that is reading it can continue.
        self._events = RecordWriter(str(folder / EVENTS))
        header = Event(file_version="brain.Event:2")
        self._events.write(header.SerializeToString())
        for line in lines:
            self._write_event(line.row)
        self._events.flush()

    def append(self, line: Line) -> None:
        """Appends a row to both files."""
        self._metrics.write(line.text)
        self._metrics.flush()
        self._write_event(line.row)
        self._events.flush()

    def sync(self) -> None:
        """Puts the rows on the disk, so that a power cut cannot lose them."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Closes both files."""
        self._metrics.close()
        self._events.close()

    def _write_event(self, row: Mapping[str, Any]) -> None:
        # A text names one of several runs that train side by side. Their rows would
        # all be drawn into one curve.
        if not any(isinstance(value, str) for value in row.values()):
            self._events.write(_event(row))


def _event(row: Mapping[str, Any]) -> bytes:
    """A row as a TensorBoard event: scalars by epoch, without the time of day."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if isinstance(value, int | float)
    ]
    summary = Summary(value=values)
    event = Event(step=row["epoch"], summary=summary)
    return event.SerializeToString()
