"""Training images per second on CIFAR's sizes: Adam, Adam-LAWN, and a PyTorch loop.

Run from the repository root::

    python -m benchmarks.throughput.images --torch-python PATH
    python -m benchmarks.throughput.images --model vgg19 --dtype bfloat16 \\
        --batch-size 4000 --images 50000 --torch-python PATH          # on a GPU

All arms do the same work: images as bytes in the device's memory, in random order;
random crops and mirror images; the mean subtracted; cross entropy; Adam. The JAX arms
(`image_jax`) are the steps of `python -m train image`, with ``adam`` and with
``adam-lawn``, which is constrained from the first update on: what the one takes longer
is LAWN's share of a training step. The PyTorch arm (`image_pytorch`) is a plain loop in
channels-last layout with fused Adam, and autocast for bfloat16.

Each arm lives in its own process; one runs at a time, in turn, on the same cores, and
ratios are taken round by round. A sample is whole epochs of ``--images`` made-up images
(a real epoch has 50,000); compilation and the first epoch are not in it. The loss of
the first epoch is reported for all, so that it shows if one trains something else.

Results go to `results/image_throughput.json` and `.md`; a run replaces the row of its
own device, model and batch size and keeps the others.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import arms

RATE = 1e-3
MIN_SECONDS = 1.0
# What makes two rows results of the same thing.
KEY = ("device", "threads", "model", "dtype", "batch_size", "samples_per_epoch")


def synthetic(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes ``[n, 32, 32, 3]`` with a tint by their labels ``[n]``, from 0 to 9."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=count).astype(np.int32)
    tints = rng.integers(60, size=(10, 1, 1, 3))
    images = rng.integers(196, size=(count, 32, 32, 3)) + tints[labels]
    return images.astype(np.uint8), labels


INTRODUCTION = """# Training images per second on CIFAR's sizes

Written by `python -m benchmarks.throughput.images`, whose docstring says what is timed.
Images per second, median of the rounds, in brackets the least and the most; ratio:
JAX / PyTorch, both with Adam, round by round; LAWN's share: of the time of a training
step with Adam-LAWN, what it takes longer than with Adam, round by round, in brackets
the 95 % interval of the median (bootstrap)."""
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


def main() -> None:
    """Measures one model at one batch size, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times image training with Adam, Adam-LAWN and a PyTorch loop."
    )
    results = pathlib.Path(__file__).parents[1] / "results" / "image_throughput.json"
    cores = sorted(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--model", choices=("cnn", "vgg19"), default="cnn")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--batch-size", type=int, default=256)
    add("--images", type=int, default=5_120, help="per epoch")
    add("--rounds", type=int, default=5)
    add("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    add("--jax-only", action="store_true", help="without the PyTorch arm")
    add("--device", help="of PyTorch, such as cuda (default: cuda if there is one)")
    add("--threads", type=int, default=len(cores), help="CPU cores for each arm")
    add("--out", type=pathlib.Path, default=results, help="a JSON file")
    options = parser.parse_args()
    if options.batch_size > options.images:
        parser.error("--images must be at least --batch-size")
    ours = [sys.executable, "-m", "benchmarks.throughput.images_jax"]
    commands = {"jax": [*ours, "adam"], "adam-lawn": [*ours, "adam-lawn"]}
    if not options.jax_only:
        if not arms.has_torch(options.torch_python):
            parser.error(
                f"{options.torch_python} has no PyTorch; give --torch-python or"
                " --jax-only"
            )
        file = str(pathlib.Path(__file__).with_name("images_pytorch.py"))
        commands["pytorch"] = [options.torch_python, file]
    os.sched_setaffinity(0, cores[: options.threads])  # the arms inherit it
    # Processes share a GPU: none may claim most of its memory at the start.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

    rows = json.loads(options.out.read_text()) if options.out.exists() else []
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
    rows = arms.write(options.out, rows, row, KEY)
    text = arms.table(INTRODUCTION, COLUMNS, rows, cells, arms.cores)
    options.out.with_suffix(".md").write_text(text)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
