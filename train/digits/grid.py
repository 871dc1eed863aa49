"""Grids: every trial of an optimizer with every seed, trained at once by `vmap`."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.experiment import Clock, Evaluation, Job, Row
from train.statistics import MeanStd, mean_std

Trial = Mapping[str, float]  # Hyperparameters by name.
MEMBER = ("optimizer", "trial", "seed", "epoch")  # These identify a row.


def describe_trial(trial: Trial) -> str:
    """The hyperparameters of a trial in words."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in trial.items()
    )


@dataclasses.dataclass(frozen=True)
class GridResult:
    """The results of one optimizer's grid of trials and seeds.

    Attributes:
        name: Name of the optimizer.
        trials: Hyperparameters of each trial.
        epochs: Epochs after which the members were evaluated.
        history: Metrics by name, each ``[evaluations, trials, seeds]``; NaN once a
            member has diverged.
        diverged_step: int ``[trials, seeds]``: the first update with a loss that is
            not finite; -1 where there was none.
        seconds: Seconds of training and evaluation of the whole grid, without
            compilation, in the process that finished the run.
        compile_seconds: Seconds of compilation and initialisation there.
    """

    name: str
    trials: list[Trial]
    epochs: list[int]
    history: dict[str, np.ndarray]
    diverged_step: np.ndarray
    seconds: float
    compile_seconds: float

    def best(self) -> int | None:
        """The trial with the best validation accuracy at the end.

        Ties of the mean over seeds go to the lower mean validation loss. A trial of
        which any seed diverged does not count.

        Returns:
            The trial's index, or None if no trial is left.
        """
        # Rounded so that equal counts of images tie, in whatever order they are added.
        accuracy = self.history["validation_accuracy"][-1].mean(axis=-1).round(6)
        loss = self.history["validation_loss"][-1].mean(axis=-1)
        alive = np.flatnonzero((self.diverged_step < 0).all(axis=-1)).tolist()
        return min(alive, key=lambda i: (-accuracy[i], loss[i]), default=None)

    def final(self, trial: int) -> dict[str, MeanStd]:
        """The last metrics of one trial, summarised over seeds."""
        return {key: mean_std(v[-1, trial]) for key, v in self.history.items()}

    def divergence(self, trial: int | None = None) -> str:
        """``diverged at step n``: the first of a trial's seeds (or of all) that did.

        Args:
            trial: Index, or None for the whole grid.

        Returns:
            The text, empty if none diverged.
        """
        steps = self.diverged_step if trial is None else self.diverged_step[trial]
        failed = steps[steps >= 0]
        if not failed.size:
            return ""
        return f"diverged at step {failed.min()} ({failed.size} of {steps.size} runs)"

    def summary(self) -> dict[str, Any]:
        """The trials, the best of them and its last metrics, for ``summary.json``."""
        best = self.best()
        final = {} if best is None else self.final(best)
        return {
            "best_trial": best,
            "final": {key: value._asdict() for key, value in final.items()},
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "trials": [
                dict(trial)
                | {
                    key: self.history[key][-1, i].tolist()
                    for key in ("validation_accuracy", "test_accuracy")
                }
                | {"diverged_step": self.diverged_step[i].tolist()}
                for i, trial in enumerate(self.trials)
            ],
        }


def read_results(
    rows: Sequence[Row], summary: Mapping[str, Mapping[str, Any]]
) -> list[GridResult]:
    """The grids of a finished run, from its rows and its summary."""
    results = []
    for name, values in summary.items():
        trials: list[Trial] = [
            {key: v for key, v in trial.items() if not isinstance(v, list)}
            for trial in values["trials"]
        ]
        diverged = np.array([trial["diverged_step"] for trial in values["trials"]])
        times = values["seconds"], values["compile_seconds"]
        results.append(make_result(name, trials, rows, diverged, *times))
    return results


def make_result(
    name: str,
    trials: list[Trial],
    rows: Sequence[Row],
    diverged_step: np.ndarray,
    seconds: float,
    compile_seconds: float,
) -> GridResult:
    """A `GridResult` from the rows of ``metrics.jsonl``; NaN for missing numbers."""
    own = [row for row in rows if row["optimizer"] == name]
    epochs = sorted({row["epoch"] for row in own})
    place = {epoch: i for i, epoch in enumerate(epochs)}
    history = {
        key: np.full([len(epochs), *diverged_step.shape], np.nan)
        for key in own[-1]
        if key not in MEMBER
    }
    for row in own:
        member = place[row["epoch"]], row["trial"], row["seed"]
        for key, values in history.items():
            # Numbers that were not finite are null in the file.
            value = row.get(key)
            values[member] = np.nan if value is None else value
    times = seconds, compile_seconds
    return GridResult(name, trials, epochs, history, diverged_step, *times)


# ----------------------------------------------------------------------- training


