"""Sweeps: a grid of hyperparameters per optimizer, then the best with several seeds.

``python -m train sweep recsys``. All trials of an optimizer train in one compiled
program; the best of them, by the validation item, is then trained on everything but
the test item.
"""

import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import (
    optimizers,
    options,
    recommender,
    records,
    recsys,
    recsys_options,
    require,
    training,
)
from train.interactions import Interactions
from train.parallel import Devices
from train.progress import ProgressReport
from train.recommender import Task
from train.recsys_options import Options, Settings, resolve
from train.runs import open_run

Member = dict[str, Any]  # Hyperparameters and seed of one trial.
HYPERPARAMETERS = ("learning_rate", "weight_decay", "free_epochs")
UNRELATED = ("out", "quiet", "data_dir", "checkpoint_minutes", "micro_batch", "at_once")

# Gupta et al. 2021, arXiv:2108.05839, Table 8.
PAPERS_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2)
PAPERS_SGD_RATES = (1e-2, 5e-2, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.75, 5.0)
PAPERS_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 0.0)
PAPERS_FREE = (0.1, 1.0, 5.0, 20.0, 50.0, 100.0)
# Nine trials each. Those of adam and the decays are what ml-100k was tuned with.
RATES = {"adam": (1e-3, 2e-3, 4e-3), "lamb": (5e-3, 1e-2, 2e-2), "sgd": (0.1, 0.5, 2.0)}
DECAYS = (0.0, 1.0, 3.0)
FREE = (20.0, 50.0, 100.0)


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Recommenders: the same number of trials for each optimizer, then its best one.

    Trials have one seed and all epochs, or a schedule with all phases shortened alike;
    the best of them is trained in full with several seeds. The same command with the
    same options resumes a sweep that was interrupted.
    """

    optimizers: tuple[str, ...] = ("adamw", "adam-lawn", "lamb", "lamb-lawn")
    """Any of those that `recsys` takes."""
    grid: Literal["default", "papers"] = "default"
    """What is not given below: nine trials for each optimizer, or the papers' Table 8
    (40 to 66 trials each)."""
    rates: tuple[float, ...] = ()
    """Learning rates for every optimizer (default: of the grid)."""
    decays: tuple[float, ...] = ()
    """Weight decays, for the optimizers without -lawn that take one."""
    free: tuple[float, ...] = ()
    """Free epochs of the full schedule, for the -lawn forms."""
    trial_epochs: int | None = None
    """Epochs of a trial (default: all). Fewer, with the schedule compressed, cost less
    but favour learning rates that are too high for a training in full."""
    trial_seeds: tuple[int, ...] = (0,)
    """Seeds of each trial; trials are compared by their mean."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the final runs; without any, there are none."""
    protocol: Literal["validation", "papers"] = "validation"
    """Choose by each user's second-latest item, or by the test item itself."""
    at_once: int | None = None
    """Trials trained side by side by vmap (default: 1 on CPUs, where more gains
    nothing, else as many as fit the memory)."""


def grid(config: Config, name: str) -> list[Member]:
    """The hyperparameters of each trial of an optimizer."""
    known = ", ".join(optimizers.NAMES)
    require(name in optimizers.NAMES, f"no optimizer {name!r}; choose from: {known}")
    base = name.split("-")[0].removesuffix("w")
    papers = config.grid == "papers"
    rates = config.rates or RATES[base]
    if papers and not config.rates:
        rates = PAPERS_SGD_RATES if base == "sgd" else PAPERS_RATES
    if optimizers.is_lawn(name):
        key, values = "free_epochs", config.free or (PAPERS_FREE if papers else FREE)
    elif name in optimizers.WITHOUT_DECAY:
        key, values = "weight_decay", (0.0,)
    else:
        key = "weight_decay"
        values = config.decays or (PAPERS_DECAYS if papers else DECAYS)
    members = itertools.product(rates, values, config.trial_seeds)
    return [{"learning_rate": r, key: v, "seed": seed} for r, v, seed in members]


def make_config(config: Config, name: str, **changes: Any) -> Settings:
    """A run in full, with the options of the sweep."""
    fields = dataclasses.fields(Options)
    given: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields}
    given |= {"optimizer": name} | changes
    return resolve(recsys_options.Config(**given))


def trial_config(config: Config, name: str, member: Member) -> Settings:
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
    names = config.optimizers
    require(0 < len(names) == len(set(names)), "--optimizers needs different names")
    require(len(config.trial_seeds) > 0, "--trial-seeds needs at least one")
    members = {name: grid(config, name) for name in names}
    # All options are checked before anything is read.
    trials = [trial_config(config, n, m) for n in names for m in members[n]]
    content = records.run_config("sweep recsys", config, UNRELATED)
    folder = config.out or records.default_folder(content)
    data, candidates = recsys.load_data(trials[0])
    with open_run(folder, content) as files:
        rows = []
        for name in names:
            rows += train_grid(config, name, members[name], folder, data, candidates)
        text = table(config, rows)
        print(f"\n{text}\n", flush=True)
        records.write_jsonl(folder / "trials.jsonl", rows)
        (folder / "table.md").write_text(text + "\n", encoding="utf-8")
        finals(config, rows, folder)
        files.finish(
            {"best": {n: best([r for r in rows if r["optimizer"] == n]) for n in names}}
        )


