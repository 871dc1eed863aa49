"""Sweeps: a grid of hyperparameters per optimizer, then the best with several seeds.

``python -m train sweep recsys`` or ``image``. Trials are compared on data held out of
the training data; the best one is then trained on all training data.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from train import interrupts, loop, optimizers, shortening
from train.devices import Devices
from train.errors import require
from train.experiment import FINISHED, Experiment, Row
from train.report import markdown
from train.rules import check_bounds, neutral_names
from train.runs import documents, records
from train.runs.folder import open_run
from train.statistics import mean_std
from train.trials import (
    HYPERPARAMETERS,
    Member,
    describe,
    grid,
    make_config,
    sweep_of,
    train_apart,
    train_together,
    trial_config,
)


@interrupts.held(interrupts.GOES_ON)
def run(experiment: Experiment, config: Any) -> None:
    """Trains all trials and final runs; prints and writes the tables."""
    kind, names = sweep_of(experiment), config.optimizers
    require(0 < len(names) == len(set(names)), "--optimizers needs different names")
    check_bounds(config)
    require(len(config.trial_seeds) > 0, "--trial-seeds needs at least one")
    members = {name: grid(experiment, config, name) for name in names}
    # All options are checked before anything is read.
    trials = {
        name: [trial_config(experiment, config, name, x) for x in members[name]]
        for name in names
    }
    first = trials[names[0]][0]
    # The data are a part of what was swept, as they are of a run.
    filled = {"batch_size", "dataset", "text_sha256"} & vars(config).keys()
    config = dataclasses.replace(config, **{key: getattr(first, key) for key in filled})
    content = records.run_config(
        f"sweep {experiment.name}", config, neutral_names(config)
    )
    folder = config.out or records.default_folder(content)
    loaded = experiment.load(first)
    devices = Devices()
    train, used = train_apart, devices
    if kind.together:
        train, used = train_together, Devices(limit=1)
    # What the data do not allow is refused before there is a folder.
    for name in names:
        experiment.prepare(trials[name][0], loaded, used)
    with open_run(folder, content) as files:
        print(introduction(experiment, config, trials, folder), flush=True)
        rows = []
        for name in names:
            rows += train(experiment, config, name, members[name], folder, loaded, used)
        text = table(experiment, config, rows)
        print(f"\n{text}\n", flush=True)
        records.write_jsonl(folder / "trials.jsonl", rows)
        records.write_text(folder / "table.md", text + "\n")
        results = finals(experiment, config, rows, folder, devices)
        chosen = {
            name: best(rows, name, kind.metrics[0], kind.lowest) for name in names
        }
        files.finish({"best": chosen})
        print(f"\nBest trials:\n{results}\n\nWritten to {folder}", flush=True)


def introduction(
    experiment: Experiment, config: Any, trials: dict[str, list[Any]], folder: Path
) -> str:
    """Describes a sweep in a few lines, with what was shortened."""
    count, first = sum(map(len, trials.values())), next(iter(trials.values()))[0]
    unit = sweep_of(experiment).unit
    final = ""
    if config.seeds:
        final = (
            f", then the best of each with seeds {', '.join(map(str, config.seeds))}"
        )
    lines = [
        f"Sweep of {', '.join(trials)}: {count} trials of {first.epochs} {unit}{final}."
        f" Folder: {folder}",
        first.shortened,
    ]
    for name in trials:
        tried, full = (
            sweep_of(experiment).grid(options, name)
            for options in (config, dataclasses.replace(config, epochs=None))
        )
        if optimizers.has_free_phase(name) and config.switch == "epochs":
            lines.append(shortening.grid_in_words(tried, full))
    return "\n".join(dict.fromkeys(line for line in lines if line))


# -------------------------------------------------------------- choice, final runs


def best(
    rows: list[Row], name: str, metric: str, lowest: bool = False
) -> Member | None:
    """The trial of an optimizer with the best mean metric over its seeds.

    Args:
        rows: Rows of all trials.
        name: Name of the optimizer.
        metric: Name of the metric.
        lowest: Whether its lowest mean is the best.

    Returns:
        Its hyperparameters, without the seed; None if every trial has a seed that
        diverged.
    """
    trials: dict[str, list[Row]] = {}
    for row in rows:
        if row["optimizer"] != name:
            continue
        trials.setdefault(describe(row), []).append(row)
    alive = [
        trial
        for trial in trials.values()
        if all(row["outcome"] == FINISHED for row in trial)
    ]
    if not alive:
        return None
    choose = min if lowest else max
    top = choose(alive, key=lambda trial: np.mean([row[metric] for row in trial]))[0]
    return {key: top[key] for key in HYPERPARAMETERS if key in top}


def finals(
    experiment: Experiment, config: Any, rows: list[Row], folder: Path, devices: Devices
) -> str:
    """Trains each optimizer's best trial in full, with every seed.

    Returns:
        The results, a line for each optimizer.
    """
    loaded, lines, kind = None, [], sweep_of(experiment)
    for name in config.optimizers:
        chosen, values = best(rows, name, kind.metrics[0], kind.lowest), []
        if chosen is None:
            lines.append(f"{name}: every trial diverged, so there is no final run")
            continue
        for seed in config.seeds:
            out = folder / "final" / f"{name}-seed{seed}"
            changes = chosen | {"seed": seed, "out": out}
            final = make_config(experiment, config, name, **changes)
            loaded = loaded or experiment.load(final)
            print(f"\n{name}, seed {seed}, in full: {describe(chosen)}", flush=True)
            loop.execute(experiment, final, devices, loaded)
            summary = documents.read_json(out / "summary.json")
            with documents.as_written(out / "summary.json"):
                if summary["outcome"] == FINISHED:
                    values.append(float(summary["last"][kind.metrics[0]]))
        line = f"{name}: {describe(chosen)}"
        if values:
            decimals, scale = (4, 1) if kind.lowest else (2, 100)
            found = mean_std(np.array(values)).text(decimals, scale)
            line += f": {kind.column} {found}, n = {len(values)}"
        if diverged := len(config.seeds) - len(values):
            line += f"; {diverged} of {len(config.seeds)} final runs diverged"
        lines.append(line)
    return "\n".join(lines)


# -------------------------------------------------------------------------- table


def table(experiment: Experiment, config: Any, rows: list[Row]) -> str:
    """All trials, the best of each optimizer marked, as Markdown."""
    kind, lines = sweep_of(experiment), []
    metric, unit = kind.metrics[0], kind.unit[:-1]

    def number(value: float) -> str:
        return f"{value:.4f}" if kind.lowest else f"{100 * value:.2f}"

    for name in config.optimizers:
        chosen = best(rows, name, metric, kind.lowest)
        for row in rows:
            if row["optimizer"] != name:
                continue
            finished = row["outcome"] == FINISHED
            score = number(row[metric]) if finished else row["outcome"]
            top = row.get("best")  # Older sweeps have none.
            highest = f"{number(top[metric])} ({top['epoch']})" if top else ""
            mark = "best" if chosen and chosen.items() <= row.items() else ""
            lines.append([name, describe(row), str(row["seed"]), score, highest, mark])
    name = config.optimizers[0]
    member = grid(experiment, config, name)[0]
    full = make_config(experiment, config, name, **member)
    length = f"{full.epochs} {kind.unit}"
    if config.trial_epochs not in (None, full.epochs):
        length = (
            f"{config.trial_epochs} {kind.unit}, all phases but the free one shortened"
            f" from {full.epochs}"
        )
        if config.trial_free == "shortened":
            length = (
                f"{config.trial_epochs} {kind.unit}, all phases shortened from"
                f" {full.epochs} (the free {kind.unit} named are those of the full"
                " schedule)"
            )
    header = ["optimizer", "trial", "seed", kind.column, f"its best ({unit})", ""]
    if not any(line[4] for line in lines):
        header, *lines = ([*line[:4], line[5]] for line in (header, *lines))
    return (
        f"Trials on {full.dataset}, batch {full.batch_size:,},"
        f" {kind.subject(config)}: {length}. {kind.column.removesuffix(' %')} after"
        f" the last {unit}, {kind.measured(config)}."
        f"\n\n{markdown.table(header, lines)}"
    )
