"""Sweeps: a grid of hyperparameters per optimizer, then the best with several seeds.

``python -m train sweep recsys`` or ``image``. Trials are compared on data held out of
the training data; the best one is then trained on all of these.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train import (
    loop as training,
)
from train import (
    optimizers,
    options,
    require,
    swept,
)
from train.devices import Devices
from train.experiment import Programs
from train.images import options as image_options
from train.recommenders import options as recsys_options
from train.report import markdown
from train.runs import records
from train.runs.folder import open_run
from train.runs.progress import ProgressReport

Config = recsys_options.SweepConfig | image_options.SweepConfig
Member = dict[str, Any]  # Hyperparameters and seed of one trial.
# As a table names them.
HYPERPARAMETERS = {
    "learning_rate": "rate",
    "weight_decay": "decay",
    "free_epochs": "free",
    "warmup_epochs": "warm-up",
}
UNRELATED = ("out", "quiet", "data_dir", "checkpoint_minutes", "micro_batch", "at_once")


def grid(config: Config, name: str) -> list[Member]:
    """The hyperparameters of each trial of an optimizer."""
    tried = swept.ALL[type(config)].grid(config, name)
    values: dict[str, tuple[float, ...]] = {"learning_rate": tried.rates}
    if optimizers.is_lawn(name):
        values["free_epochs"] = tried.free
    elif name in optimizers.WITHOUT_DECAY:
        values["weight_decay"] = (0.0,)
    else:
        values["weight_decay"] = tried.decays
    if tried.warmups:
        values["warmup_epochs"] = tried.warmups
    values["seed"] = config.trial_seeds
    combinations = itertools.product(*values.values())
    return [dict(zip(values, chosen, strict=True)) for chosen in combinations]


def make_config(config: Config, name: str, **changes: Any) -> Any:
    """A run in full, with the options of the sweep."""
    kind = swept.ALL[type(config)]
    fields = dataclasses.fields(kind.shared)
    given: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields}
    return kind.resolve(kind.Config(**given | {"optimizer": name} | changes))


def trial_config(config: Config, name: str, member: Member) -> Any:
    """One trial: a run in full with all its phases shortened alike."""
    full = make_config(config, name, **member)
    epochs = config.trial_epochs or full.epochs
    factor = epochs / full.epochs
    return dataclasses.replace(
        full,
        epochs=epochs,
        warmup_epochs=full.warmup_epochs * factor,
        free_epochs=full.free_epochs * factor,
        validation=config.protocol == "validation",
    )


def run(config: Config) -> None:
    """Trains all trials and final runs; prints and writes the tables."""
    kind, names = swept.ALL[type(config)], config.optimizers
    metric = kind.metrics[0]
    require(0 < len(names) == len(set(names)), "--optimizers needs different names")
    require(len(config.trial_seeds) > 0, "--trial-seeds needs at least one")
    members = {name: grid(config, name) for name in names}
    # All options are checked before anything is read.
    trials = [trial_config(config, n, m) for n in names for m in members[n]]
    content = records.run_config(f"sweep {kind.experiment.name}", config, UNRELATED)
    folder = config.out or records.default_folder(content)
    loaded = kind.experiment.load(trials[0])
    with open_run(folder, content) as files:
        rows = []
        train: Callable = train_together if kind.together else train_apart
        for name in names:
            rows += train(config, name, members[name], folder, loaded)
        text = table(config, rows)
        print(f"\n{text}\n", flush=True)
        records.write_jsonl(folder / "trials.jsonl", rows)
        (folder / "table.md").write_text(text + "\n", encoding="utf-8")
        finals(config, rows, folder)
        chosen = {
            name: best([row for row in rows if row["optimizer"] == name], metric)
            for name in names
        }
        files.finish({"best": chosen})


def train_apart(
    config: Config, name: str, members: list[Member], folder: Path, loaded: Any
) -> list[dict[str, Any]]:
    """Trains all trials of an optimizer, each as a run; one row for each."""
    kind, rows = swept.ALL[type(config)], []
    for number, member in enumerate(members, 1):
        which = f"trial {number} of {len(members)}"
        print(f"{name}, {which}: {describe(member)}", flush=True)
        out = folder / "trials" / f"{name}-{number}"
        trial = dataclasses.replace(trial_config(config, name, member), out=out)
        training.execute(kind.experiment, trial, Devices(), loaded, brief=True)
        summary = json.loads((out / "summary.json").read_text())
        rows.append(
            {"optimizer": name, "batch_size": config.batch_size}
            | member
            | {key: summary["last"][key] for key in kind.metrics}
            | {"outcome": summary["outcome"]}
        )
    return rows


def train_together(
    config: recsys_options.SweepConfig,
    name: str,
    members: list[Member],
    folder: Path,
    loaded: Any,
) -> list[dict[str, Any]]:
    """Trains all trials of an optimizer in one program; one row for each."""
    kind = swept.ALL[type(config)]
    trials = [trial_config(config, name, member) for member in members]
    programs = kind.experiment.prepare(trials[0], loaded, Devices(limit=1))
    at_once = min(len(trials), config.at_once or programs.at_once)
    content = records.run_config("trials", trials[0], options.UNRELATED)
    content["trials"] = members
    epochs, steps = trials[0].epochs, programs.steps_per_epoch
    with open_run(
        folder / "trials" / name, content, checkpoint_minutes=config.checkpoint_minutes
    ) as files:
        if not files.finished:
            print(
                f"{name}: {len(trials)} trials of {epochs} epochs, {at_once} at once"
                f" ({steps} steps per epoch)",
                flush=True,
            )
            arguments = [training.make_trial(trial, steps) for trial in trials]
            arrays = kind.experiment.arrays(loaded)
            start, advance, evaluate = _programs(programs, arguments, arrays, at_once)
            host, done = files.restore(jax.tree.map(np.asarray, start()))
            state = jax.tree.map(jnp.asarray, host)
            show = not config.quiet
            with ProgressReport(max(1, epochs - done), not show) as progress:
                while done < epochs:
                    epoch = min(epochs, done + config.eval_every)
                    state, loss = advance(state, done, epoch)
                    median = float(np.median(loss))
                    files.record({"epoch": epoch, "median_loss": median})
                    host = jax.tree.map(np.asarray, state)
                    files.save(epoch, host, force=epoch == epochs)
                    text = f"{name} epoch {epoch}/{epochs}  median loss {median:.4f}"
                    progress.advance(epoch - done, text)
                    done = epoch
            values = jax.tree.map(np.asarray, evaluate(state))
            files.finish(
                {
                    "trials": [
                        {"optimizer": name, "batch_size": config.batch_size}
                        | member
                        | {key: float(values[key][i]) for key in kind.metrics}
                        | {"outcome": _outcome(int(host.diverged_step[i]))}
                        for i, member in enumerate(members)
                    ]
                }
            )
        return json.loads((files.folder / "summary.json").read_text())["trials"]


def _programs(
    programs: Programs, trials: list[dict[str, Any]], data: Any, at_once: int
) -> tuple[Callable, Callable, Callable]:
    """Start, epochs and evaluation of all trials, whose states are stacked.

    Returns:
        ``() -> state``, ``(state, first_epoch, last_epoch) -> (state, loss)`` and
        ``(state) -> metrics``; each leaf, loss and metric ``[trials, ...]``.
    """
    stacked = _stack(trials)

    def over_trials(function: Callable) -> Callable:
        return partial(jax.lax.map, function, batch_size=at_once)

    @partial(jax.jit, donate_argnums=0)
    def advance(state, first, last):
        def one(member):
            return programs.advance(member[0], member[1], data, first, last)

        return over_trials(one)((state, stacked))

    @jax.jit
    def evaluate(state):
        return over_trials(lambda one: programs.evaluate(one[0], one[1], data)[0])(
            (state, stacked)
        )

    start = jax.jit(over_trials(programs.start))
    return partial(start, stacked), advance, evaluate


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def best(rows: list[dict[str, Any]], metric: str) -> Member | None:
    """The trial with the highest mean metric over its seeds, of those that finished.

    Returns:
        Its hyperparameters, without the seed; None if all diverged.
    """
    trials: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        trials.setdefault(describe(row), []).append(row)
    alive = [
        trial
        for trial in trials.values()
        if all(row["outcome"] == "finished" for row in trial)
    ]
    if not alive:
        return None
    top = max(alive, key=lambda trial: np.mean([row[metric] for row in trial]))[0]
    return {key: top[key] for key in HYPERPARAMETERS if key in top}


def finals(config: Config, rows: list[dict[str, Any]], folder: Path) -> None:
    """Trains each optimizer's best trial in full, with every seed."""
    kind, loaded = swept.ALL[type(config)], None
    metric = kind.metrics[0]
    for name in config.optimizers:
        chosen = best([row for row in rows if row["optimizer"] == name], metric)
        if chosen is None:
            print(f"{name}: every trial diverged, so there is no final run")
            continue
        for seed in config.seeds:
            out = folder / "final" / f"{name}-seed{seed}"
            final = make_config(config, name, **chosen, seed=seed, out=out)
            loaded = loaded or kind.experiment.load(final)
            training.execute(kind.experiment, final, Devices(), loaded)


