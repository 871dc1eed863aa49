"""The options that every experiment has, and their checks."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from train import optimizers
from train.devices import check_address
from train.errors import require
from train.rules import check_bounds, option

EPOCHS = 2**20  # A run has fewer; more are a slip, and their steps overflow.
SEEDS = 2**32  # There are this many; JAX takes the seed as 32 bits.
# Help of --weight-decay.
DECAY = (
    "Weight decay: added to the gradient (sgd), to the step (adamw, muon), or to the"
    " step before the trust ratio (lamb). In the -lawn forms it ends at the switch"
)


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """Options of every command that writes a folder."""

    checkpoint_minutes: float = option(5.0, least=0, changes_result=False)
    """Minutes between two checkpoints."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = option(
        None, changes_result=False
    )
    """Folder for the results (default: under runs/, by a hash of the options)."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = option(
        False, changes_result=False
    )
    """Show no progress."""


@dataclasses.dataclass(frozen=True)
class CommonOptions(FolderOptions):
    """Options that a single run and a sweep have in common."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = option(
        None, changes_result=False
    )
    """Folder with the original files, or the folder around it (default: TensorFlow
    Datasets downloads them)."""
    batch_size: int | None = option(None, least=1, below=2**31)
    """Samples per step, over all devices."""
    epochs: int | None = option(None, least=1, below=EPOCHS)
    """Passes over the data (default: from the preset)."""
    schedule: Literal["three-phase", "two-phase"] | None = None
    """Learning-rate schedule; three-phase has a second warm-up after the switch of the
    -lawn forms (default: from the preset; two-phase if a margin decides the switch)."""
    warmup_epochs: float | None = option(None, least=0, below=EPOCHS)
    """Epochs of the (second) warm-up (default: from the preset)."""
    reset: Literal["restart", "moments"] = "restart"
    """State that the switch resets: moments and Adam's count, or the moments alone."""
    switch: Literal["epochs", "mean-margin", "median-margin"] = "epochs"
    """When the -lawn forms switch: after the free epochs, or once the training margin,
    smoothed over an epoch, reaches --switch-threshold."""
    switch_threshold: float = 3.0
    """Margin at which to switch."""
    alpha: float = option(1.0, above=0)
    """Factor of the logits from the switch on (extended LAWN). Margins include it, as
    those that the paper plots."""
    gamma: float = option(2.0, least=0)
    """Exponent of the focal loss."""
    label_smoothing: float = option(0.0, least=0, most=1)
    """Probability that label smoothing takes from the target."""
    flood: float | None = option(None, least=0)
    """Flood level: below it, a batch's loss is increased instead of decreased."""
    clip_norm: float | None = option(None, above=0)
    """Clip the gradient to this global norm."""
    eval_every: int = option(5, least=1)
    """Epochs between two evaluations."""
    micro_batch: int | None = option(None, least=1, changes_result=False)
    """Samples at once per device; the gradients of a batch's parts are summed."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a single run alone."""

    optimizer: str = "adam-lawn"
    """One of: sgd, adam, adamw, lamb, lamb-plus, or one of them with -lawn, or with
    -bounded (bounded weight norm)."""
    learning_rate: float | None = option(None, above=0)
    """Highest learning rate (default: by optimizer, tuned on the default data set)."""
    free_epochs: float | None = option(None, least=0, below=EPOCHS)
    """Epochs before the switch of the -lawn forms (default: by optimizer, tuned)."""
    weight_decay: Annotated[
        float | None, tyro.conf.arg(help=f"{DECAY} (default: by optimizer).")
    ] = option(None, least=0)
    seed: int = option(0, least=0, below=SEEDS)
    """Random seed (initial weights, order of the samples, random changes of them)."""
    parallel: Literal["jit", "pmap"] = option("jit", changes_result=False)
    """How the batch is split over several devices."""
    devices: int | None = option(None, least=1, changes_result=False)
    """Number of devices to use (default: all)."""
    shard_state: Annotated[bool, tyro.conf.FlagCreatePairsOff] = option(
        False, changes_result=False
    )
    """With --parallel jit: keep weights and optimizer state in parts, one on each
    device, for models that do not fit on one (FSDP)."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = option(
        False, changes_result=False
    )
    """On GPUs: sum in a fixed order, so that a resumed run ends in the same bits. (On
    CPUs it always does.)"""
    coordinator: str | None = option(None, changes_result=False)
    """HOST:PORT of process 0, if the run has several processes."""
    processes: int = option(1, least=1, changes_result=False)
    """Number of processes of the run."""
    process: int = option(0, changes_result=False)
    """This process's number."""


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep alone."""

    optimizers: tuple[str, ...] = ("adamw", "adam-lawn", "lamb", "lamb-lawn")
    """Optimizers to tune: any that a single run takes."""
    grid: Literal["default", "papers"] = "default"
    """Grid for hyperparameters that are not given below: nine trials for each
    optimizer, or the papers' grid."""
    rates: tuple[float, ...] = option((), above=0)
    """Learning rates for every optimizer (default: from the grid)."""
    decays: tuple[float, ...] = option((), least=0)
    """Weight decays, for the optimizers without -lawn that take one."""
    free: tuple[float, ...] = option((), least=0, below=EPOCHS)
    """Free epochs of the full schedule, for the -lawn forms."""
    floods: tuple[float, ...] = option((), least=0)
    """Flood levels to try (default: from the grid if it has any, else --flood)."""
    trial_epochs: int | None = option(None, least=1, below=EPOCHS)
    """Epochs of a trial (default: all). Fewer, with the schedule compressed, cost less
    but favour learning rates that are too high for a training in full."""
    trial_free: Literal["whole", "shortened"] = "whole"
    """Free phase of the trials of --trial-epochs: as many updates as in the final run,
    or shortened like the other phases."""
    trial_seeds: tuple[int, ...] = option((0,), least=0, below=SEEDS)
    """Seeds of each trial; trials are compared by their mean."""
    seeds: tuple[int, ...] = option((0, 1, 2), least=0, below=SEEDS)
    """Seeds of the final runs; without any, there are none."""
    protocol: Literal["validation", "papers"] = "validation"
    """Choose by held-out training data, or by the test data itself."""


