"""Grids: every trial of an optimizer with every seed, trained at once by `vmap`."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.runs.progress import ProgressReport
from train.statistics import MeanStd, mean_std

Trial = Mapping[str, float]  # Hyperparameters by name.


def describe_trial(trial: Trial) -> str:
    """The hyperparameters of a trial in words."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:g}" for key, value in trial.items()
    )


@dataclasses.dataclass(frozen=True)
class GridResult:
    """What one optimizer's grid of trials over seeds left behind.

    Attributes:
        name: Of the optimizer.
        trials: Hyperparameters of each trial.
        epochs: When the members were evaluated.
        history: Metrics by name, each ``[evaluations, trials, seeds]``; NaN once a
            member has diverged.
        diverged_step: int ``[trials, seeds]``: the first update with a loss that is
            not finite; -1 where there was none.
        seconds: Of training and evaluation of the whole grid, without compilation.
        compile_seconds: Of compilation and initialisation.
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
        accuracy = self.history["validation_accuracy"][-1].mean(axis=-1)
        loss = self.history["validation_loss"][-1].mean(axis=-1)
        alive = np.flatnonzero((self.diverged_step < 0).all(axis=-1)).tolist()
        return min(alive, key=lambda i: (-accuracy[i], loss[i]), default=None)

    def final(self, trial: int) -> dict[str, MeanStd]:
        """The last metrics of one trial, summarized over seeds."""
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

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per evaluation of each member, for ``metrics.jsonl``."""
        for i, trial, seed in np.ndindex(self.history["loss"].shape):
            yield {
                "optimizer": self.name,
                "trial": trial,
                "seed": seed,
                "epoch": self.epochs[i],
            } | {key: float(v[i, trial, seed]) for key, v in self.history.items()}

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


def run_grid(
    name: str,
    trials: list[Trial],
    start: Callable,
    advance: Callable,
    keys: jax.Array,
    params: Any,
    data: Any,
    *,
    epochs: int,
    eval_every: int,
    progress: ProgressReport,
) -> GridResult:
    """Trains all trials of one optimizer with all seeds, as one compiled program.

    Args:
        name: Of the optimizer.
        trials: Hyperparameters, the same names in each.
        start: ``start(params, trial)`` returns the state of one member, which holds
            `diverged_step`.
        advance: ``advance(state, key, trial, data, first_epoch, last_epoch)`` trains
            one member up to `last_epoch` and returns its state and metrics; both
            epochs are traced.
        keys: ``[seeds]``, one random key per seed.
        params: Initial weights, ``[seeds, ...]``, the same ones for every trial.
        data: Arrays on the device, shared by all members.
        epochs: Length of the training.
        eval_every: Epochs between two evaluations.
        progress: Shown the medians of training loss and validation accuracy over the
            members at every evaluation; its unit is the epoch.

    Returns:
        The metrics of all members, from epoch 0 on.
    """
    # Seeds inside, trials outside: what depends on the seed alone is computed once.
    start = jax.vmap(jax.vmap(start, (0, None)), (None, 0))
    seeds_axes, trials_axes = (0, 0, *4 * [None]), (0, None, 0, *3 * [None])
    advance = jax.vmap(jax.vmap(advance, seeds_axes), trials_axes)
    stacked = {key: jnp.asarray([trial[key] for trial in trials]) for key in trials[0]}

    progress.advance(0, f"{name:9} compiling")
    began = time.perf_counter()
    state = jax.jit(start)(params, stacked)
    program = jax.jit(advance, donate_argnums=0)
    program = program.lower(state, keys, stacked, data, jnp.int32(0), jnp.int32(0))
    program = program.compile()
    jax.block_until_ready(state)
    compiled = time.perf_counter()

    done, evaluated, history = 0, [], []
    for epoch in [*range(0, epochs, eval_every), epochs]:
        span = jnp.int32(done), jnp.int32(epoch)
        state, metrics = program(state, keys, stacked, data, *span)
        evaluated.append(epoch)
        history.append(jax.device_get(metrics))
        loss = np.median(np.nan_to_num(history[-1]["loss"], nan=np.inf))
        accuracy = np.median(np.nan_to_num(history[-1]["validation_accuracy"]))
        status = f"loss {loss:.3f}  accuracy {accuracy:.1%}"
        progress.advance(epoch - done, f"{name:9} epoch {epoch:3}/{epochs}  {status}")
        done = epoch
    return GridResult(
        name,
        trials,
        evaluated,
        {key: np.stack([metrics[key] for metrics in history]) for key in history[0]},
        np.asarray(state.diverged_step),
        time.perf_counter() - compiled,
        compiled - began,
    )
