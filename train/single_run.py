"""One run of one optimizer with one seed, as the loop trains it."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train import hyperparameters, interrupts
from train.devices import Devices
from train.experiment import FINISHED, Clock, Evaluation, Job, Row
from train.optimizers import Trial
from train.options import ResolvedOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """The computations of a run, as pure functions of arrays, and how it reports them.

    Attributes:
        model: The network.
        arrays: ``() -> data``: the data as arrays.
        start: ``(trial) -> State``, see `train.step.State`.
        advance: ``(state, trial, data, first_epoch, last_epoch) -> (state, loss)``.
        compile_step: Where Python loops over the steps, compiles one update:
            ``(devices, *arguments) -> step``, where step is ``(state, trial, data,
            epoch, number) -> (state, loss)``. None if an epoch is one program.
        evaluate: ``(state, trial, data) -> (metrics by name, details)``.
        steps_per_epoch: Updates of an epoch.
        epoch_size: Samples of an epoch.
        metric: Name of the metric by which the best evaluation is found.
        lowest: Whether its lowest value is the best.
        describe: Value of that metric in words, for the progress report.
        documents: ``(details) -> documents``: the details of the last evaluation to
            keep, by the names of JSON files.
        draw: Draws the curves: ``(path, rows of metrics, step of the switch, title)``.
        conclude: ``(options, rows of metrics) -> text``: the result in words.
        introduction: Description of the training, in a few lines.
        at_once: Number of trials that a sweep may train side by side.
    """

    model: nn.Module
    arrays: Callable[[], Any]
    start: Callable[..., Any]
    advance: Callable[..., Any]
    compile_step: Callable[..., Callable[..., Any]] | None = None
    evaluate: Callable[..., Any]
    steps_per_epoch: int
    epoch_size: int
    metric: str
    describe: Callable[[float], str]
    documents: Callable[[Any], Mapping[str, Any]]
    draw: Callable[[Path, list[Row], int, str], None]
    conclude: Callable[[Mapping[str, Any], list[Row]], str]
    introduction: str
    at_once: int = 1
    lowest: bool = False


class DeviceTrainer:
    """Trains and evaluates on data that lie on the devices."""

    def __init__(self, programs: Programs, devices: Devices):
        """Copies the data to the devices; compiles nothing yet."""
        self._data = devices.replicate(programs.arrays())
        self._advance = make_advance(programs, devices)
        self._evaluate = devices.compile(programs.evaluate)

    def prepare(self, state: Any, trial: Trial, done: int) -> Any:
        """Compiles by training no epochs; returns the state."""
        state, _ = self.advance(state, trial, done, done)
        jax.block_until_ready(self.evaluate(state, trial))
        return state

    def advance(
        self, state: Any, trial: Trial, first: int, last: int
    ) -> tuple[Any, float]:
        """Trains from epoch `first` up to `last`; returns the state and the loss."""
        return self._advance(state, trial, self._data, first, last)

    def evaluate(self, state: Any, trial: Trial) -> tuple[Any, Any]:
        """The metrics by name, and details."""
        return self._evaluate(state, trial, self._data)

    def speeds(self, state: Any, trial: Trial) -> dict[str, float]:
        """Returns an empty dictionary: there are no workers to time."""
        return {}

    def close(self) -> None:
        """Does nothing: there are no workers to end."""


class SingleRun(Job):
    """One run: a trial, trained and evaluated.

    Attributes:
        programs: Programs of the run.
        trainer: Object that runs the programs, made when it is first needed: a
            `DeviceTrainer`, or another class with its methods.
    """

    def __init__(
        self,
        config: ResolvedOptions,
        programs: Programs,
        devices: Devices,
        make_trainer: Callable[[], Any] | None = None,
    ):
        """Computes nothing yet.

        Args:
            config: Options of the run.
            programs: Programs of the run.
            devices: Devices that it runs on.
            make_trainer: Function that makes the trainer, by default a `DeviceTrainer`.
        """
        self.epochs, self.eval_every = config.epochs, config.eval_every
        self.introduction = programs.introduction
        self.programs = programs
        self._config, self._devices = config, devices
        self._make_trainer = make_trainer or partial(DeviceTrainer, programs, devices)
        trial = hyperparameters.make_trial(config, programs.steps_per_epoch)
        self._rate = hyperparameters.learning_rate(
            config, programs.steps_per_epoch, trial
        )
        self._host_trial, self._details = trial, None

    @cached_property
    def trainer(self) -> Any:
        return self._make_trainer()

    @cached_property
    def _trial(self) -> Any:
        return self._devices.replicate(self._host_trial)

    def start(self) -> Any:
        return self.fetch(self._devices.compile(self.programs.start)(self._trial))

    def place(self, host: Any) -> Any:
        return self._devices.place_state(host)

    def fetch(self, state: Any) -> Any:
        return self._devices.gather(state)

    def prepare(self, state: Any, done: int) -> Any:
        return self.trainer.prepare(state, self._trial, done)

    def advance(self, state: Any, first: int, last: int) -> tuple[Any, float]:
        return self.trainer.advance(state, self._trial, first, last)

    def measure(self, state: Any) -> tuple[dict[str, float], Any]:
        """The metrics by name, and details; both on the host."""
        values, details = self.fetch(self.trainer.evaluate(state, self._trial))
        return {key: float(value) for key, value in values.items()}, details

    def evaluate(self, state: Any, host: Any, epoch: int, loss: float) -> Evaluation:
        values, self._details = self.measure(state)
        step = epoch * self.programs.steps_per_epoch
        row = {"epoch": epoch, "step": step, "loss": loss} | values
        row["learning_rate"] = float(jnp.asarray(self._rate(step - 1)))
        row["constrained"] = int(self._switched_at(host) >= 0)
        text = (
            f"{self._config.optimizer}, seed {self._config.seed},"
            f" epoch {epoch}/{self.epochs}  loss {loss:.4f}"
            f"  {self.programs.describe(row[self.programs.metric])}"
            f"  rate {row['learning_rate']:.2g}"
        )
        diverged = host.diverged_step >= 0
        outcome = f"diverged at step {host.diverged_step}" if diverged else FINISHED
        return Evaluation([row], text, outcome)

    def summarize(
        self, state: Any, host: Any, rows: list[Row], outcome: str, clock: Clock
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._details is None:  # An earlier process was killed after its last epoch.
            _, self._details = self.measure(state)
        metric = self.programs.metric
        sign = -1 if self.programs.lowest else 1
        best = max(
            rows,
            key=lambda row: -math.inf if row[metric] is None else sign * row[metric],
        )
        samples = clock.epochs * self.programs.epoch_size
        summary = {
            "outcome": outcome,
            "switched_at": self._switched_at(host),
            "last": rows[-1],
            "best": {key: best[key] for key in ("epoch", metric)},
            "samples_per_second": samples / clock.seconds if samples else None,
            "seconds": clock.seconds,
            "compile_seconds": clock.compile_seconds,
            "speeds": self.trainer.speeds(state, self._trial),
        }
        return summary, dict(self.programs.documents(self._details))

    def conclude(
        self, folder: Path, options: Mapping[str, Any], rows: list[Row], summary: Any
    ) -> str:
        path, switched_at = folder / "curves.png", summary["switched_at"]
        self.programs.draw(path, rows, switched_at, title(options))
        text = f"The run {summary['outcome']}."
        if summary["outcome"] == FINISHED:
            text = self.programs.conclude(options, rows)
        for name, speed in summary.get("speeds", {}).items():
            text += f"\n{name}: {speed:,.1f} images per second"
        return text

    def close(self) -> None:
        if "trainer" in self.__dict__:
            self.trainer.close()

    def _switched_at(self, host: Any) -> int:
        return hyperparameters.switched_at(self._config, host.opt_state)


def title(options: Mapping[str, Any]) -> str:
    """The title of a run's curves."""
    parts = [f"{options['optimizer']} on {options.get('dataset', 'its data')}"]
    parts += [str(options[key]) for key in ("model",) if key in options]
    parts += [f"batch {options['batch_size']:,}", f"{options['epochs']} epochs"]
    return ", ".join([*parts, f"seed {options['seed']}"])


