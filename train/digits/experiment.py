"""Handwritten digits: optimizers side by side at a large batch, each equally tuned.

Reads top to bottom: config, data, grid, model and training, report, experiment.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import metrics, schedules
from models import MLP
from train import optimizers, options, plots
from train import step as training_step
from train.devices import Devices, memory
from train.digits.grid import Grid, GridResult, Grids, Trial
from train.digits.tables import differences, result_table, trial_table
from train.errors import require
from train.experiment import Experiment
from train.rules import check_bounds, option
from train.runs import records
from train.step import State

# ---------------------------------------------------------------------- config

CLASSES, PIXELS = 10, 64
TRAIN, VALIDATION, TEST = 898, 449, 450  # Half, a quarter and a quarter of 1,797.
ECE_BINS = 15


@dataclass(frozen=True)
class Config(options.FolderOptions):
    """Handwritten digits: optimizers side by side at a large batch.

    Trains a small network on scikit-learn's 1,797 images of 8x8 pixels (no download).
    Every optimizer gets a grid of the same number of trials, each trial the same
    seeds, all at once; the trial with the best validation accuracy at the end is
    reported on the test images. The same command with the same options resumes a run
    that was interrupted.
    """

    optimizers: tuple[str, ...] = ("adam", "adamw", "adam-lawn")
    """Any of: sgd, adam, adamw, lamb, lamb-plus, and each with -lawn."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    epochs: int = option(200, least=1, below=options.EPOCHS)
    """Passes over the 898 training images."""
    batch_size: int = option(TRAIN // 2, least=1, most=TRAIN)
    """Images per step; those that fill no batch are left out of that epoch."""
    warmup: float = option(0.1, least=0, most=1)
    """Share of the training in which the learning rate rises to its peak."""
    trials: int = option(12, least=1)
    """Size of each optimizer's grid: learning rates x weight decays for adamw,
    learning rates x free phases for the -lawn forms, learning rates for the others."""
    learning_rates: tuple[float, float] = (1e-3, 3e-1)
    """Lowest and highest peak learning rate; the grid is spaced evenly in log."""
    weight_decays: tuple[float, ...] = option((0.01, 0.1, 1.0), least=0)
    """Weight decays in the grid of adamw."""
    free: tuple[float, ...] = option((0.01, 0.05, 0.2), least=0, most=1)
    """Shares of the training before the switch, in the grid of the -lawn forms."""
    seeds: int = option(5, least=1)
    """Initialisations per trial, the same ones for all optimizers."""
    split_seed: int = option(0, least=0, below=options.SEEDS)
    """Seed for the division into training, validation and test images."""
    eval_every: int = option(5, least=1)
    """Epochs between two evaluations."""

    @property
    def steps_per_epoch(self) -> int:
        return TRAIN // self.batch_size

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def widths(self) -> tuple[int, ...]:
        return (*self.hidden, CLASSES)


def check(config: Config) -> Config:
    """Returns options that a run can have; raises `InputError` for others."""
    names = config.optimizers
    for name in names:
        options.check_optimizer(name)
    check_bounds(config)
    require(0 < len(names) == len(set(names)), "--optimizers needs different names")
    require(min(config.hidden, default=1) >= 1, "--hidden widths must be at least 1")
    low, high = config.learning_rates
    require(
        0 < low <= high < math.inf,
        "--learning-rates must be the lowest and the highest, both above 0;"
        f" got {low:g} {high:g}",
    )
    longest = max(config.free, default=0.0)
    require(
        config.warmup + longest <= 1 + 1e-9,
        "--warmup and --free are shares of the training: 1 at most for warm-up and"
        f" longest free phase together; got {config.warmup} and {longest}",
    )
    for name in names:
        values = len(second_axis(config, name)[1])
        require(
            values >= 1 and config.trials % values == 0,
            f"--trials must be a positive multiple of the {values} values that the"
            f" grid of {name} has beside its learning rates; got {config.trials}",
        )
    # Weights, moments, gradients and updates of all optimizers; activations of the
    # largest evaluation.
    layers = itertools.pairwise((PIXELS, *config.widths))
    numbers = 6 * sum((inputs + 1) * outputs for inputs, outputs in layers)
    numbers = len(names) * numbers + 2 * TRAIN * sum(config.widths)
    needed = 4 * config.trials * config.seeds * numbers / 2**30
    there = memory() / 2**30
    require(
        needed < there,
        f"this grid needs about {needed:,.0f} GiB and the device has {there:,.0f};"
        " lower --trials, --seeds or --hidden",
    )
    return config


# ------------------------------------------------------------------------ data

Split = tuple[jax.Array, jax.Array]  # float32[n, 64] in 0 to 1, int32[n]


def load_data(split_seed: int) -> dict[str, Split]:
    """The three splits, stratified by digit, on the device."""
    # Here, because every command imports this module and scikit-learn takes a second.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

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
    """The hyperparameter that an optimizer's grid has beside the learning rate."""
    if optimizers.is_lawn(name):
        steps = config.total_steps
        free = [schedules.epochs_to_steps(share, steps) for share in config.free]
        return "switch_step", list(dict.fromkeys(free))  # Equal ones in short runs.
    if name == "adamw":
        return "weight_decay", list(config.weight_decays)
    return "", [0.0]


def grid(config: Config, name: str) -> list[Trial]:
    """The trials of one optimizer; each optimizer has `config.trials` of them."""
    key, values = second_axis(config, name)
    count = config.trials // len(values)
    low, high = config.learning_rates
    rates = np.geomspace(low, high, count) if count > 1 else [math.sqrt(low * high)]
    # Rates have three digits, so that the printed rate is the exact one.
    pairs = itertools.product([float(f"{rate:.3g}") for rate in rates], values)
    return [{"learning_rate": r} | ({key: v} if key else {}) for r, v in pairs]


# ---------------------------------------------------------- model and training


@partial(jax.jit, static_argnums=0)
def init_params(widths: tuple[int, ...], keys: jax.Array) -> optax.Params:
    """Initial weights for each of some keys."""
    return jax.vmap(MLP(widths).init, (0, None))(keys, jnp.zeros((1, PIXELS)))


def make_member(config: Config, name: str) -> tuple[Callable, Callable]:
    """Functions that start and advance one member of a `Grid`."""
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
        return State(params, {}, optimizer(trial).init(params), jnp.int32(-1))

    def advance(state, key, trial, data, first_epoch, last_epoch):
        tx = optimizer(trial)
        images, labels = data["train"]

        def make_step(epoch):
            order = jax.random.permutation(jax.random.fold_in(key, epoch), TRAIN)
            batches = order[: steps * config.batch_size].reshape(steps, -1)

            def one_step(state, number):
                rows = batches[number]
                loss, grads = jax.value_and_grad(loss_of)(
                    state.params, images[rows], labels[rows]
                )
                count = epoch * steps + number + 1
                state = training_step.update(tx, state, grads, loss, count)
                return state, loss / steps

            return one_step

        ends = first_epoch, last_epoch
        state, _ = training_step.run_epochs(make_step, steps, state, *ends)
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


# ------------------------------------------------------------ report, experiment

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


def publish(config: Config, folder: Path, results: list[GridResult]) -> str:
    """Writes the tables and the curves; returns the tables with notes."""
    parts = [result_table(results), NOTES, differences(results)]
    parts += ["All trials:", trial_table(results)]
    report = "\n\n".join(filter(None, parts))
    text = f"{introduction(config)}\n\n{report}\n"
    records.write_text(folder / "table.md", text)
    plots.training_curves(folder / "curves.png", results, config.steps_per_epoch)
    return report


def prepare(config: Config, data: dict[str, Split], devices: Devices) -> Grids:
    """The job that the loop trains, on one device."""
    keys = jax.vmap(jax.random.key)(jnp.arange(config.seeds))
    about = introduction(config)
    if not config.quiet:
        about += "\nProgress: medians of validation accuracy over all trials and seeds."
    return Grids(
        {
            name: Grid(grid(config, name), *make_member(config, name))
            for name in config.optimizers
        },
        keys,
        init_params(config.widths, keys),
        data,
        epochs=config.epochs,
        eval_every=config.eval_every,
        introduction=about,
        publish=partial(publish, config),
    )


EXPERIMENT = Experiment(
    name="digits",
    Options=Config,
    resolve=check,
    load=lambda config: load_data(config.split_seed),
    prepare=prepare,
)