@dataclasses.dataclass(frozen=True)
class ResolvedOptions(CommonOptions, RunOptions):
    """Options of a run after all defaults are filled in."""

    epochs: int = 0
    schedule: Literal["three-phase", "two-phase"] = "three-phase"
    warmup_epochs: float = 0.0
    learning_rate: float = 0.0
    free_epochs: float = 0.0
    weight_decay: float = 0.0
    # What was scaled with a shortened run, in words; see `train.shortening`.
    shortened: str = option("", changes_result=False)


# ------------------------------------------------------------- grids and defaults


class Grid(NamedTuple):
    """Hyperparameters that a sweep tries with an optimizer: all combinations.

    Attributes:
        rates: Learning rates.
        decays: Weight decays, for the optimizers without -lawn that take one.
        free: Free epochs of the full schedule, for the -lawn forms.
        warmups: Epochs of the full schedule's warm-up; if empty, the run's own.
        floods: Flood levels; if empty, the run's own.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    free: tuple[float, ...]
    warmups: tuple[float, ...] = ()
    floods: tuple[float, ...] = ()


def grids(
    rates: Mapping[str, tuple[float, ...]],
    decays: tuple[float, ...],
    free: tuple[float, ...],
) -> dict[str, Grid]:
    """The same decays and free epochs for all optimizers, and rates by optimizer."""
    return {name: Grid(values, decays, free) for name, values in rates.items()}


def grid(config: SweepOptions, name: str, tried: Mapping[str, Grid]) -> Grid:
    """The hyperparameters that a sweep tries with an optimizer.

    Args:
        config: Options of the sweep; values that are given there replace `tried`.
        name: Name of the optimizer.
        tried: Grids by optimizer.
    """
    own = tried[listed_name(name, tried)]
    return own._replace(
        rates=config.rates or own.rates,
        decays=config.decays or own.decays,
        free=config.free or own.free,
        floods=config.floods or own.floods,
    )


def listed_name(name: str, table: Mapping[str, Any]) -> str:
    """The name under which a table lists an optimizer or its base form.

    Raises:
        InputError: If there is no such optimizer.
    """
    check_optimizer(name)
    key = name.removesuffix("-bounded").replace("-plus", "")
    key = key if key in table else key.replace("adamw", "adam")
    return key if key in table else key.removesuffix("-lawn")


def tuned(name: str, table: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """The default learning rate, weight decay and free epochs of an optimizer, and the
    epochs of its warm-up if the table has them.

    Args:
        name: Name of the optimizer.
        table: Values of the forms that were tuned; the others take the values of these.

    Raises:
        InputError: If there is no such optimizer.
    """
    names = ("learning_rate", "weight_decay", "free_epochs", "warmup_epochs")
    return dict(zip(names, table[listed_name(name, table)], strict=False))


def fill_in(config: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options by name, with defaults for those that were left open."""
    defaults = dict(defaults)
    if config.switch != "epochs":
        defaults["schedule"] = "two-phase"
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return given | {key: defaults[key] for key in defaults if given[key] is None}


# ------------------------------------------------------------------------- checks


def check_optimizer(name: str) -> None:
    """Raises an `InputError` if there is no such optimizer."""
    known = ", ".join(optimizers.NAMES)
    require(name in optimizers.NAMES, f"no optimizer {name!r}; choose from: {known}")


def check(config: ResolvedOptions) -> None:
    """Raises an `InputError` for options that no run can have."""
    name, lawn_form = config.optimizer, optimizers.is_lawn(config.optimizer)
    check_bounds(config)
    require(math.isfinite(config.switch_threshold), "--switch-threshold must be finite")
    require(
        config.weight_decay == 0 or name not in optimizers.WITHOUT_DECAY,
        f"{name} takes no --weight-decay; the form with it is adamw",
    )
    planned = optimizers.has_free_phase(name) and config.switch == "epochs"
    free = config.free_epochs if planned else 0
    # Only the three phases have their warm-up behind the free phase.
    join = sum if config.schedule == "three-phase" else max
    needed = join((config.warmup_epochs, free))
    require(
        needed <= config.epochs,
        f"--epochs {config.epochs} are fewer than the {needed:g} of the free phase and"
        " the warm-up; shorten --free-epochs or --warmup-epochs",
    )
    if config.switch != "epochs":
        require(lawn_form, f"--switch {config.switch} needs a -lawn optimizer")
        require(
            config.schedule == "two-phase",
            f"--switch {config.switch} needs --schedule two-phase: the three phases"
            " need to know the switch beforehand",
        )
    require(lawn_form or config.alpha == 1, "--alpha needs a -lawn optimizer")
    require(
        0 <= config.process < config.processes,
        f"--process must be 0 to {config.processes - 1}, one number per process",
    )
    require(
        config.parallel == "jit" or not config.shard_state,
        "--shard-state goes with --parallel jit",
    )
    require(
        (config.coordinator is None) == (config.processes == 1),
        "several --processes need --coordinator HOST:PORT, and one needs none",
    )
    if config.coordinator is not None:
        check_address(config.coordinator)
