"""The guard of a folder of results: one command, one set of options, one process."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from train.errors import InputError, require
from train.runs import documents, records


@contextmanager
def open_folder(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Takes a folder for the results of one command, for the length of a block.

    With several processes (`jax.distributed`), the first one takes it for all.

    Args:
        folder: A folder that is new, empty, or of an earlier command with the same
            configuration.
        config: Configuration from `records.run_config`; written to ``config.json``
            with the versions and the device.

    Raises:
        InputError: If `folder` holds something else, is in use, or cannot be read or
            written to, here or within the block (a full disk).
        KeyboardInterrupt: After Ctrl-C; its message says how to go on.
    """
    lock, made, begun, done = None, False, False, False
    try:
        # Before a file is written into the folder.
        check_contents(folder, config)
        if jax.process_index() == 0:
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
            _lock(lock, folder)
            there, begun = check_contents(folder, config), True
            if not there:
                content = {"config": config} | records.environment()
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
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues from here") from None
    finally:
        if lock is not None:
            if begun and not done:
                _forget(folder, made)
            os.close(lock)


def check_contents(folder: Path, config: Mapping[str, Any]) -> bool:
    """Checks whether `folder` holds results with the same options.

    Args:
        folder: Any path.
        config: Configuration from `records.run_config`.

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
    require(
        "config.json" in names, f"{folder} holds files but no run; choose another --out"
    )
    there = documents.read_config(folder)["config"]
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
        folder.stat()
    except FileNotFoundError:
        require(
            not folder.is_symlink(), f"{folder} is a link to nothing; choose another --out"
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
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                path.rmdir()  # Fails if it holds a checkpoint, which ends this.
            elif path.name != "config.json" and path.suffix != records.PART:
                return
        for path in folder.iterdir():
            path.unlink()
        if whole:
            folder.rmdir()
