"""Programs that are timed against each other, each in a process of its own."""

import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent


class Arm:
    """A process that trains whole epochs on request, and what it said at the start.

    It gets its settings as a JSON argument and trains one epoch; then it answers each
    line with a number of epochs on its standard input. An answer is a line of JSON with
    the seconds, samples and loss.
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
        commands: Name of an arm -> how it is started.
        settings: For all arms, with their ``batch_size``.
        rounds: Samples of each arm.
        least_seconds: A sample is as many epochs as take this long.

    Returns:
        What is to be recorded: ``samples_per_second`` of each arm and round, their
        ``median``, ``first_epoch_loss``, and the samples themselves.
    """
    arms = {name: Arm(name, command, settings) for name, command in commands.items()}
    platforms = {arm.first["platform"] for arm in arms.values()}
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


def ratio(row: dict[str, Any], one: str, other: str) -> list[float]:
    """Of the speeds of two arms, round by round: median, least and most."""
    rates = row["samples_per_second"]
    ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
    return [round(f(ratios), 3) for f in (statistics.median, min, max)]


def cores(row: dict[str, Any]) -> str:
    """What a row of `take_turns` was measured on."""
    return f"{row['device']}, {row['threads']} of {row['cores']} CPU cores"


def table(
    introduction: str,
    columns: str,
    rows: list[dict[str, Any]],
    cells: Callable[[dict[str, Any]], list[str]],
    machine: Callable[[dict[str, Any]], str],
) -> str:
    """A Markdown table of all rows, a section per device, versions and commit.

    Args:
        introduction: What stands before it.
        columns: Headers, with bars between them.
        rows: Of the JSON file.
        cells: Gives the cells of a row.
        machine: Gives what a row was measured on, in words.
    """
    lines, seen = [introduction], ""
    for row in rows:
        versions = ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        head = f"{machine(row)}; {versions}; commit {row['commit']}, {row['date']}"
        if head != seen:
            seen = head
            lines += ["", f"## {head}", "", f"| {columns} |"]
            lines += ["|---" * len(columns.split("|")) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |"]
    return "\n".join(lines) + "\n"


def write(
    file: pathlib.Path,
    rows: list[dict[str, Any]],
    row: dict[str, Any],
    key: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Adds a row to a JSON file of rows; one that agrees with it in the key goes.

    Returns:
        All rows, sorted by the key.
    """
    rows = [old for old in rows if any(old[k] != row[k] for k in key)] + [row]
    rows.sort(key=lambda row: [row[k] for k in key])
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f"[\n{lines}\n]\n")
    return rows


def has_torch(python: str) -> bool:
    """Whether this interpreter can be started and imports PyTorch."""
    try:
        probe = subprocess.run([python, "-c", "import torch"], capture_output=True)
    except OSError:
        return False
    return probe.returncode == 0
