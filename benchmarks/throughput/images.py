"""Training images per second on CIFAR's sizes: Adam, Adam-LAWN, and a PyTorch loop.

Run from the repository root::

    python -m benchmarks.throughput.images --torch-python PATH
    python -m benchmarks.throughput.images --model vgg19 --dtype bfloat16 \\
        --batch-size 4000 --images 50000 --torch-python PATH          # on a GPU

All arms do the same work: they take images as bytes from the device's memory, in random
order, make random crops and mirror images, subtract the mean, and train with cross
entropy and Adam. The JAX arms (`images_jax`) are the steps of `python -m train image`,
with ``adam`` and with ``adam-lawn``, which is constrained from the first update on. The
time by which the second one is slower is LAWN's share of a training step. The PyTorch
arm (`images_pytorch`) is a plain loop in channels-last layout with fused Adam, and with
autocast for bfloat16.

Each arm lives in its own process. One of them runs at a time, in turn, on the same
cores, and ratios are taken round by round. A sample is whole epochs of ``--images``
made-up images (a real epoch has 50,000), without compilation and the first epoch. The
loss of the first epoch is reported for all arms: it would show that one of them trains
something else.

Results go to `results/throughput-images.jsonl` and `.md`. A run replaces the row of its
own device, model and batch size and keeps the others.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import arms

RATE = 1e-3
MIN_SECONDS = 1.0


def synthetic(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes ``[n, 32, 32, 3]`` with a tint by their labels ``[n]``, from 0 to 9."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=count).astype(np.int32)
    tints = rng.integers(60, size=(10, 1, 1, 3))
    images = rng.integers(196, size=(count, 32, 32, 3)) + tints[labels]
    return images.astype(np.uint8), labels


INTRODUCTION = """# Training images per second on CIFAR's sizes

Written by `python -m benchmarks.throughput.images`, whose docstring says what is timed.
Speeds are images per second: the median of the rounds, and in brackets the least and
the most. The ratio is JAX / PyTorch, both with Adam, round by round. LAWN's share is
the part of a training step with Adam-LAWN by which it is longer than one with Adam,
round by round, and in brackets the 95% interval of the median (bootstrap)."""
COLUMNS = (
    "model | batch | Adam | Adam-LAWN | LAWN's share % | PyTorch Adam | ratio"
    " | s per 50,000 images | loss of epoch 1, Adam / Adam-LAWN / PyTorch | rounds"
)


def shares(row: dict[str, Any]) -> list[float]:
    """LAWN's share of a step in percent: median of the rounds, and its 95 % interval.

    The interval is the percentile bootstrap's, with 10,000 resamples.
    """
    rates = row["samples_per_second"]
    found = 100 * (1 - np.divide(rates["adam-lawn"], rates["jax"]))
    rows = np.random.default_rng(0).integers(found.size, size=(10_000, found.size))
    ends = np.percentile(np.median(found[rows], axis=1), (2.5, 97.5))
    return [float(x) for x in (np.median(found), *ends)]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""

    def speed(name: str) -> str:
        rates = row["samples_per_second"].get(name)
        if not rates:
            return "–"
        return f"{statistics.median(rates):,.0f} ({min(rates):,}, {max(rates):,})"

    ratio = row.get("ratio")
    return [
        f"{row['model']}, {row['dtype']}",
        f"{row['batch_size']:,}",
        speed("jax"),
        speed("adam-lawn"),
        "{:.1f} ({:.1f}, {:.1f})".format(*shares(row)),
        speed("pytorch"),
        "{:.2f} ({:.2f}, {:.2f})".format(*ratio) if ratio else "–",
        f"{50_000 / row['median']['jax']:.3g}",
        " / ".join(f"{x:.3f}" for x in row["first_epoch_loss"].values()),
        str(row["rounds"]),
    ]


TABLE = arms.Table(
    "throughput-images",
    INTRODUCTION,
    COLUMNS,
    cells,
    arms.cores,
    key=(
        "device",
        "processor",
        "threads",
        "model",
        "dtype",
        "batch_size",
        "samples_per_epoch",
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one model at one batch size, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times image training with Adam, Adam-LAWN and a PyTorch loop."
    )
    add = parser.add_argument
    add("--model", choices=("cnn", "vgg19"), default="cnn")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--batch-size", type=int, default=256)
    add("--images", type=int, default=5_120, help="images per epoch")
    arms.add_options(parser, TABLE, rounds=5)
    options = parser.parse_args(arguments)
    if options.batch_size > options.images:
        parser.error("--images must be at least --batch-size")
    torch = pathlib.Path(__file__).with_name("images_pytorch.py")
    ours = [sys.executable, "-m", "benchmarks.throughput.images_jax"]
    commands = {"jax": [*ours, "adam"], "adam-lawn": [*ours, "adam-lawn"]}
    commands |= arms.prepare(parser, options, torch)
    with tempfile.TemporaryDirectory() as folder:
        images, labels = synthetic(options.images)
        np.savez(f"{folder}/images.npz", images=images, labels=labels)
        settings = {"data": f"{folder}/images.npz", "rate": RATE}
        keys = ("model", "dtype", "batch_size", "threads", "device")
        settings |= {key: getattr(options, key) for key in keys}
        row = arms.take_turns(commands, settings, options.rounds, MIN_SECONDS)
    row |= {"model": options.model, "dtype": options.dtype}
    if "pytorch" in commands:
        row["ratio"] = arms.ratio(row, "jax", "pytorch")
    TABLE.add(options.out, row)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
