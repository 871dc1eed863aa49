"""Training samples per second of NCF on ML-1M sizes, beside a PyTorch loop.

Run from the repository root::

    python -m benchmarks.throughput.ncf --torch-python PATH
    python -m benchmarks.throughput.ncf --batch-sizes 100000 --rounds 3 --jax-only

Both arms do the same work, end to end: for every epoch four fresh negatives per
positive, never a training item of the user; all samples in random order; the NCF tower
256 -> 128 -> 64 -> 1 on embeddings of 128; binary cross entropy; Adam. The JAX arm
(`ncf_jax`) is the compiled epoch of `python -m train recsys`, which applies the first
dense layer to the embedding tables instead of to each sample where that is less: the
same function. The PyTorch arm
(`ncf_pytorch`) is a plain eager loop on tensors in memory: a boolean table of what each
user has seen, rejection, `randperm`, fused Adam. The loss of the first epoch is
reported for both, so that it shows if one of them trains something else.

Each arm lives in its own process; one runs at a time, in turn (A B A B ...), on the
same cores, and ratios are taken round by round. A sample is whole epochs, the last part
batch included, as many as take `MIN_SECONDS`; compilation and the first epoch are not
in it. Where PyTorch's epoch takes too long, `--torch-share 0.2` trains a fifth of one,
with that share of the time to draw and shuffle it. The project's default for CPUs takes
a batch in parts of 10,000 samples and sums their gradients; `--torch-micro-batch` lets
PyTorch do the same. Measure on an idle machine: PyTorch's threads wait for each other.

Interactions are drawn from a fixed seed in the sizes of ML-1M, with activity of users
and popularity of items skewed alike; `--data-dir` takes the real ones. Results go to
`results/ncf_throughput.json` and `.md`; a run replaces the rows of its own device, data
and batch sizes and keeps the others.
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
from train import InputError
from train.recommenders.data import load

RATE = 1e-3
MIN_SECONDS = 1.0
# What makes two rows results of the same thing.
KEY = (
    *("device", "threads", "data", "samples_per_epoch", "batch_size"),
    "torch_micro_batch",
)
# ML-1M: users, items, training positives (one interaction per user is held out).
SIZES = (6040, 3706, 994_169)


def synthetic(num_users: int, num_items: int, num_positives: int) -> np.ndarray:
    """Draws distinct (user, item) pairs, int32[n, 2], skewed as in ML-1M.

    There the mean user has 1.7 times the interactions of the median one, at least 19
    in training, and popularity falls about exponentially with the rank of an item.
    """
    rng = np.random.default_rng(0)
    least = min(19, num_positives // num_users)
    counts = np.full(num_users, least)
    activity = rng.lognormal(0, 1.04, num_users)
    while missing := num_positives - counts.sum():
        chances = activity * (counts < num_items // 2)
        counts += rng.multinomial(missing, chances / chances.sum())
        counts = np.minimum(counts, num_items // 2)
    popularity = rng.permutation(-np.arange(num_items) * 5.3 / num_items)  # a logarithm
    rows = []
    for user, count in enumerate(counts):
        # The largest of log-weights with Gumbel noise: a draw without replacement.
        scores = popularity + rng.gumbel(size=num_items)
        items = np.argpartition(-scores, count)[:count]
        rows.append(np.stack([np.full(count, user), items], axis=1))
    return np.concatenate(rows).astype(np.int32)


def measure(
    commands: dict[str, list[str]], settings: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Times the arms in turn at one batch size; returns the row of results."""
    row = arms.take_turns(commands, settings, rounds, MIN_SECONDS)
    row |= {key: settings[key] for key in ("torch_micro_batch", "torch_share")}
    if "pytorch" in commands:
        row["ratio"] = arms.ratio(row, "jax", "pytorch")
    return row


