"""Files and folders of results: configuration, environment, JSON.

No file holds a host name, an absolute path or the time of day, so that results can be
compared and published unchanged.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from train import InputError

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "lawn-optax")
_PART = ".part"  # Ending of a file that is still being written.


def run_config(
    experiment: str, config: Any, unrelated: Sequence[str] = ("out", "quiet")
) -> dict[str, Any]:
    """The options that decide the result of a run, ready for JSON.

    Args:
        experiment: Name of the experiment.
        config: Dataclass of options.
        unrelated: Names of fields that do not change the result. They are left out.

    Returns:
        The experiment's name and the options by name.
    """
    options = dataclasses.asdict(config)
    for name in unrelated:
        options.pop(name, None)
    return json.loads(json.dumps({"experiment": experiment} | options))


def default_folder(config: Mapping[str, Any]) -> Path:
    """``runs/EXPERIMENT/HASH``: the same options give the same folder.

    Args:
        config: Configuration from `run_config`.

    Returns:
        A path relative to the working directory.
    """
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path("runs", config["experiment"], digest)


@contextmanager
def run_folder(folder: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Collects files in a temporary folder and moves them into `folder` at the end.

    If the work within the ``with`` block fails or is interrupted, `folder` does not
    change.

    Args:
        folder: A folder that is new, empty, or of an earlier run with the same
            configuration, whose files are replaced.
        config: Configuration from `run_config`; written to ``config.json`` with the
            versions and the device.

    Yields:
        An empty folder to write into.

    Raises:
        InputError: If `folder` holds something else or cannot be written to, here or
            within the block (a full disk).
    """
    check_contents(folder, config)
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".run-") as name:
            write_json(Path(name, "config.json"), {"config": config} | environment())
            yield Path(name)
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(name).iterdir()):
                os.replace(path, folder / path.name)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}); free some space or"
            " choose another --out"
        ) from None


def check_contents(folder: Path, config: Mapping[str, Any]) -> bool:
    """Checks whether `folder` holds a run with the same options.

    Args:
        folder: Any path.
        config: Configuration from `run_config`.

    Returns:
        False if the folder is new or empty.

    Raises:
        InputError: If `folder` holds anything else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; choose another --out")
    if all(path.suffix == _PART for path in folder.iterdir()):
        return False
    try:
        there = json.loads((folder / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} holds files but no run; choose another --out"
        ) from None
    if there != config:
        names = [key for key in config if there.get(key) != config[key]]
        raise InputError(
            f"{folder} holds a run with another configuration"
            f" ({', '.join(names)} differ); choose another --out"
        )
    return True


def environment() -> dict[str, Any]:
    """Versions and device, which a reader needs to judge or repeat a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # A checkout, not installed.
            versions[package] = "not installed"
    device = jax.devices()[0]
    return {
        "versions": versions,
        "device": {"platform": device.platform, "kind": device.device_kind},
        "processor": {"name": processor_name(), "cores": os.cpu_count()},
    }


def processor_name() -> str:
    """The model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON document, all or nothing; infinite and NaN become null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line; numbers that are not finite become null."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json_line(row))


def json_line(row: Mapping[str, Any]) -> str:
    """One row of a JSONL file; numbers that are not finite become null."""
    return json.dumps(_plain(row), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        # A float32 has seven digits; more would be noise.
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