def table(config: Config, rows: list[dict[str, Any]]) -> str:
    """All trials, the best of each optimizer marked, as Markdown."""
    kind, lines = swept.ALL[type(config)], []
    metric = kind.metrics[0]
    for name in config.optimizers:
        mine = [row for row in rows if row["optimizer"] == name]
        chosen = best(mine, metric)
        for row in mine:
            finished = row["outcome"] == "finished"
            score = f"{100 * row[metric]:.2f}" if finished else row["outcome"]
            mark = "best" if chosen and chosen.items() <= row.items() else ""
            lines.append([name, describe(row), str(row["seed"]), score, mark])
    name = config.optimizers[0]
    full = make_config(config, name, **grid(config, name)[0]).epochs
    length = f"{full} epochs"
    if config.trial_epochs not in (None, full):
        length = (
            f"{config.trial_epochs} epochs, all phases shortened from {full} (the free"
            " epochs named are those of the full schedule)"
        )
    header = ("optimizer", "trial", "seed", kind.column, "")
    return (
        f"Trials on {config.dataset}, batch {config.batch_size:,},"
        f" {kind.subject(config)}: {length}. {kind.column.removesuffix(' %')} after"
        f" the last epoch, {kind.measured(config)}.\n\n{markdown.table(header, lines)}"
    )


def describe(row: Member) -> str:
    """The hyperparameters of a trial in words."""
    words = HYPERPARAMETERS.items()
    return ", ".join(f"{word} {row[key]:g}" for key, word in words if key in row)


def _outcome(diverged_step: int) -> str:
    return "finished" if diverged_step < 0 else f"diverged at step {diverged_step}"
