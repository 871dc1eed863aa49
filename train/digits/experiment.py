"""Handwritten digits: optimizers side by side at a large batch, each equally tuned.

Reads top to bottom: config, data, grid, model and training, report, run.
"""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lawn_optax import metrics, schedules
from models import MLP
from train import (
    optimizers,
    plots,
    require,
)
from train.digits.grid import Trial, run_grid
from train.digits.tables import (
    differences,
    result_table,
    trial_table,
)
from train.runs import records
from train.runs.progress import ProgressReport

# ---------------------------------------------------------------------- config

CLASSES, PIXELS = 10, 64
TRAIN, VALIDATION, TEST = 898, 449, 450  # Half, a quarter and a quarter of 1,797.
ECE_BINS = 15


@dataclasses.dataclass(frozen=True)
class Config:
    """Handwritten digits: optimizers side by side at a large batch.

    Trains a small network on scikit-learn's 1,797 images of 8x8 pixels (no download).
    Every optimizer gets a grid of the same number of trials, each trial the same
    seeds, all at once; the trial with the best validation accuracy at the end is
    reported on the test images.
    """

    optimizers: tuple[str, ...] = ("adam", "adamw", "adam-lawn")
    """Any of: sgd, adam, adamw, lamb, lamb-plus, and each with -lawn."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    epochs: int = 200
    """Passes over the 898 training images."""
    batch_size: int = TRAIN // 2
    """Images per step; what does not fill a batch is left out of that epoch."""
    warmup: float = 0.1
    """Share of the training in which the learning rate rises to its peak."""
    trials: int = 12
    """Size of each optimizer's grid: learning rates x weight decays for adamw,
    learning rates x free phases for the -lawn forms, learning rates for the others."""
    learning_rates: tuple[float, float] = (1e-3, 3e-1)
    """Lowest and highest peak learning rate; the grid is spaced evenly in log."""
    weight_decays: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Weight decays in the grid of adamw."""
    free: tuple[float, ...] = (0.01, 0.05, 0.2)
    """Shares of the training before the switch, in the grid of the -lawn forms."""
    seeds: int = 5
    """Initialisations per trial, the same ones for all optimizers."""
    split_seed: int = 0
    """Decides which images are for training, validation and test."""
    eval_every: int = 5
    """Epochs between two evaluations."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for the results (default: runs/digits/ and a hash of the options)."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""

    @property
    def steps_per_epoch(self) -> int:
        return TRAIN // self.batch_size

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def widths(self) -> tuple[int, ...]:
        return (*self.hidden, CLASSES)


def check(config: Config) -> None:
    """Raises `InputError` for options that no run can have."""
    names = config.optimizers
    known = ", ".join(optimizers.NAMES)
    for name in names:
        require(
            name in optimizers.NAMES, f"no optimizer {name!r}; choose from: {known}"
        )
    require(0 < len(names) == len(set(names)), "--optimizers needs different names")
    require(min(config.hidden, default=1) >= 1, "--hidden widths must be at least 1")
    require(
        1 <= config.batch_size <= TRAIN,
        f"--batch-size must be 1 to {TRAIN}, the training images;"
        f" got {config.batch_size}",
    )
    require(
        1 <= config.total_steps < 2**31,
        f"--epochs must be at least 1, of fewer than 2^31 steps; got {config.epochs}",
    )
    require(config.seeds >= 1, "--seeds must be at least 1")
    require(config.eval_every >= 1, "--eval-every must be at least 1")
    require(0 <= config.split_seed < 2**32, "--split-seed must be 0 to 2^32 - 1")
    low, high = config.learning_rates
    require(
        0 < low <= high < math.inf,
        "--learning-rates must be the lowest and the highest, both above 0;"
        f" got {low:g} {high:g}",
    )
    require(
        all(0 <= decay < math.inf for decay in config.weight_decays),
        "--weight-decays must be finite and at least 0",
    )
    shares = (config.warmup, *config.free)
    require(
        min(shares) >= 0 and config.warmup + max(config.free, default=0) <= 1 + 1e-9,
        "--warmup and --free are shares of the training: at least 0, and 1 at most for"
        f" warm-up and longest free phase together; got {shares}",
    )
    for name in names:
        values = len(second_axis(config, name)[1])
        require(
            config.trials >= 1 and values >= 1 and config.trials % values == 0,
            f"--trials must be a positive multiple of the {values} values that the"
            f" grid of {name} has beside its learning rates; got {config.trials}",
        )
    # Weights, moments, gradients and updates; activations of the largest evaluation.
    layers = itertools.pairwise((PIXELS, *config.widths))
    numbers = 6 * sum((inputs + 1) * outputs for inputs, outputs in layers)
    numbers += 2 * TRAIN * sum(config.widths)
    needed = 4 * config.trials * config.seeds * numbers / 2**30
    stats = jax.devices()[0].memory_stats() or {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = stats.get("bytes_limit", memory) / 2**30
    require(
        needed < memory,
        f"this grid needs about {needed:,.0f} GiB and the device has {memory:,.0f};"
        " lower --trials, --seeds or --hidden",
    )


# ------------------------------------------------------------------------ data

Split = tuple[jax.Array, jax.Array]  # float32[n, 64] in 0 to 1, int32[n]


def load_data(split_seed: int) -> dict[str, Split]:
    """The three splits, stratified by digit, on the device."""
    images, labels = load_digits(return_X_y=True)
    split = partial(train_test_split, random_state=split_seed)
    train, rest = split(np.arange(len(labels)), train_size=TRAIN, stratify=labels)
    validation, test = split(rest, train_size=VALIDATION, stratify=labels[rest])
    parts = {"train": train, "validation": validation, "test": test}
    return {
        name: (jnp.float32(images[part] / 16), jnp.int32(labels[part]))
        for name, part in parts.items()
    }


# ------------------------------------------------------------------------ grid


def second_axis(config: Config, name: str) -> tuple[str, list[float]]:
    """What the grid of an optimizer varies beside the learning rate, and its values."""
    if optimizers.is_lawn(name):
        steps = config.total_steps
        return "switch_step", [schedules.epochs_to_steps(s, steps) for s in config.free]
    if name == "adamw":
        return "weight_decay", list(config.weight_decays)
    return "", [0.0]


def grid(config: Config, name: str) -> list[Trial]:
    """The trials of one optimizer: `config.trials` of them, whatever it is."""
    key, values = second_axis(config, name)
    count = config.trials // len(values)
    low, high = config.learning_rates
    rates = np.geomspace(low, high, count) if count > 1 else [math.sqrt(low * high)]
    # Three digits, so that what is printed is what is used.
    pairs = itertools.product([float(f"{rate:.3g}") for rate in rates], values)
    return [{"learning_rate": r} | ({key: v} if key else {}) for r, v in pairs]


# ---------------------------------------------------------- model and training


class State(NamedTuple):
    """One member of the grid in training."""

    params: optax.Params
    opt_state: optax.OptState
    diverged_step: jax.Array  # int32[]; -1 while the loss is finite.


@partial(jax.jit, static_argnums=0)
def init_params(widths: tuple[int, ...], keys: jax.Array) -> optax.Params:
    """Initial weights for each of some keys."""
    return jax.vmap(MLP(widths).init, (0, None))(keys, jnp.zeros((1, PIXELS)))


def make_member(config: Config, name: str) -> tuple[Callable, Callable]:
    """How one member of a grid starts and advances, as `run_grid` takes it."""
    model = MLP(config.widths)
    steps = config.steps_per_epoch
    warmup_steps = schedules.epochs_to_steps(config.warmup, config.total_steps)

    def cross_entropy(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def loss_of(params, images, labels):
        return cross_entropy(model.apply(params, images), labels)

    def optimizer(trial):
        rate = optimizers.schedule(
            name,
            trial["learning_rate"],
            free_steps=trial.get("switch_step", 0),
            warmup_steps=warmup_steps,
            total_steps=config.total_steps,
        )
        others = {key: trial[key] for key in trial if key != "learning_rate"}
        return optimizers.make(name, rate, **others)

    def start(params, trial):
        return State(params, optimizer(trial).init(params), jnp.int32(-1))

    def advance(state, key, trial, data, first_epoch, last_epoch):
        tx = optimizer(trial)
        images, labels = data["train"]

        def train_step(state, batch):
            step, rows = batch
            loss, grads = jax.value_and_grad(loss_of)(
                state.params, images[rows], labels[rows]
            )
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            failed = (state.diverged_step < 0) & ~jnp.isfinite(loss)
            return State(
                optax.apply_updates(state.params, updates),
                opt_state,
                jnp.where(failed, step, state.diverged_step),
            ), None

        def train_epoch(epoch, state):
            order = jax.random.permutation(jax.random.fold_in(key, epoch), TRAIN)
            rows = order[: steps * config.batch_size].reshape(steps, -1)
            numbers = epoch * steps + 1 + jnp.arange(steps)
            return jax.lax.scan(train_step, state, (numbers, rows))[0]

        state = jax.lax.fori_loop(first_epoch, last_epoch, train_epoch, state)
        values = evaluate(state.params, data)
        failed = (state.diverged_step < 0) & ~jnp.isfinite(values["loss"])
        diverged = jnp.where(failed, last_epoch * steps, state.diverged_step)
        values = {k: jnp.where(diverged < 0, v, jnp.nan) for k, v in values.items()}
        return state._replace(diverged_step=diverged), values

    def evaluate(params, data):
        values, logits = {}, {}
        for split, (images, labels) in data.items():
            logits[split] = model.apply(params, images)
            values[f"{split}_accuracy"] = (logits[split].argmax(-1) == labels).mean()
        for key, split in (("loss", "train"), ("validation_loss", "validation")):
            values[key] = cross_entropy(logits[split], data[split][1])
        values["ece"] = metrics.expected_calibration_error(
            logits["test"], data["test"][1], ECE_BINS
        )
        margins = metrics.multiclass_margin(logits["train"], data["train"][1])
        values["median_margin"] = metrics.margin_quantiles(margins)
        values["weight_norm"] = optax.tree.norm(params)
        for layer, weights in params["params"].items():
            values[f"norm_{layer}"] = optax.tree.norm(weights)
        return values

    return start, advance


# ------------------------------------------------------------- report and run

NOTES = f"""\
Best trial: highest validation accuracy at the end, mean over seeds (ties: lower loss).
Mean ± sample standard deviation over seeds, on one split of the data, where one test
image is {100 / TEST:.2f} points. ECE: test images, {ECE_BINS} bins. Margin: training
images. Layer norms: from input to output. Seconds: the grid, without compilation."""


def introduction(config: Config) -> str:
    device = jax.devices()[0].device_kind
    return (
        f"Handwritten digits: {TRAIN} training, {VALIDATION} validation, {TEST} test"
        f" images; network {'-'.join(map(str, (PIXELS, *config.widths)))};\n"
        f"batch {config.batch_size} ({config.steps_per_epoch} steps per epoch),"
        f" {config.epochs} epochs; per optimizer {config.trials} trials x"
        f" {config.seeds} seeds at once (device: {device})."
    )


def run(config: Config) -> None:
    """Trains, prints the table and writes the run folder."""
    check(config)
    options = records.run_config("digits", config)
    folder = config.out or records.default_folder(options)
    with records.run_folder(folder, options) as files:
        print(introduction(config), flush=True)
        if not config.quiet:
            print("Progress: medians over all trials and seeds.", flush=True)
        data = load_data(config.split_seed)
        keys = jax.vmap(jax.random.key)(jnp.arange(config.seeds))
        params = init_params(config.widths, keys)
        total = config.epochs * len(config.optimizers)
        with ProgressReport(total, config.quiet) as progress:
            results = [
                run_grid(
                    name,
                    grid(config, name),
                    *make_member(config, name),
                    keys,
                    params,
                    data,
                    epochs=config.epochs,
                    eval_every=config.eval_every,
                    progress=progress,
                )
                for name in config.optimizers
            ]
        parts = [result_table(results), NOTES, differences(results)]
        parts += ["All trials:", trial_table(results)]
        report = "\n\n".join(filter(None, parts))
        text = f"{introduction(config)}\n\n{report}\n"
        (files / "table.md").write_text(text, encoding="utf-8")
        records.write_jsonl(
            files / "metrics.jsonl", itertools.chain(*(r.rows() for r in results))
        )
        records.write_json(
            files / "summary.json", {r.name: r.summary() for r in results}
        )
        plots.training_curves(files / "curves.png", results, config.steps_per_epoch)
        names = ", ".join(sorted(path.name for path in files.iterdir()))
    print(f"\n{report}\n\nWritten to {folder}: {names}")
