"""Files and folders of results: configuration, environment, JSON.

No file but TensorBoard's events holds the time of day, and none a host name or an
absolute path, so that results can be compared and published unchanged.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "lawn-optax")
PART = ".part"  # Ending of a file that is still being written.


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
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, all or nothing."""
    part = path.with_name(path.name + PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line; numbers that are not finite become null."""
    write_text(path, "".join(map(json_line, rows)))


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