INTRODUCTION = """# Training samples per second of NCF

Written by `python -m benchmarks.throughput.ncf`, whose docstring says what is timed.
Millions of samples (positives and negatives) per second, median of the rounds, in
brackets the least and the most; ratio: JAX / PyTorch, round by round."""
COLUMNS = (
    "data | batch | in parts of, JAX / PyTorch | JAX | PyTorch | ratio"
    " | loss of epoch 1, JAX / PyTorch | rounds | JAX compile s"
)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""

    def speed(name: str) -> str:
        rates = [1e-6 * rate for rate in row["samples_per_second"].get(name, [])]
        if not rates:
            return "–"
        return f"{statistics.median(rates):.3g} ({min(rates):.3g}, {max(rates):.3g})"

    ratio = row.get("ratio")
    return [
        row["data"],
        f"{row['batch_size']:,}",
        f"{row['jax_micro_batch']:,} / {row['torch_micro_batch']:,}",
        speed("jax"),
        speed("pytorch"),
        "{:.2f} ({:.2f}, {:.2f})".format(*ratio) if ratio else "–",
        " / ".join(f"{x:.4f}" for x in row["first_epoch_loss"].values()),
        str(row["rounds"]),
        f"{row['compile_seconds']:.1f}",
    ]


def main() -> None:
    """Measures the chosen batch sizes, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times NCF training beside a PyTorch loop."
    )
    results = pathlib.Path(__file__).parents[1] / "results" / "ncf_throughput.json"
    cores = sorted(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--batch-sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    add("--rounds", type=int, default=5)
    add("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    add("--jax-only", action="store_true", help="without the PyTorch arm")
    add("--device", help="of PyTorch, such as cuda (default: cuda if there is one)")
    add("--torch-micro-batch", type=int, help="PyTorch sums gradients of such parts")
    add("--torch-share", type=float, default=1.0, help="of an epoch, in a sample")
    add("--threads", type=int, default=len(cores), help="CPU cores for either arm")
    add("--data-dir", type=pathlib.Path, help="folder with He et al.'s ml-1m files")
    add("--sizes", nargs=3, type=int, default=SIZES, help="users, items, positives")
    add("--out", type=pathlib.Path, default=results, help="a JSON file")
    options = parser.parse_args()
    commands = {"jax": [sys.executable, "-m", "benchmarks.throughput.ncf_jax"]}
    if not options.jax_only:
        if not arms.has_torch(options.torch_python):
            parser.error(
                f"{options.torch_python} has no PyTorch; give --torch-python or"
                " --jax-only"
            )
        file = str(pathlib.Path(__file__).with_name("ncf_pytorch.py"))
        commands["pytorch"] = [options.torch_python, file]
    if options.data_dir:
        try:
            data = load("ml-1m-ncf", options.data_dir)
        except InputError as error:
            parser.error(str(error))
        train, sizes, name = data.train, (data.num_users, data.num_items), data.name
    else:
        train, sizes = synthetic(*options.sizes), options.sizes[:2]
        name = "synthetic"
    os.sched_setaffinity(0, cores[: options.threads])  # the arms inherit it
    # Two processes share a GPU: neither may claim most of its memory at the start.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/train.npz"
        np.savez(file, train=train, num_users=sizes[0], num_items=sizes[1])
        for batch_size in options.batch_sizes:
            settings = {
                "data": file,
                "batch_size": batch_size,
                "rate": RATE,
                "threads": options.threads,
                "device": options.device,
                "torch_micro_batch": options.torch_micro_batch or batch_size,
                "torch_share": options.torch_share,
            }
            row = measure(commands, settings, options.rounds)
            row |= {"data": f"{name} {sizes[0]} x {sizes[1]}"}
            losses = "  ".join(
                f"{k} {v:.4f}" for k, v in row["first_epoch_loss"].items()
            )
            print(
                f"batch {batch_size:,}: samples/s {row['median']}, JAX / PyTorch"
                f" {row.get('ratio')}; loss of epoch 1: {losses}",
                flush=True,
            )
            rows = arms.write(options.out, rows, row, KEY)
            options.out.with_suffix(".md").write_text(
                arms.table(INTRODUCTION, COLUMNS, rows, cells, arms.cores)
            )
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
