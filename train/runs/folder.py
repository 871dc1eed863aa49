"""The folder of a run that may be killed at any moment and resumed.

``config.json`` comes first, ``metrics.jsonl`` grows by a line per evaluation, Orbax
checkpoints hold the state, ``summary.json`` comes last: with it a run is finished.
A run that is resumed drops the rows that are later than its newest checkpoint, so its
files end in the same bytes as those of a run that was never killed. TensorBoard's
events repeat the rows, with their times. No file holds a host name or an absolute path.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from train import interrupts
from train.errors import require
from train.runs import records
from train.runs.checkpoints import Checkpoints, State
from train.runs.documents import load, read_json
from train.runs.guard import open_folder
from train.runs.writers import METRICS, Line, Writers, read_lines

CHECKPOINTS, SUMMARY = "checkpoints", "summary.json"


@contextmanager
def open_run(
    folder: Path, config: Mapping[str, Any], *, checkpoint_minutes: float = 5.0
) -> Iterator["Run"]:
    """Opens the folder of a new, an unfinished or a finished run.

    With several processes (`jax.distributed`), each one calls this with a folder that
    they share. The first process writes all files except the parts of checkpoints that
    belong to the other processes.

    Args:
        folder: A folder that is new, empty, or of an earlier run with the same
            configuration.
        config: Configuration from `records.run_config`.
        checkpoint_minutes: Least time between two checkpoints; 0 writes all of them.

    Yields:
        The run. No other process can open it until the ``with`` block ends.

    Raises:
        InputError: If `folder` holds something else, is in use, or cannot be read or
            written to, here or within the block (a full disk).
        KeyboardInterrupt: After Ctrl-C; its message says how to resume.
    """
    # Silence Orbax: it also logs the errors that it raises, with one traceback per
    # thread, and leaves errors of tasks to asyncio, which logs them too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with open_folder(folder, config, leader=jax.process_index() == 0):
        multihost_utils.sync_global_devices("open_run")
        with Checkpoints(folder.resolve() / CHECKPOINTS) as checkpoints:
            run = Run(folder, checkpoints, checkpoint_minutes)
            try:
                yield run
            except KeyboardInterrupt:
                raise KeyboardInterrupt(interrupts.GOES_ON) from None
            finally:
                run.close()


class Run:
    """One run: its metrics so far and its checkpoints. From `open_run`.

    Attributes:
        folder: The folder of its files; the caller may add others.
        finished: Whether `finish` was called, in this process or an earlier one.
    """

    def __init__(
        self, folder: Path, checkpoints: Checkpoints, checkpoint_minutes: float
    ) -> None:
        """See `open_run`."""
        self.folder = folder
        self.finished = (folder / SUMMARY).exists()
        self._checkpoints = checkpoints
        self._interval = 60 * checkpoint_minutes
        self._saved = time.monotonic()
        self._lines = read_lines(folder)
        self._writers: Writers | None = None
        self._summary: dict[str, Any] | None = None

    def restore(self, state: State) -> tuple[State, int]:
        """Returns the state to continue from. Call it once, before `record` and `save`.

        Args:
            state: The initial state: a pytree of arrays, or of `jax.ShapeDtypeStruct`
                with shardings where there is a checkpoint.

        Returns:
            The state of the newest checkpoint, placed like `state`, and its epoch;
            `state` itself and 0 if there is none.

        Raises:
            InputError: If the checkpoint is damaged or of another state, or rows that
                it was written after are not there.
        """
        epoch = self._checkpoints.newest()
        last, digest = -1 if epoch is None else epoch, ""
        if epoch is not None:
            state, digest = self._checkpoints.read(epoch, state)
        lines = [line for line in self._lines if line.row["epoch"] <= last]
        require(
            digest in ("", _digest(lines)),
            f"{self.folder / METRICS}: rows up to epoch {last} were lost or changed"
            " since the checkpoint of that epoch; choose another --out",
        )
        self._lines = lines
        if jax.process_index() == 0 and not self.finished:
            if epoch is not None:
                print(f"resuming from epoch {epoch}", flush=True)
            self._writers = Writers(self.folder, self._lines)
        return state, epoch or 0

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl`` so far, as they would be read from it."""
        return [line.row for line in self._lines]

    def record(self, row: Mapping[str, Any]) -> None:
        """Appends one row of metrics, before the checkpoint of the same epoch.

        Args:
            row: Python numbers by name. It has an integer "epoch", never lower than
                that of the row before, and no times: they would differ from those of a
                run that was killed. A row that also has a text is of one of several
                runs that train side by side; TensorBoard does not get it.
        """
        text = records.json_line(row).encode()
        self._lines.append(Line(text, load(text)))
        if self._writers is not None:
            self._writers.append(self._lines[-1])

    def save(self, epoch: int, state: Any, *, force: bool = False) -> None:
        """Writes a checkpoint if one is due; all processes call this.

        Args:
            epoch: Number of epochs done, higher than at the last checkpoint.
            state: A pytree of `jax.Array` or `numpy.ndarray`.
            force: Whether to write it even if it is not due. A checkpoint that exists
                is not written again.

        Raises:
            OSError: If the disk is full; `open_run` turns it into an `InputError`.
        """
        due = force or time.monotonic() - self._saved >= self._interval
        # The clock of the first process decides, so that all take part or none.
        due = bool(multihost_utils.broadcast_one_to_all(np.asarray(due)))
        if not due or epoch == self._checkpoints.newest():
            return
        if self._writers is not None:
            self._writers.sync()  # A checkpoint must never outlive its rows.
        self._checkpoints.write(epoch, state, _digest(self._lines))
        self._saved = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json`` of a finished run.

        Raises:
            InputError: If the file is damaged.
        """
        return self._summary or read_json(self.folder / SUMMARY)

    def finish(self, summary: Mapping[str, Any], **documents: Any) -> None:
        """Ends the run.

        Args:
            summary: Content of ``summary.json``, which is written last.
            **documents: Contents of further files, each ``NAME.json``.
        """
        if jax.process_index() == 0:
            for name, document in documents.items():
                records.write_json(self.folder / f"{name}.json", document)
            records.write_json(self.folder / SUMMARY, summary)
        self._summary = load(records.json_line(summary))
        self.finished = True

    def close(self) -> None:
        """Closes the files."""
        if self._writers is not None:
            self._writers.close()


def _digest(lines: Sequence[Line]) -> str:
    """A digest of rows of metrics, which tells whether one of them was lost."""
    return hashlib.sha256(b"".join(line.text for line in lines)).hexdigest()