class Grid(NamedTuple):
    """The trials of one optimizer, and how a member of them trains.

    Attributes:
        trials: Hyperparameters, the same names in each trial.
        start: ``start(params, trial)`` returns the state of one member, which holds
            `diverged_step`.
        advance: ``advance(state, key, trial, data, first_epoch, last_epoch)`` trains
            one member up to `last_epoch` and returns its state and metrics; both
            epochs are traced.
    """

    trials: list[Trial]
    start: Callable[..., Any]
    advance: Callable[..., Any]


class Grids(Job):
    """All trials of several optimizers with all seeds, one program per optimizer.

    The state is a dictionary of the optimizers' states, each stacked
    ``[trials, seeds, ...]``.
    """

    evaluates_start = True

    def __init__(
        self,
        grids: Mapping[str, Grid],
        keys: jax.Array,
        params: Any,
        data: Any,
        *,
        epochs: int,
        eval_every: int,
        introduction: str,
        publish: Callable[[Path, list[GridResult]], str],
    ):
        """Computes nothing yet.

        Args:
            grids: Grids by optimizer.
            keys: ``[seeds]``, one random key per seed.
            params: Initial weights, ``[seeds, ...]``, the same ones for every trial.
            data: Arrays on the device, shared by all members.
            epochs: Length of the training.
            eval_every: Epochs between two evaluations.
            introduction: Description of the training, in a few lines.
            publish: Writes tables and figures into a folder; returns the result in
                words.
        """
        self.epochs, self.eval_every = epochs, eval_every
        self.introduction = introduction
        self._grids, self._publish = grids, publish
        self._keys, self._params, self._data = keys, params, data
        self._stacked = {
            name: {
                key: jnp.asarray([trial[key] for trial in grid.trials])
                for key in grid.trials[0]
            }
            for name, grid in grids.items()
        }
        self._programs: dict[str, Callable[..., Any]] = {}
        self._seconds = dict.fromkeys(grids, 0.0)
        self._compile_seconds = dict.fromkeys(grids, 0.0)

    def start(self) -> Any:
        state = {}
        for name, grid in self._grids.items():
            began = time.perf_counter()
            # Seeds inside, trials outside: values that depend on the seed alone are
            # computed once.
            start = jax.vmap(jax.vmap(grid.start, (0, None)), (None, 0))
            state[name] = self.fetch(jax.jit(start)(self._params, self._stacked[name]))
            self._compile_seconds[name] += time.perf_counter() - began
        return state

    def prepare(self, state: Any, done: int) -> Any:
        seeds_axes, trials_axes = (0, 0, *4 * [None]), (0, None, 0, *3 * [None])
        for name, grid in self._grids.items():
            began = time.perf_counter()
            advance = jax.vmap(jax.vmap(grid.advance, seeds_axes), trials_axes)
            program = jax.jit(advance, donate_argnums=0)
            arguments = self._arguments(name, state, done, done)
            self._programs[name] = program.lower(*arguments).compile()
            self._compile_seconds[name] += time.perf_counter() - began
        return state

    def advance(self, state: Any, first: int, last: int) -> tuple[Any, Any]:
        state, metrics = dict(state), {}
        for name, program in self._programs.items():
            began = time.perf_counter()
            arguments = self._arguments(name, state, first, last)
            state[name], found = program(*arguments)
            metrics[name] = jax.device_get(found)
            self._seconds[name] += time.perf_counter() - began
        return state, metrics

    def _arguments(self, name: str, state: Any, first: int, last: int) -> Any:
        ends = jnp.int32(first), jnp.int32(last)
        return state[name], self._keys, self._stacked[name], self._data, *ends

    def evaluate(self, state: Any, host: Any, epoch: int, loss: Any) -> Evaluation:
        rows, texts = [], []
        for name, metrics in loss.items():
            for trial, seed in np.ndindex(metrics["loss"].shape):
                values = {key: float(v[trial, seed]) for key, v in metrics.items()}
                member = dict(zip(MEMBER, (name, trial, seed, epoch), strict=True))
                rows.append(member | values)
            accuracy = np.median(np.nan_to_num(metrics["validation_accuracy"]))
            texts.append(f"{name} {accuracy:.1%}")
        return Evaluation(rows, "  ".join([f"epoch {epoch:3}/{self.epochs}", *texts]))

    def summarize(
        self, state: Any, host: Any, rows: list[Row], outcome: str, clock: Clock
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        summary = {}
        for name, grid in self._grids.items():
            times = self._seconds[name], self._compile_seconds[name]
            diverged_step = host[name].diverged_step
            result = make_result(name, grid.trials, rows, diverged_step, *times)
            summary[name] = result.summary()
        return summary, {}

    def conclude(
        self, folder: Path, options: Mapping[str, Any], rows: list[Row], summary: Any
    ) -> str:
        return self._publish(folder, read_results(rows, summary))
