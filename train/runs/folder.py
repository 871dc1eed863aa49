"""The folder of a run that may be killed at any moment and goes on where it was.

``config.json`` comes first, ``metrics.jsonl`` grows by a line per evaluation, Orbax
checkpoints hold the state, ``summary.json`` comes last: with it a run is finished.
Rows later than the newest checkpoint are dropped when a run goes on, so the files end
in the same bytes as those of a run that was never killed. TensorBoard's events are the
rows again. No file holds a host name or an absolute path.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter

from train import InputError, require
from train.runs import records

# These classes are made at run time.
Event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
Summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]

State = TypeVar("State")

CHECKPOINTS, EVENTS = "checkpoints", "events.out.tfevents.0.run"
DIGESTS, METRICS, SUMMARY = "sha256.json", "metrics.jsonl", "summary.json"
_KEPT = 2


@contextmanager
def open_run(
    folder: Path, config: Mapping[str, Any], *, checkpoint_minutes: float = 5.0
) -> Iterator["Run"]:
    """Opens the folder of a new, an unfinished or a finished run.

    With several processes (`jax.distributed`), every one calls this, with a folder
    that they share; the first writes all files but its fellows' parts of checkpoints.

    Args:
        folder: New, empty, or of an earlier run with the same configuration.
        config: What `records.run_config` returned.
        checkpoint_minutes: Least time between two checkpoints; 0 for all.

    Yields:
        The run, of this process alone until the end of the ``with`` block.

    Raises:
        InputError: If `folder` holds something else, is in use, or cannot be read or
            written to, here or within the block (a full disk).
        KeyboardInterrupt: After Ctrl-C, with the way to go on as its message.
    """
    # Orbax also logs the errors that it raises, each with a traceback per thread.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    lock = None
    try:
        records.check_contents(folder, config)  # Before a file is written into it.
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
            _lock(lock, folder)
            if not records.check_contents(folder, config):
                content = {"config": config} | records.environment()
                records.write_json(folder / "config.json", content)
        multihost_utils.sync_global_devices("open_run")
        with ocp.CheckpointManager(
            folder.resolve() / CHECKPOINTS,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        ) as manager:
            run = Run(folder, manager, checkpoint_minutes)
            try:
                yield run
            finally:
                run.close()
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error};"
            " once that is remedied, the same command goes on"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    finally:
        if lock is not None:
            os.close(lock)


def _lock(descriptor: int, folder: Path) -> None:
    """Takes a folder for this process; the kernel gives it back, after a kill too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{folder} is in use by another run; wait for it or choose another --out"
        ) from None
    except OSError:  # Some network file systems have no locks of folders.
        pass


class Run:
    """One run: its metrics so far and its checkpoints. From `open_run`.

    Attributes:
        folder: Where the files are; the caller may add others.
        finished: Whether `finish` was called, in this process or an earlier one.
    """

    def __init__(
        self, folder: Path, manager: ocp.CheckpointManager, checkpoint_minutes: float
    ) -> None:
        """See `open_run`."""
        self.folder = folder
        self.finished = (folder / SUMMARY).exists()
        self._manager = manager
        self._interval = 60 * checkpoint_minutes
        self._saved = time.monotonic()
        self._lines = _read_lines(folder / METRICS)
        self._writers: _Writers | None = None

    def restore(self, state: State) -> tuple[State, int]:
        """The state to go on from; to be called once, before `record` and `save`.

        Args:
            state: The initial state: a pytree of arrays, or of `jax.ShapeDtypeStruct`
                with shardings where there is a checkpoint.

        Returns:
            The state of the newest checkpoint, placed like `state`, and its epoch;
            `state` itself and 0 if there is none.

        Raises:
            InputError: If the checkpoint is damaged or of another state.
        """
        epoch = self._manager.latest_step()
        if epoch is not None:
            state = self._read_checkpoint(epoch, state)
        last = -1 if epoch is None else epoch
        self._lines = [line for line in self._lines if line.row["epoch"] <= last]
        if jax.process_index() == 0 and not self.finished:
            if epoch is not None:
                print(f"resuming from epoch {epoch}", flush=True)
            self._writers = _Writers(self.folder, self._lines)
        return state, epoch or 0

    def rows(self) -> list[dict[str, Any]]:
        """What ``metrics.jsonl`` holds so far, as read from it."""
        return [line.row for line in self._lines]

    def record(self, row: Mapping[str, Any]) -> None:
        """Appends one row of metrics, before the checkpoint of the same epoch.

        Args:
            row: Python numbers by name (and texts, which TensorBoard does not get),
                with an integer "epoch", which never falls; no times, which would
                differ from those of a run that was killed.
        """
        text = records.json_line(row).encode()
        self._lines.append(_Line(text, json.loads(text)))
        if self._writers is not None:
            self._writers.append(self._lines[-1])

    def save(self, epoch: int, state: Any, *, force: bool = False) -> None:
        """Keeps a checkpoint if one is due; all processes call this.

        Args:
            epoch: Epochs done, more than at the last checkpoint.
            state: A pytree of `jax.Array` or `numpy.ndarray`.
            force: Keep it in any case (unless it is there already).

        Raises:
            InputError: If the disk is full.
        """
        due = force or time.monotonic() - self._saved >= self._interval
        # The clock of the first process decides, so that all take part or none.
        due = bool(multihost_utils.broadcast_one_to_all(np.asarray(due)))
        if not due or epoch == self._manager.latest_step():
            return
        if self._writers is not None:
            self._writers.sync()
        item = ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(state)),
            kinds=ocp.args.JsonSave(_kinds(state)),
        )
        try:
            self._manager.save(epoch, args=item, force=True)
        except ValueError as error:  # How TensorStore reports a full disk.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if not code:
                raise
            number = int(code[1])
            raise OSError(number, os.strerror(number), str(self.folder)) from None
        if jax.process_index() == 0:
            _seal(self.folder / CHECKPOINTS / str(epoch))
        self._saved = time.monotonic()

    def finish(self, summary: Mapping[str, Any], **documents: Any) -> None:
        """Ends the run.

        Args:
            summary: Goes into ``summary.json``, last of all.
            **documents: Goes into ``NAME.json`` each.
        """
        if jax.process_index() == 0:
            for name, document in documents.items():
                records.write_json(self.folder / f"{name}.json", document)
            records.write_json(self.folder / SUMMARY, summary)
        self.finished = True

    def close(self) -> None:
        """Closes the files."""
        if self._writers is not None:
            self._writers.close()

    def _read_checkpoint(self, epoch: int, state: State) -> State:
        path = self.folder / CHECKPOINTS / str(epoch)
        remedy = "delete it to go on from an earlier one, or choose another --out"
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        digests = path / DIGESTS
        sealed = digests.exists()
        try:
            if sealed:
                expected = json.loads(digests.read_text()).items()
                require(expected <= _digests(path).items(), "a file has changed")
            kinds = self._read(epoch, kinds=ocp.args.JsonRestore())
            differ = dict(kinds.items() ^ _kinds(state).items())
            if not differ:
                state = self._read(epoch, state=ocp.args.StandardRestore(abstract))
        except Exception:  # Orbax raises many kinds of errors for a damaged file.
            raise InputError(f"{path} is damaged; {remedy}") from None
        names = ", ".join(sorted(differ))
        require(not differ, f"{path} is of another state ({names} differ); {remedy}")
        if not sealed and jax.process_index() == 0:
            _seal(path)
        return state

    def _read(self, epoch: int, **item: ocp.args.CheckpointArgs) -> Any:
        (name,) = item
        return self._manager.restore(epoch, args=ocp.args.Composite(**item))[name]


