"""The description of an experiment, for the loop, sweeps, `evaluate` and reports.

An experiment is one folder, whose `experiment` module defines an `Experiment`, and one
line in `train.registry`.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.devices import Devices
from train.options import Grid
from train.report.definition import Report

FINISHED = "finished"
Row = dict[str, Any]


def one_device(config: Any) -> Devices:
    """The first device, whatever the options."""
    return Devices(limit=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A kind of run.

    Attributes:
        name: Name on the command line.
        Options: Class of the options on the command line; its docstring is the help.
        resolve: ``(options) -> options`` with all defaults filled in, checked.
        load: ``(options) -> data``: reads what a run with these options needs.
        prepare: ``(options, data, devices) -> Job``; the loop trains this job.
        take_devices: ``(options) -> Devices``.
        evaluation: ``(FinishedRun, metrics, details) -> text`` for `train.evaluate`;
            None where finished runs cannot be evaluated again.
        sweep: Its sweeps, or None.
        report: How its runs are reported, or None.
    """

    name: str
    Options: type
    resolve: Callable[[Any], Any]
    load: Callable[[Any], Any]
    prepare: Callable[[Any, Any, Devices], "Job"]
    take_devices: Callable[[Any], Devices] = one_device
    evaluation: Callable[..., str] | None = None
    sweep: "Sweep | None" = None
    report: Report | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep needs to know about an experiment.

    Attributes:
        Options: Class of the options on the command line.
        grid: ``(options, optimizer)`` -> the hyperparameters to try.
        together: Whether the trials of an optimizer are one program, on one device;
            otherwise each is a run of its own.
        metrics: Metrics that are kept of a trial; the first one chooses.
        column: Name of the first metric in a table.
        lowest: Whether the lowest first metric is the best, and is a loss; otherwise
            the highest is, and a table has it in percent.
        unit: Name of the loop's epochs, in the plural.
        subject: ``(options)`` -> description of the training.
        measured: ``(options)`` -> description of the data of a trial's metrics.
    """

    Options: type
    grid: Callable[[Any, str], Grid]
    together: bool
    metrics: tuple[str, ...]
    column: str
    subject: Callable[[Any], str]
    measured: Callable[[Any], str]
    lowest: bool = False
    unit: str = "epochs"


class Clock(NamedTuple):
    """Times and epochs of the part of a run that one process did.

    Attributes:
        seconds: Seconds of training, without evaluation and compilation.
        compile_seconds: Seconds of compilation.
        epochs: Epochs trained.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0
    epochs: int = 0


class Evaluation(NamedTuple):
    """The results of one evaluation.

    Attributes:
        rows: Rows for ``metrics.jsonl``.
        text: Latest metrics in words, for the progress report.
        outcome: `FINISHED`, or why the training ends here.
    """

    rows: Sequence[Row]
    text: str
    outcome: str = FINISHED


class Job(abc.ABC):
    """Something that the loop trains, in one folder: a run, or runs side by side.

    Attributes:
        epochs: Length of the training.
        eval_every: Epochs between two evaluations.
        evaluates_start: Whether the first evaluation comes before the first epoch.
        introduction: Description of the training, in a few lines.
    """

    epochs: int
    eval_every: int
    evaluates_start: ClassVar[bool] = False
    introduction: str = ""

    @abc.abstractmethod
    def start(self) -> Any:
        """The initial state, on the host."""

    def place(self, host: Any) -> Any:
        """Copies a state to the devices."""
        return jax.tree.map(jnp.asarray, host)

    def fetch(self, state: Any) -> Any:
        """Copies a state to the host."""
        return jax.tree.map(np.asarray, state)

    def prepare(self, state: Any, done: int) -> Any:
        """Compiles; returns the state, which is that after `done` epochs, unchanged."""
        return state

    @abc.abstractmethod
    def advance(self, state: Any, first: int, last: int) -> tuple[Any, Any]:
        """Trains from epoch `first` up to `last`.

        Returns:
            The state, and the loss of the epochs, which `evaluate` needs.
        """

    @abc.abstractmethod
    def evaluate(self, state: Any, host: Any, epoch: int, loss: Any) -> Evaluation:
        """Evaluates after `epoch` epochs; `host` is a copy of `state` on the host."""

    @abc.abstractmethod
    def summarize(
        self, state: Any, host: Any, rows: list[Row], outcome: str, clock: Clock
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of ``summary.json``, and further JSON documents by name."""

    def conclude(
        self, folder: Path, options: Mapping[str, Any], rows: list[Row], summary: Any
    ) -> str:
        """Draws the figures of a finished run; returns its result in words."""
        return ""

    def close(self) -> None:  # noqa: B027 (most jobs have nothing to end)
        """Ends helper processes, such as those that decode images."""