def train_grid(
    config: Config,
    name: str,
    members: list[Member],
    folder: Path,
    data: Interactions,
    candidates: np.ndarray,
) -> list[dict[str, Any]]:
    """Trains all trials of an optimizer in one program; one row for each."""
    trials = [trial_config(config, name, member) for member in members]
    task = recsys.make_task(trials[0], data, Devices(limit=1))
    at_once = min(len(trials), config.at_once or _fitting(task))
    content = records.run_config("trials", trials[0], options.UNRELATED)
    content["trials"] = members
    epochs = trials[0].epochs
    with open_run(
        folder / "trials" / name, content, checkpoint_minutes=config.checkpoint_minutes
    ) as files:
        if not files.finished:
            print(
                f"{name}: {len(trials)} trials of {epochs} epochs, {at_once} at once"
                f" ({task.steps_per_epoch} steps per epoch)",
                flush=True,
            )
            arguments = [training.make_trial(t, task.steps_per_epoch) for t in trials]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arguments)
            arrays = recsys.on_device(data, candidates)

            def over_members(function):
                # Even a vmap of one costs time on a CPU.
                batch_size = at_once if at_once > 1 else None
                return partial(jax.lax.map, function, batch_size=batch_size)

            @partial(jax.jit, donate_argnums=0)
            def advance(state, first, last):
                def one(member):
                    return recommender.advance(
                        task, member[0], member[1], arrays, first, last
                    )

                return over_members(one)((state, stacked))

            @jax.jit
            def evaluate(state):
                def one(member):
                    return recommender.evaluate(task, member[0], member[1], arrays)[0]

                return over_members(one)((state, stacked))

            start = jax.jit(over_members(partial(recommender.start, task)))
            host, done = files.restore(jax.tree.map(np.asarray, start(stacked)))
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
                        | {key: float(values[key][i]) for key in ("hr", "ndcg", "auc")}
                        | {"outcome": _outcome(int(host.diverged_step[i]))}
                        for i, member in enumerate(members)
                    ]
                }
            )
        return json.loads((files.folder / "summary.json").read_text())["trials"]


def best(rows: list[dict[str, Any]]) -> Member | None:
    """The trial with the highest mean hit ratio over its seeds, of those that finished.

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
    top = max(alive, key=lambda trial: np.mean([row["hr"] for row in trial]))[0]
    return {key: top[key] for key in HYPERPARAMETERS if key in top}


def finals(config: Config, rows: list[dict[str, Any]], folder: Path) -> None:
    """Trains each optimizer's best trial in full, with every seed."""
    loaded = None
    for name in config.optimizers:
        chosen = best([row for row in rows if row["optimizer"] == name])
        if chosen is None:
            print(f"{name}: every trial diverged, so there is no final run")
            continue
        for seed in config.seeds:
            out = folder / "final" / f"{name}-seed{seed}"
            final = make_config(config, name, **chosen, seed=seed, out=out)
            loaded = loaded or recsys.load_data(final)
            recsys.execute(final, Devices(), *loaded)


def table(config: Config, rows: list[dict[str, Any]]) -> str:
    """All trials, the best of each optimizer marked, as Markdown."""
    lines = []
    for name in config.optimizers:
        mine = [row for row in rows if row["optimizer"] == name]
        chosen = best(mine)
        for row in mine:
            hit = f"{100 * row['hr']:.2f}" if row["outcome"] == "finished" else ""
            mark = "best" if chosen and chosen.items() <= row.items() else ""
            trial, seed = describe(row), str(row["seed"])
            lines.append([name, trial, seed, hit or row["outcome"], mark])
    validation = config.protocol == "validation"
    item = "second-latest (validation)" if validation else "latest (test)"
    full = config.epochs or recsys_options.PRESETS[config.preset]["epochs"]
    length = f"{full} epochs"
    if config.trial_epochs not in (None, full):
        length = (
            f"{config.trial_epochs} epochs, all phases shortened from {full} (the free"
            " epochs named are those of the full schedule)"
        )
    candidates = f"mean of {config.candidate_draws} draws of candidates"
    if not config.candidate_draws:
        candidates = "candidates of the files"
    header = ("optimizer", "trial", "seed", "HR@10 %", "")
    return (
        f"Trials on {config.dataset}, batch {config.batch_size:,}, tower"
        f" {config.tower}, initial weights {config.init}: {length}. HR@10 after the"
        f" last epoch, of each user's {item} item, {candidates}.\n\n"
        f"{records.table(header, lines)}"
    )


def describe(row: Member) -> str:
    """The hyperparameters of a trial in words."""
    words = {"learning_rate": "rate", "weight_decay": "decay", "free_epochs": "free"}
    return ", ".join(f"{words[key]} {row[key]:g}" for key in words if key in row)


def _outcome(diverged_step: int) -> str:
    return "finished" if diverged_step < 0 else f"diverged at step {diverged_step}"


def _fitting(task: Task) -> int:
    """How many members train side by side."""
    if jax.default_backend() == "cpu":
        return 1
    size = -(-task.batch_size // task.parts)
    model = task.model
    weights = (model.num_users + model.num_items) * model.embedding
    # Activations and their gradients of a part; weights, moments and gradients.
    numbers = 4 * size * sum(model.features) + 10 * weights
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 2**33)
    return max(1, int(memory / 2 / (4 * numbers)))
