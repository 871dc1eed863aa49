"""The guard of a folder of results: one command, one set of options, one process."""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from train.errors import InputError, require
from train.runs import documents, records


@contextmanager
def open_folder(
    folder: Path,
    config: Mapping[str, Any],
    *,
    about: Callable[[], Mapping[str, Any]] = records.environment,
    leader: bool = True,
    adopt: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Takes a folder for the results of one command, for the length of a block.

    Args:
        folder: A folder that is new, empty, or of an earlier command with the same
            configuration.
        config: Configuration from `records.run_config`; written to ``config.json``.
        about: ``() ->`` what ``config.json`` holds beside it.
        leader: Whether this process takes the folder, for all processes of the run.
        adopt: Check of a folder with other files, which raises an `InputError` unless
            the results may stand among them. Such a folder is not marked. None if it
            may have no other files.

    Raises:
        InputError: If `folder` holds something else, is in use, or cannot be read or
            written to, here or within the block (a full disk).
    """
    lock, made, begun, done = None, False, False, False
    try:
        # Before a file is written into the folder.
        check_contents(folder, config, adopt)
        if leader:
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
            _lock(lock, folder)
            there, begun = check_contents(folder, config, adopt), True
            if not there:
                content = {"config": config} | dict(about())
                records.write_json(folder / "config.json", content)
        yield
        done = True
    except BrokenPipeError:  # The reader of the output is gone; see `train.__main__`.
        raise
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error};"
            " remedy that, then the same command goes on"
        ) from None
    finally:
        if lock is not None:
            if begun and not done:
                _forget(folder, made)
            os.close(lock)


def check_contents(
    folder: Path, config: Mapping[str, Any], adopt: Callable[[], None] | None = None
) -> bool:
    """Checks whether `folder` holds results with the same options.

    Args:
        folder: Any path.
        config: Configuration from `records.run_config`.
        adopt: Check of a folder that holds other files, without a ``config.json``;
            None if it may not.

    Returns:
        False if the folder is new or empty.

    Raises:
        InputError: If `folder` holds anything else.
    """
    if not check_place(folder):
        return False
    names = [path.name for path in folder.iterdir()]
    if all(name.endswith(records.PART) for name in names):
        return False
    if "config.json" not in names:
        if adopt is None:
            raise InputError(f"{folder} holds files but no run; choose another --out")
        adopt()
        return True
    there = documents.read_config(folder)["config"]
    require(
        there["experiment"] == config["experiment"],
        f"{folder} holds the results of another command, {there['experiment']}; choose"
        " another --out",
    )
    differ = sorted(
        key for key in config.keys() | there.keys() if there.get(key) != config.get(key)
    )
    require(
        not differ,
        f"{folder} holds a run with another configuration ({', '.join(differ)} differ);"
        " choose another --out",
    )
    return True


def check_place(folder: Path) -> bool:
    """Whether there is such a folder.

    Raises:
        InputError: If something else is there, or nothing can be.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:  # Orbax takes no other names.
        raise InputError(
            f"{folder}: a name on the way is not UTF-8; choose another --out"
        ) from None
    try:
        folder.stat()
    except FileNotFoundError:
        require(
            not folder.is_symlink(),
            f"{folder} is a link to nothing; choose another --out",
        )
        return False
    except OSError as error:  # A link in a circle, a name that is too long.
        raise InputError(f"{folder}: {error.strerror}; choose another --out") from None
    require(folder.is_dir(), f"{folder} is not a folder; choose another --out")
    return True


def _lock(descriptor: int, folder: Path) -> None:
    """Locks a folder for this process; the kernel unlocks it, after a kill too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{folder} is in use by another run; wait for it or choose another --out"
        ) from None
    except OSError:  # Some network file systems cannot lock folders.
        pass


def _forget(folder: Path, whole: bool) -> None:
    """Removes a configuration without results, and the folder if `whole`."""
    own = ("config.json", f"config.json{records.PART}", "checkpoints")
    with suppress(OSError):
        found = sorted(folder.iterdir())
        if any(path.name not in own for path in found):
            return
        for path in found:
            if path.is_dir():
                path.rmdir()  # Fails if it holds a checkpoint, which ends this.
        for name in own[:2]:
            (folder / name).unlink(missing_ok=True)
        if whole:
            folder.rmdir()
