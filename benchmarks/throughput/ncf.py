"""Training samples per second of NCF on ML-1M sizes, beside a PyTorch loop.

Run from the repository root::

    python -m benchmarks.throughput.ncf --torch-python PATH
    python -m benchmarks.throughput.ncf --batch-sizes 100000 --rounds 3 --jax-only

Both arms do the same work, from end to end: for every epoch they draw four fresh
negatives per positive, none of them a training item of the user, and train on all
samples in random order, with the NCF tower 256 -> 128 -> 64 -> 1 on embeddings of 128,
binary cross entropy and Adam. The JAX arm (`ncf_jax`) is the compiled epoch of `python
-m train recsys`. It applies the first dense layer to the embedding tables instead of to
each sample where that is less work: the function is the same. The PyTorch arm
(`ncf_pytorch`) is a plain eager loop on tensors in memory: a boolean table of the items
that each user has seen, rejection, `randperm`, fused Adam. The loss of the first epoch
is reported for both: it would show that one of them trains something else.

Each arm lives in its own process. One of them runs at a time, in turn (A B A B ...), on
the same cores, and ratios are taken round by round. A sample is as many whole epochs as
take `MIN_SECONDS`, the last part of a batch included, without compilation and the first
epoch. Where PyTorch's epoch takes too long, `--torch-share 0.2` trains a fifth of one
and counts a fifth of the time that drawing and shuffling take. On CPUs the project
takes a batch in parts of 10,000 samples by default and sums their gradients;
`--torch-micro-batch` lets PyTorch do the same. Measure on an idle machine: PyTorch's
threads wait for each other.

Interactions are drawn from a fixed seed in the sizes of ML-1M, with users as unequally
active and items as unequally popular as there; `--data-dir` takes the real ones.
Results go to `results/throughput-ncf.jsonl` and `.md`. A run replaces the rows of its
own device, data and batch sizes and keeps the others.
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
from train.errors import InputError
from train.recommenders.data import load

RATE = 1e-3
MIN_SECONDS = 1.0
# ML-1M: users, items, training positives (one interaction per user is held out).
SIZES = (6040, 3706, 994_169)


def synthetic(num_users: int, num_items: int, num_positives: int) -> np.ndarray:
    """Draws distinct (user, item) pairs, int32[n, 2], skewed as in ML-1M.

    In ML-1M the mean user has 1.7 times the interactions of the median one, and at
    least 19 in training; popularity falls about exponentially with an item's rank.
    """
    rng = np.random.default_rng(0)
    least = min(19, num_positives // num_users)
    counts = np.full(num_users, least)
    activity = rng.lognormal(0, 1.04, num_users)
    while missing := num_positives - counts.sum():
        chances = activity * (counts < num_items // 2)
        counts += rng.multinomial(missing, chances / chances.sum())
        counts = np.minimum(counts, num_items // 2)
    # The logarithm of how popular each item is.
    popularity = rng.permutation(-np.arange(num_items) * 5.3 / num_items)
    rows = []
    for user, count in enumerate(counts):
        # The items with the largest log-weight plus Gumbel noise are a draw without
        # replacement.
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
Speeds are millions of samples (positives and negatives) per second: the median of the
rounds, and in brackets the least and the most. The ratio is JAX / PyTorch, round by
round."""
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


TABLE = arms.Table(
    "throughput-ncf",
    INTRODUCTION,
    COLUMNS,
    cells,
    arms.cores,
    key=(
        "device",
        "processor",
        "threads",
        "data",
        "samples_per_epoch",
        "batch_size",
        "torch_micro_batch",
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the chosen batch sizes, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times NCF training beside a PyTorch loop."
    )
    add = parser.add_argument
    add("--batch-sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    add("--torch-micro-batch", type=int, help="samples whose gradients PyTorch sums")
    add("--torch-share", type=float, default=1.0, help="share of an epoch in a sample")
    add("--data-dir", type=pathlib.Path, help="folder with He et al.'s ml-1m files")
    add("--sizes", nargs=3, type=int, default=SIZES, help="users, items, positives")
    arms.add_options(parser, TABLE, rounds=5)
    options = parser.parse_args(arguments)
    torch = pathlib.Path(__file__).with_name("ncf_pytorch.py")
    commands = {"jax": [sys.executable, "-m", "benchmarks.throughput.ncf_jax"]}
    commands |= arms.prepare(parser, options, torch)
    if options.data_dir:
        try:
            data = load("ml-1m-ncf", options.data_dir)
        except InputError as error:
            parser.error(str(error))
        train, sizes, name = data.train, (data.num_users, data.num_items), data.name
    else:
        train, sizes = synthetic(*options.sizes), options.sizes[:2]
        name = "synthetic"
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
            TABLE.add(options.out, row)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