class _Line(NamedTuple):
    text: bytes
    row: dict[str, Any]


def _read_lines(path: Path) -> list[_Line]:
    """The rows of a metrics file, without a last line that a kill cut off."""
    lines = []
    texts = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, text in enumerate(texts, 1):
        if text.endswith(b"\n"):
            try:
                lines.append(_Line(text, json.loads(text)))
            except ValueError:
                raise InputError(
                    f"{path}, line {number}: not JSON; choose another --out"
                ) from None
    return lines


class _Writers:
    """The open files of metrics: JSON lines and TensorBoard's events."""

    def __init__(self, folder: Path, lines: Sequence[_Line]) -> None:
        """Drops what the files hold but `lines`."""
        self._metrics = (folder / METRICS).open("ab")
        self._metrics.truncate(sum(len(line.text) for line in lines))
        # Written anew, in place: the same bytes, so that TensorBoard may go on reading.
        self._events = RecordWriter(str(folder / EVENTS))
        header = Event(file_version="brain.Event:2")
        self._events.write(header.SerializeToString())
        for line in lines:
            self._events.write(_event(line.row))
        self._events.flush()

    def append(self, line: _Line) -> None:
        self._metrics.write(line.text)
        self._metrics.flush()
        self._events.write(_event(line.row))
        self._events.flush()

    def sync(self) -> None:
        """Makes sure that a checkpoint never outlives its rows, if the power fails."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def _event(row: Mapping[str, Any]) -> bytes:
    """TensorBoard's form of a row: scalars over epochs, without the time of day."""
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if isinstance(value, int | float)
    ]
    summary = Summary(value=values)
    event = Event(step=row["epoch"], summary=summary)
    return event.SerializeToString()


def _kinds(state: Any) -> dict[str, str]:
    """Types and shapes by the paths of a state's arrays."""
    return {
        jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree.leaves_with_path(state)
    }


def _arrays(state: State) -> State:
    """NumPy's scalars as arrays: Orbax refuses them."""
    return jax.tree.map(lambda x: x if hasattr(x, "sharding") else np.asarray(x), state)


def _seal(checkpoint: Path) -> None:
    """Ends a checkpoint with digests of its files: Orbax misses a flipped bit.

    A kill just before leaves a checkpoint that is whole, but without them.
    """
    for path in checkpoint.rglob("commit_success.txt"):
        path.write_text("done")  # Orbax writes the absolute path.
    records.write_json(checkpoint / DIGESTS, _digests(checkpoint))


def _digests(checkpoint: Path) -> dict[str, str]:
    """By the paths of all other files of a checkpoint."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(DIGESTS):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(checkpoint).as_posix()] = digest
    return digests
