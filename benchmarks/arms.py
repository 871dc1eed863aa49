"""Programs that are timed against each other, and the files of their results."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from train.runs import records

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Row = dict[str, Any]


class Arm:
    """A process that trains whole epochs on request.

    It gets its settings as a JSON argument and trains one epoch. Then it reads numbers
    of epochs from its standard input, one per line, and answers each with a line of
    JSON: the seconds, samples and loss.
    """

    def __init__(self, name: str, command: list[str], settings: dict[str, Any]):
        self.name = name
        self._process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.first = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"The {self.name} arm has ended; its message is above.")
        return json.loads(line)

    def train(self, epochs: int) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{epochs}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._process.communicate()  # closes its input


def take_turns(
    commands: dict[str, list[str]],
    settings: dict[str, Any],
    rounds: int,
    least_seconds: float,
) -> dict[str, Any]:
    """Times the arms in turn: A B A B ...

    Args:
        commands: Command that starts each arm, by name.
        settings: Settings for all arms; ``batch_size`` is one of them.
        rounds: Number of samples of each arm.
        least_seconds: Length of a sample; it has as many epochs as take this long.

    Returns:
        The entries of a row: ``samples_per_second`` of each arm and round, their
        ``median``, ``first_epoch_loss``, and the samples themselves.
    """
    arms = {name: Arm(name, command, settings) for name, command in commands.items()}
    platforms = {arm.first["device"]["platform"] for arm in arms.values()}
    if len(platforms) > 1:
        sys.exit("JAX and PyTorch would run on different devices; see --device.")
    epochs = {
        name: max(1, round(least_seconds / arm.first["seconds"]))
        for name, arm in arms.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for done in range(rounds):
        for name, arm in arms.items():
            answer = arm.train(epochs[name])
            rates[name].append(round(answer["samples"] / answer["seconds"]))
        shown = "  ".join(f"{name} {rates[name][-1]:,}" for name in arms)
        print(f"batch {settings['batch_size']:,}, {done + 1}/{rounds}: {shown}")
        sys.stdout.flush()
    for arm in arms.values():
        arm.end()
    timed = ("seconds", "samples", "loss")
    about = {k: v for k, v in arms["jax"].first.items() if k not in timed}
    for name in set(arms) - {"jax"}:
        about["versions"] |= arms[name].first["versions"]
    return {
        "batch_size": settings["batch_size"],
        "samples_per_epoch": arms["jax"].first["samples"],
        "rounds": rounds,
        "epochs_per_sample": epochs,
        "samples_per_second": rates,
        "median": {name: statistics.median(rates[name]) for name in arms},
        "first_epoch_loss": {name: arm.first["loss"] for name, arm in arms.items()},
        "threads": settings["threads"],
    } | about


def ratio(row: Row, one: str, other: str) -> list[float]:
    """Median, least and most of the ratios of two arms' speeds, round by round."""
    rates = row["samples_per_second"]
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


# ------------------------------------------------------------------------- options


def add_options(parser: argparse.ArgumentParser, table: "Table", rounds: int) -> None:
    """Adds the options of a benchmark that compares JAX with PyTorch.

    Args:
        parser: Parser of the benchmark's options.
        table: Its results, for the default of ``--out``.
        rounds: Default of ``--rounds``.
    """
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--rounds", type=int, default=rounds, help="samples of each arm")
    add("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    add("--jax-only", action="store_true", help="leave out the PyTorch arm")
    add("--device", help="PyTorch's device (default: cuda if there is one)")
    add("--threads", type=int, default=cores, help="CPU cores for each arm")
    add("--out", type=pathlib.Path, default=table.file, help="a JSONL file")


def prepare(
    parser: argparse.ArgumentParser, options: argparse.Namespace, program: pathlib.Path
) -> dict[str, list[str]]:
    """Sets the cores and the memory of the arms that are started from here on.

    Args:
        parser: Parser of the options; it ends the program if there is no PyTorch.
        options: Parsed options, with those of `add_options`.
        program: File of the PyTorch arm.

    Returns:
        The command of the PyTorch arm by its name; empty with ``--jax-only``.
    """
    python = options.torch_python
    if not options.jax_only and not has_torch(python):
        parser.error(f"{python} has no PyTorch; give --torch-python or --jax-only")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: options.threads])  # The arms inherit it.
    # Processes share a GPU: none may claim most of its memory at the start.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return {} if options.jax_only else {"pytorch": [python, str(program)]}


def has_torch(python: str) -> bool:
    """Whether this interpreter can be started and imports PyTorch."""
    try:
        probe = subprocess.run([python, "-c", "import torch"], capture_output=True)
    except OSError:
        return False
    return probe.returncode == 0


# ------------------------------------------------------------------------- results


def device(row: Row) -> str:
    """Name of the device that a row was measured on."""
    kind, processor = row["device"], row["processor"]
    return processor["name"] if kind["platform"] == "cpu" else kind["kind"]


def cores(row: Row) -> str:
    """The device and the cores that a row of `take_turns` was measured on."""
    processor = row["processor"]["cores"]
    return f"{device(row)}, {row['threads']} of {processor} CPU cores"


class Table(NamedTuple):
    """A file of rows, and the Markdown table that it becomes.

    Attributes:
        name: Name of the files in `RESULTS`.
        introduction: Text before the table.
        columns: Headers, with bars between them.
        cells: ``row -> `` its cells.
        machine: ``row -> `` what it was measured on, in words.
        key: Entries that two rows share if one replaces the other.
    """

    name: str
    introduction: str
    columns: str
    cells: Callable[[Row], list[str]]
    machine: Callable[[Row], str]
    key: Sequence[str]

    @property
    def file(self) -> pathlib.Path:
        return RESULTS / f"{self.name}.jsonl"

    def text(self, rows: Sequence[Row]) -> str:
        """The table of all rows, with a section for each machine and version."""
        sections: dict[str, list[str]] = {}
        for row in rows:
            versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
            head = f"{self.machine(row)}; {versions}"
            head += f"; commit {row['commit']}, {row['date']}"
            cells = "| " + " | ".join(self.cells(row)) + " |"
            sections.setdefault(head, []).append(cells)
        lines = [self.introduction]
        for head, members in sections.items():
            lines += ["", f"## {head}", "", f"| {self.columns} |"]
            lines += ["|---" * len(self.columns.split("|")) + "|", *members]
        return "\n".join(lines) + "\n"

    def add(self, file: pathlib.Path, row: Row) -> None:
        """Adds a row to a file, in the place of one with the same key.

        Args:
            file: Path of the rows; the table goes beside it.
            row: Result to add.
        """

        def place(row: Row) -> list[Any]:
            values = [row[name] for name in self.key]
            # Numbers are compared as numbers, and everything else as text.
            return [
                value if isinstance(value, int) else json.dumps(value, sort_keys=True)
                for value in values
            ]

        rows = [old for old in read(file) if place(old) != place(row)] + [row]
        rows.sort(key=place)
        file.parent.mkdir(parents=True, exist_ok=True)
        records.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        records.write_text(file.with_suffix(".md"), self.text(rows))


def read(file: pathlib.Path) -> list[Row]:
    """The rows of a file of results; none if there is no such file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]
