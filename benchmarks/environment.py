"""What a benchmark row says about the machine and the code: no paths, no host names."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import lawn_optax
from train.runs.records import processor_name


def describe() -> dict[str, Any]:
    """Names the device, the processor, the versions and the commit."""
    device = jax.devices()[0]
    versions = {p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "optax")}
    versions |= {"python": platform.python_version()}
    return {
        "platform": device.platform,
        "device": processor_name() if device.platform == "cpu" else device.device_kind,
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "versions": versions | {"lawn_optax": lawn_optax.__version__},
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str | None:
    """Short hash of the checkout, "+" behind it if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    here = pathlib.Path(__file__).parent
    try:
        git = subprocess.run(command, capture_output=True, text=True, cwd=here)
    except OSError:
        return None
    return git.stdout.strip() or None


def copy_bandwidth(size: int = 100_000_000, iterations: int = 24) -> float:
    """GB/s of reading and writing a float32 array in place, best of five calls."""
    array = jnp.zeros(size, jnp.float32)
    copy = jax.jit(
        lambda x: lax.fori_loop(0, iterations, lambda _, y: y + 1, x), donate_argnums=0
    )
    seconds = []
    array = jax.block_until_ready(copy(array))
    for _ in range(5):
        begin = time.perf_counter()
        array = jax.block_until_ready(copy(array))
        seconds.append(time.perf_counter() - begin)
    gigabytes = 2 * array.nbytes * iterations / 1e9
    return round(gigabytes / min(seconds), 2)
