"""The trials of a sweep: which there are, and how they are trained."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train import hyperparameters, loop, optimizers
from train.devices import Devices
from train.errors import InputError, require
from train.experiment import FINISHED, Clock, Evaluation, Experiment, Job, Row, Sweep
from train.rules import flag_of, neutral_names
from train.runs import documents, records
from train.runs.folder import Run, open_run

Member = dict[str, Any]  # Hyperparameters and seed of one trial.
# Hyperparameters, and their names in a table.
HYPERPARAMETERS = {
    "learning_rate": "rate",
    "weight_decay": "decay",
    "free_epochs": "free",
    "warmup_epochs": "warm-up",
    "flood": "flood",
}


def sweep_of(experiment: Experiment) -> Sweep:
    """The sweeps of an experiment that has some."""
    assert experiment.sweep is not None
    return experiment.sweep


def grid(experiment: Experiment, config: Any, name: str) -> list[Member]:
    """The hyperparameters of each trial of an optimizer."""
    tried = sweep_of(experiment).grid(config, name)
    values: dict[str, tuple[float, ...]] = {"learning_rate": tried.rates}
    if optimizers.has_free_phase(name):
        if config.switch == "epochs":  # Else the run ends its free phase by itself.
            values["free_epochs"] = tried.free
        else:
            flag = f"--switch {config.switch}"
            require(not config.free, f"--free has no effect with {flag}; leave it out")
    elif name in optimizers.WITHOUT_DECAY:
        values["weight_decay"] = (0.0,)
    else:
        values["weight_decay"] = tried.decays
    if tried.warmups:
        values["warmup_epochs"] = tried.warmups
    if floods := config.floods or tried.floods:
        values["flood"] = floods
    values["seed"] = config.trial_seeds
    combinations = itertools.product(*values.values())
    return [dict(zip(values, chosen, strict=True)) for chosen in combinations]


def make_config(experiment: Experiment, config: Any, name: str, **changes: Any) -> Any:
    """A run in full, with the options of the sweep."""
    names = {field.name for field in dataclasses.fields(config)}
    shared: dict[str, Any] = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(experiment.Options)
        if field.name in names
    }
    options = shared | {"optimizer": name} | changes
    try:
        return experiment.resolve(experiment.Options(**options))
    except InputError as error:  # In a sweep, the option has another name.
        raise InputError(str(error).replace("--free-epochs", "--free")) from None


def trial_config(experiment: Experiment, config: Any, name: str, member: Member) -> Any:
    """One trial: a run in full with its phases shortened alike, except that the free
    phase stays whole unless --trial-free shortens it too.
    """
    full = make_config(experiment, config, name, **member)
    epochs = config.trial_epochs or full.epochs
    flag = f"{flag_of(type(config), 'trial_epochs')} {epochs}"
    require(
        epochs <= full.epochs,
        f"{flag} is more than the {full.epochs} of a whole run, which a trial shortens",
    )
    factor = epochs / full.epochs
    whole = config.trial_free == "whole" and config.switch == "epochs"
    join = sum if full.schedule == "three-phase" else max
    needed = join((full.free_epochs, full.warmup_epochs * factor))
    require(
        needed <= epochs or not whole,
        f"{flag} is less than the {needed:g} of a whole free phase and the warm-up;"
        " shorten --free, or add --trial-free shortened",
    )
    return dataclasses.replace(
        full,
        epochs=epochs,
        warmup_epochs=full.warmup_epochs * factor,
        free_epochs=full.free_epochs * (1 if whole else factor),
        validation=config.protocol == "validation",
    )


def describe(row: Member) -> str:
    """The hyperparameters of a trial in words."""
    words = HYPERPARAMETERS.items()
    return ", ".join(f"{word} {row[key]:g}" for key, word in words if key in row)


def train_apart(
    experiment: Experiment,
    config: Any,
    name: str,
    members: list[Member],
    folder: Path,
    loaded: Any,
    devices: Devices,
) -> list[Row]:
    """Trains all trials of an optimizer, each as a run; one row for each."""
    rows = []
    for number, member in enumerate(members, 1):
        which = f"trial {number} of {len(members)}, seed {member['seed']}"
        print(f"{name}, {which}: {describe(member)}", flush=True)
        out = folder / "trials" / f"{name}-{number}"
        trial = trial_config(experiment, config, name, member)
        trial = dataclasses.replace(trial, out=out)
        loop.execute(experiment, trial, devices, loaded, brief=True)
        summary = documents.read_json(out / "summary.json")
        about = {"optimizer": name, "batch_size": config.batch_size} | member
        with documents.as_written(out / "summary.json"):
            last = {key: summary["last"][key] for key in sweep_of(experiment).metrics}
            about |= last | {"best": summary["best"], "outcome": summary["outcome"]}
            rows.append(about)
    return rows


def train_together(
    experiment: Experiment,
    config: Any,
    name: str,
    members: list[Member],
    folder: Path,
    loaded: Any,
    devices: Devices,
) -> list[Row]:
    """Trains all trials of an optimizer that have one flood level in one program.

    Returns:
        One row for each trial.
    """
    rows = []
    for flood in dict.fromkeys(member.get("flood") for member in members):
        alike = [member for member in members if member.get("flood") == flood]
        place = folder / "trials" / (name if flood is None else f"{name}-flood-{flood}")
        rows += _train_alike(experiment, config, name, alike, place, loaded, devices)
    return rows


def _train_alike(
    experiment: Experiment,
    config: Any,
    name: str,
    members: list[Member],
    place: Path,
    loaded: Any,
    devices: Devices,
) -> list[Row]:
    """Trains trials in one program, in a folder of theirs."""
    job = Trials(experiment, config, name, members, loaded, devices)
    content = records.run_config("trials", job.options, neutral_names(job.options))
    content["trials"] = members
    with open_run(
        place, content, checkpoint_minutes=config.checkpoint_minutes
    ) as files:
        if not files.finished:
            print(job.introduction, flush=True)
            loop.train(job, files, show=not config.quiet)
        return _read_trials(files, members, sweep_of(experiment).metrics)


def _read_trials(
    files: Run, members: list[Member], metrics: Sequence[str]
) -> list[Row]:
    """The rows of finished trials, as `Trials.summarize` returned them."""
    path = files.folder / "summary.json"
    with documents.as_written(path):
        rows = files.summary()["trials"]
        for row, member in zip(rows, members, strict=True):
            known = row["outcome"] == FINISHED or row["outcome"].startswith("diverged")
            numbers = row["outcome"] != FINISHED or all(
                isinstance(row[key], int | float) for key in metrics
            )
            if not (known and numbers and member.items() <= row.items()):
                raise ValueError("not the rows of these trials")
    return rows


class Trials(Job):
    """All trials of an optimizer as one program on one device; states are stacked.

    Attributes:
        options: Options of the first trial; the others differ in hyperparameters alone.
    """

    def __init__(
        self,
        experiment: Experiment,
        config: Any,
        name: str,
        members: list[Member],
        loaded: Any,
        device: Devices,
    ):
        """Computes nothing yet.

        Args:
            experiment: Kind of the trials.
            config: Options of the sweep.
            name: Name of the optimizer.
            members: Hyperparameters and seed of each trial.
            loaded: Data from the experiment's `load`.
            device: The one that they run on.
        """
        trials = [trial_config(experiment, config, name, member) for member in members]
        self.options = trials[0]
        first: Any = experiment.prepare(self.options, loaded, device)
        self._programs = first.programs
        self._metrics = sweep_of(experiment).metrics
        self._lowest = sweep_of(experiment).lowest
        self._trials, self._members, self._name = trials, members, name
        self._about = {"optimizer": name, "batch_size": config.batch_size}
        self.epochs, self.eval_every = self.options.epochs, config.eval_every
        at_once = min(len(trials), config.at_once or self._programs.at_once)
        steps = self._programs.steps_per_epoch
        unit = sweep_of(experiment).unit  # "epochs", or "steps" of language models.
        self._step, self._values = unit.removesuffix("s"), None
        self.introduction = (
            f"{self._name}: {len(trials)} trials of {self.epochs} {unit}, {at_once} at"
            " once"
        )
        if unit == "epochs":
            self.introduction += f" ({steps} steps per epoch)"
        self._over_trials = lambda one: partial(jax.lax.map, one, batch_size=at_once)

    def start(self) -> Any:
        steps = self._programs.steps_per_epoch
        arguments = [hyperparameters.make_trial(trial, steps) for trial in self._trials]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arguments)
        data = self._programs.arrays()

        def advance(first, last, one):
            return self._programs.advance(one[0], one[1], data, first, last)

        def evaluate(one):
            return self._programs.evaluate(one[0], one[1], data)[0]

        @partial(jax.jit, donate_argnums=0)
        def advance_all(state, first, last):
            one = partial(advance, first, last)
            return self._over_trials(one)((state, stacked))

        @jax.jit
        def evaluate_all(state):
            return self._over_trials(evaluate)((state, stacked))

        self._advance, self._evaluate = advance_all, evaluate_all
        return self.fetch(jax.jit(self._over_trials(self._programs.start))(stacked))

    def advance(self, state: Any, first: int, last: int) -> tuple[Any, Any]:
        return self._advance(state, first, last)

    def evaluate(self, state: Any, host: Any, epoch: int, loss: Any) -> Evaluation:
        median, metric = float(np.median(loss)), self._metrics[0]
        self._values = self.fetch(self._evaluate(state))
        # What a diverged trial's frozen weights reach is no result of it.
        values = np.where(host.diverged_step < 0, self._values[metric], np.nan)
        seeds = ", ".join(map(str, dict.fromkeys(t.seed for t in self._trials)))
        text = (
            f"{self._name}, seed {seeds}, {self._step} {epoch}/{self.epochs}"
            f"  median loss {median:.4f}"
        )
        row = {"epoch": epoch, "median_loss": median, metric: values.tolist()}
        return Evaluation([row], text)

    def summarize(
        self, state: Any, host: Any, rows: list[Row], outcome: str, clock: Clock
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        values = self._values
        if values is None:  # An earlier process was killed after its last epoch.
            values = self.fetch(self._evaluate(state))
        found = [
            self._about
            | member
            | {key: float(values[key][i]) for key in self._metrics}
            | {"best": self._best(rows, i)}
            | {"outcome": _outcome(int(host.diverged_step[i]))}
            for i, member in enumerate(self._members)
        ]
        return {"trials": found}, {}

    def _best(self, rows: list[Row], trial: int) -> dict[str, float] | None:
        """A trial's best evaluation; None if each followed a divergence.

        Rows that an older version wrote before an interruption have none.
        """
        metric, choose = self._metrics[0], min if self._lowest else max
        found = [
            {"epoch": row["epoch"], metric: row[metric][trial]}
            for row in rows
            if metric in row and row[metric][trial] is not None
        ]
        return choose(found, key=lambda one: one[metric], default=None)


def _outcome(diverged_step: int) -> str:
    return FINISHED if diverged_step < 0 else f"diverged at step {diverged_step}"
