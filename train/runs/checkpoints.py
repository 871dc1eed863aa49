"""Checkpoints of a run by Orbax, each with digests of its files."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.errors import InputError, require
from train.runs import documents, records

State = TypeVar("State")

DIGESTS = "sha256.json"
_KEPT = 2
_REMEDY = "delete it to go on from an earlier one, or choose another --out"


class Checkpoints:
    """The newest checkpoints of a run. Closed at the end of a ``with`` block.

    Args:
        folder: Absolute path of their folder, made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Removes the rest of a checkpoint whose writing was interrupted by a kill."""
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def newest(self) -> int | None:
        """The epoch of the newest checkpoint; None if there is none.

        Raises:
            InputError: If it is so damaged that Orbax passes it over.
        """
        newest = self._manager.latest_step()
        names = [path.name for path in self._folder.iterdir() if path.name.isdecimal()]
        last = max(map(int, names), default=None)
        require(last == newest, f"{self._folder / str(last)} is damaged; {_REMEDY}")
        return newest

    def write(self, epoch: int, state: Any, rows: str = "") -> None:
        """Writes a checkpoint; all processes call this.

        Args:
            epoch: Number of the epoch, higher than that of the newest checkpoint.
            state: A pytree of `jax.Array` or `numpy.ndarray`.
            rows: Digest of the rows of metrics up to this epoch.

        Raises:
            OSError: If the disk is full.
        """
        item = ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(state)),
            kinds=ocp.args.JsonSave(_kinds(state)),
            rows=ocp.args.JsonSave({"epoch": epoch, "sha256": rows}),
        )
        try:
            self._manager.save(epoch, args=item, force=True)
        except ValueError as error:  # TensorStore reports a full disk this way.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if not code:
                raise
            number = int(code[1])
            place = str(self._folder.parent)
            raise OSError(number, os.strerror(number), place) from None
        if jax.process_index() == 0:
            _seal(self._folder / str(epoch))

    def read(self, epoch: int, state: State) -> tuple[State, str]:
        """Reads a checkpoint.

        Args:
            epoch: Number of the epoch.
            state: Arrays, or `jax.ShapeDtypeStruct` with shardings, of the same
                shapes and types as those of the checkpoint.

        Returns:
            The state of the checkpoint, placed like `state`, and the digest of the
            rows; empty if an older version wrote it.

        Raises:
            InputError: If the checkpoint is damaged, or its state has other arrays.
        """
        path = self._folder / str(epoch)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        digests = path / DIGESTS
        sealed = digests.exists()
        try:
            if sealed:
                expected = documents.read_json(digests).items()
                require(expected <= _digests(path).items(), "a file has changed")
            kinds = self._restore(epoch, kinds=ocp.args.JsonRestore())
            differ = dict(kinds.items() ^ _kinds(state).items())
            if not differ:
                state = self._restore(epoch, state=ocp.args.StandardRestore(abstract))
            rows = {"epoch": epoch, "sha256": ""}
            if (path / "rows").exists():
                rows = self._restore(epoch, rows=ocp.args.JsonRestore())
            require(rows["epoch"] == epoch, "it was renamed")
        except Exception:  # Orbax raises many kinds of errors for a damaged file.
            raise InputError(f"{path} is damaged; {_REMEDY}") from None
        names = ", ".join(sorted(differ))
        require(not differ, f"{path} is of another state ({names} differ); {_REMEDY}")
        if not sealed and jax.process_index() == 0:
            _seal(path)
        return state, rows["sha256"]

    def _restore(self, epoch: int, **item: ocp.args.CheckpointArgs) -> Any:
        (name,) = item
        return self._manager.restore(epoch, args=ocp.args.Composite(**item))[name]


def _kinds(state: Any) -> dict[str, str]:
    """Types and shapes by the paths of a state's arrays."""
    return {
        jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree.leaves_with_path(state)
    }


def _arrays(state: State) -> State:
    """Turns NumPy scalars into arrays: Orbax refuses scalars."""
    return jax.tree.map(lambda x: x if hasattr(x, "sharding") else np.asarray(x), state)


def _seal(checkpoint: Path) -> None:
    """Adds the digests to a checkpoint: Orbax does not notice a flipped bit.

    A kill just before this leaves a checkpoint that is complete but has no digests.
    """
    for path in checkpoint.rglob("commit_success.txt"):
        path.write_text("done")  # Orbax writes the absolute path.
    records.write_json(checkpoint / DIGESTS, _digests(checkpoint))


def _digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of all files of a checkpoint, by their paths, except the digests."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(DIGESTS):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(checkpoint).as_posix()] = digest
    return digests
