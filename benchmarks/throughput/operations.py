"""Times of the single operations of a training step: JAX on a CPU against PyTorch.

Run from the repository root::

    python -m benchmarks.throughput.operations --torch-python PATH

The step is that of `benchmarks.throughput.images` with the small network, in float32.
Each operation runs alone, on arrays that are in memory already: forward, and the
gradients of its inputs. "Norm" is batch norm by the statistics of the batch, with the
ReLU after it; its backward pass is timed with the forward pass, because the libraries
keep different numbers from one for the other. "Inputs" takes a batch of images as
bytes, and crops, mirrors and normalises it. The JAX arm (`operations_jax`) compiles
each operation with the options of `python -m train image`; the PyTorch arm
(`operations_pytorch`) is in channels-last layout with fused Adam. The sum leaves out
what XLA gains where it compiles a whole step at once.

The arms take turns as in `benchmarks.throughput.images`. Results go to
`results/throughput-operations.jsonl` and `.md`.
"""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Sequence

import models
from benchmarks import arms

SIDE = 32  # Pixels of an image's side.
CALLS = 20  # Calls of each operation in a sample.

INTRODUCTION = """# Operations of a training step

Written by `python -m benchmarks.throughput.operations`, whose docstring says what is
timed. Times are milliseconds per batch: the median of the rounds, and in brackets the
least and the most. The ratio is the time of JAX divided by that of PyTorch, round by
round."""
COLUMNS = "operation | batch | JAX | PyTorch | ratio | rounds"


def layers() -> list[tuple[int, int, int, int]]:
    """Side of the input, input channels, output channels and stride of each layer."""
    found, side, inputs = [], SIDE, 3
    features = models.CNN().features
    for number, outputs in enumerate(features, 1):
        stride = 1 if number == len(features) else 2
        found.append((side, inputs, outputs, stride))
        side, inputs = side // stride, outputs
    return found


def cells(row: arms.Row) -> list[str]:
    """A row of the table."""

    def shown(values: Sequence[float], digits: int) -> str:
        median = statistics.median(values)
        numbers = (f"{x:.{digits}f}" for x in (median, min(values), max(values)))
        return "{} ({}, {})".format(*numbers)

    times = row["milliseconds"]
    theirs = times.get("pytorch")
    return [
        row["operation"],
        f"{row['batch_size']:,}",
        shown(times["jax"], 2),
        shown(theirs, 2) if theirs else "–",
        shown(ratios(row), 2) if theirs else "–",
        str(row["rounds"]),
    ]


def ratios(row: arms.Row) -> list[float]:
    """The times of JAX divided by those of PyTorch, round by round."""
    times = row["milliseconds"]
    return [a / b for a, b in zip(times["jax"], times["pytorch"], strict=True)]


TABLE = arms.Table(
    "throughput-operations",
    INTRODUCTION,
    COLUMNS,
    cells,
    arms.cores,
    key=("device", "processor", "threads", "batch_size", "order", "operation"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all operations at one batch size, and rewrites the result files."""
    parser = argparse.ArgumentParser(
        description="Times the operations of a training step in JAX and PyTorch."
    )
    add = parser.add_argument
    add("--batch-size", type=int, default=256)
    arms.add_options(parser, TABLE, rounds=11)
    options = parser.parse_args(arguments)
    torch = pathlib.Path(__file__).with_name("operations_pytorch.py")
    commands = {
        "jax": [sys.executable, "-m", "benchmarks.throughput.operations_jax"],
    } | arms.prepare(parser, options, torch)
    settings = {
        "batch_size": options.batch_size,
        "layers": layers(),
        "threads": options.threads,
        "device": options.device,
    }
    started = {
        name: arms.Arm(name, command, settings) for name, command in commands.items()
    }
    times: dict[str, dict[str, list[float]]] = {}
    for done in range(options.rounds):
        for name, arm in started.items():
            answer = arm.train(CALLS)
            answer |= {"sum": sum(answer.values())}
            for operation, seconds in answer.items():
                samples = times.setdefault(operation, {}).setdefault(name, [])
                samples.append(round(1e3 * seconds, 4))
        print(f"{done + 1}/{options.rounds}: {times['sum']}", flush=True)
    for arm in started.values():
        arm.end()
    about = dict(started["jax"].first)
    for name in set(started) - {"jax"}:
        about["versions"] |= started[name].first["versions"]
    for order, (operation, milliseconds) in enumerate(times.items()):
        row = {
            "operation": operation,
            "order": order,
            "batch_size": options.batch_size,
            "rounds": options.rounds,
            "threads": options.threads,
            "milliseconds": milliseconds,
        }
        TABLE.add(options.out, row | about)
    print(f"wrote {options.out.name} and {options.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
