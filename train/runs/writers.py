"""The metrics of a run in two forms: JSON lines and TensorBoard events."""

import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter

from train.runs import documents

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
        InputError: If another line is not a row of metrics.
    """
    path, lines = folder / METRICS, []
    texts = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, text in enumerate(texts, 1):
        if text.endswith(b"\n"):
            row = documents.parse_row(path, number, text)
            if type(row.get("epoch")) is not int:
                raise documents.malformed(path, f"row {number} has no epoch")
            lines.append(Line(text, row))
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
        self._times = iter(_times(folder / EVENTS))
        self._events = RecordWriter(str(folder / EVENTS))
        now = next(self._times, time.time())
        header = Event(file_version="brain.Event:2", wall_time=now)
        self._events.write(header.SerializeToString())
        for line in lines:
            self._write_event(line.row)
        self._times = iter(())
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
            self._events.write(_event(row, next(self._times, time.time())))


def _times(path: Path) -> list[float]:
    """The times of the events of a file, up to the first that a kill cut off."""
    data, times = path.read_bytes() if path.exists() else b"", []
    while len(data) > 12:
        # A length, its checksum, the event, its checksum.
        (size,) = struct.unpack("<Q", data[:8])
        if len(data) < 16 + size:
            break
        try:
            times.append(Event.FromString(data[12 : 12 + size]).wall_time)
        except DecodeError:
            break
        data = data[16 + size :]
    return times


def _event(row: Mapping[str, Any], wall_time: float) -> bytes:
    """A row as a TensorBoard event: scalars by epoch."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if isinstance(value, int | float)
    ]
    summary = Summary(value=values)
    event = Event(step=row["epoch"], wall_time=wall_time, summary=summary)
    return event.SerializeToString()
