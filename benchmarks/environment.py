"""What a benchmark row says about the machine and the code: no paths, no host names."""

import datetime
import pathlib
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from train.runs import records


def describe() -> dict[str, Any]:
    """Versions, device and processor as a run records them, with commit and date."""
    return records.environment() | {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str | None:
    """Short hash of the checkout, followed by "+" if files differ from it.

    Results do not count: a benchmark writes them while it runs.
    """
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=here)
        return done.stdout.strip()

    try:
        found = git("rev-parse", "--short", "HEAD")
        changed = git("diff", "--name-only", "HEAD", "--", ":/", ":!results")
    except OSError:
        return None
    return found + "+" * bool(changed) if found else None


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