def make_advance(programs: Programs, devices: Devices) -> Callable[..., Any]:
    """``(state, trial, data, first_epoch, last_epoch) -> (state, mean loss)``."""
    number = lambda count: devices.replicate(np.int32(count))  # noqa: E731
    if programs.compile_step is None:
        whole = devices.compile(programs.advance, donate=True)

        def by_epoch(state, trial, data, first, last):
            state, loss = whole(state, trial, data, number(first), number(last))
            return state, float(devices.gather(loss))

        return by_epoch
    compile_step, compiled = programs.compile_step, []

    def by_step(state, trial, data, first, last):
        arguments = state, trial, data, number(0), number(0)
        if not compiled:  # Compile before the first step, to time the two apart.
            compiled.append(compile_step(devices, *arguments))
        losses = []
        for epoch, step in itertools.product(
            range(first, last), range(programs.steps_per_epoch)
        ):
            state, loss = compiled[0](state, trial, data, number(epoch), number(step))
            losses.append(loss)
            interrupts.safe_point(state)
        return state, float(np.mean(devices.gather(losses))) if losses else 0.0

    return by_step


def margins_in_words(values: Mapping[str, float]) -> str:
    """The quantiles of the training margins among some metrics."""
    return "margins " + ", ".join(
        f"{name} {values[f'margin_{name}']:.2f}" for name in ("p10", "p50", "p90")
    )
