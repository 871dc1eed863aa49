"""The options that every experiment has, and their checks."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from train import optimizers, require

# These change where and how fast a run computes, and its result only by rounding.
UNRELATED = (
    *("out", "quiet", "data_dir", "checkpoint_minutes", "micro_batch", "parallel"),
    *("devices", "coordinator", "processes", "process", "preset", "deterministic"),
    *("shard_state", "workers"),
)


@dataclasses.dataclass(frozen=True)
class Training:
    """What a single run and a sweep have in common."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the original files, or the one around it. Default: TensorFlow
    Datasets downloads them."""
    batch_size: int = 0
    """Samples per step, over all devices."""
    epochs: int | None = None
    """Passes over the data (default: of the preset)."""
    schedule: Literal["three-phase", "two-phase"] | None = None
    """Learning rate: three-phase has a second warm-up after the switch of the -lawn
    forms (default: of the preset; two-phase where a margin decides the switch)."""
    warmup_epochs: float | None = None
    """Epochs of the (second) warm-up (default: of the preset)."""
    reset: Literal["restart", "moments"] = "restart"
    """At the switch: the moments with Adam's count, or the moments alone."""
    switch: Literal["epochs", "mean-margin", "median-margin"] = "epochs"
    """When the -lawn forms switch: after the free epochs, or once the training margin,
    smoothed over an epoch, reaches --switch-threshold."""
    switch_threshold: float = 3.0
    """Margin at which to switch."""
    alpha: float = 1.0
    """Extended LAWN: factor of the logits from the switch on."""
    gamma: float = 2.0
    """Exponent of the focal loss."""
    label_smoothing: float = 0.0
    """Probability that label smoothing takes from the target."""
    flood: float | None = None
    """Flood level: ascend where a batch's loss is below it."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm."""
    eval_every: int = 5
    """Epochs between two evaluations."""
    micro_batch: int | None = None
    """Samples at once per device; gradients of a batch's parts are summed."""
    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for the results (default: under runs/, by a hash of the options)."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""


@dataclasses.dataclass(frozen=True)
class Single:
    """What a single run has besides."""

    optimizer: str = "adam-lawn"
    """One of: sgd, adam, adamw, lamb, lamb-plus, or one of them with -lawn, or with
    -bounded (bounded weight norm)."""
    learning_rate: float | None = None
    """Peak, per update (default: by optimizer, tuned on the default data set)."""
    free_epochs: float | None = None
    """Epochs before the switch of the -lawn forms (default: as for the rate)."""
    weight_decay: float | None = None
    """Decoupled decay; in the -lawn forms it ends at the switch."""
    seed: int = 0
    """Of initial weights, the order of the samples, and what is drawn for them."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the batch is split over several devices."""
    devices: int | None = None
    """Use this many devices (default: all)."""
    shard_state: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --parallel jit: keep weights and optimizer state in parts, one on each
    device, for models that do not fit on one (FSDP)."""
    deterministic: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """On GPUs: sum in a fixed order, so that a resumed run ends in the same bits. (On
    CPUs it always does.)"""
    coordinator: str | None = None
    """HOST:PORT of process 0, if the run has several processes."""
    processes: int = 1
    """Number of processes of the run."""
    process: int = 0
    """This process's number."""


@dataclasses.dataclass(frozen=True)
class Several:
    """What a sweep has besides."""

    optimizers: tuple[str, ...] = ("adamw", "adam-lawn", "lamb", "lamb-lawn")
    """Any of those that a single run takes."""
    grid: Literal["default", "papers"] = "default"
    """What is not given below: nine trials for each optimizer, or the papers' grid."""
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
    """Choose by what is held out of the training data, or by the test data itself."""


class Grid(NamedTuple):
    """Hyperparameters that a sweep tries with an optimizer: all combinations.

    Attributes:
        rates: Learning rates.
        decays: Weight decays, for the optimizers without -lawn that take one.
        free: Free epochs of the full schedule, for the -lawn forms.
        warmups: Epochs of the full schedule's warm-up; none leaves it to the run.
    """

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    free: tuple[float, ...]
    warmups: tuple[float, ...] = ()


def grids(
    rates: Mapping[str, tuple[float, ...]],
    decays: tuple[float, ...],
    free: tuple[float, ...],
) -> dict[str, Grid]:
    """The same decays and free epochs for all optimizers, and rates by optimizer."""
    return {name: Grid(values, decays, free) for name, values in rates.items()}


def grid(config: Several, name: str, tried: Mapping[str, Grid]) -> Grid:
    """What a sweep tries with an optimizer.

    Args:
        config: Its options; what is given there comes before `tried`.
        name: Of the optimizer.
        tried: By optimizer.
    """
    own = tried[listed_name(name, tried)]
    return own._replace(
        rates=config.rates or own.rates,
        decays=config.decays or own.decays,
        free=config.free or own.free,
    )


def listed_name(name: str, table: Mapping[str, Any]) -> str:
    """The name under which a table has an optimizer, or the one it is a form of.

    Raises:
        InputError: If there is no such optimizer.
    """
    known = ", ".join(optimizers.NAMES)
    require(name in optimizers.NAMES, f"no optimizer {name!r}; choose from: {known}")
    key = name.removesuffix("-bounded").replace("-plus", "")
    key = key if key in table else key.replace("adamw", "adam")
    return key if key in table else key.removesuffix("-lawn")


@dataclasses.dataclass(frozen=True)
class Settled(Training, Single):
    """What `resolve` leaves open in no run."""

    epochs: int = 0
    schedule: Literal["three-phase", "two-phase"] = "three-phase"
    warmup_epochs: float = 0.0
    learning_rate: float = 0.0
    free_epochs: float = 0.0
    weight_decay: float = 0.0


def tuned(name: str, table: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """The learning rate, weight decay and free epochs of an optimizer where none are
    given, and the epochs of its warm-up if the table has them.

    Args:
        name: Of the optimizer.
        table: Of the forms that were tuned; the others take the values of these.

    Raises:
        InputError: If there is no such optimizer.
    """
    names = ("learning_rate", "weight_decay", "free_epochs", "warmup_epochs")
    return dict(zip(names, table[listed_name(name, table)], strict=False))


def settle(config: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options by name, with defaults for those that were left open."""
    defaults = dict(defaults)
    if config.switch != "epochs":
        defaults["schedule"] = "two-phase"
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return given | {key: defaults[key] for key in defaults if given[key] is None}


def at_least(config: Any, least: float, *names: str) -> None:
    """Raises an `InputError` for a given option below `least`, or not finite."""
    for name in names:
        value = getattr(config, name)
        flag = name.replace("_", "-")
        fits = value is None or least <= value < math.inf
        require(fits, f"--{flag} must be finite and at least {least}; got {value}")


def check(config: Settled) -> None:
    """Raises an `InputError` for options that no run can have."""
    name, lawn_form = config.optimizer, optimizers.is_lawn(config.optimizer)
    at_least(config, 1, "batch_size", "epochs", "eval_every", "micro_batch", "devices")
    at_least(config, 1, "processes")
    at_least(config, 0, "warmup_epochs", "free_epochs", "weight_decay", "gamma")
    at_least(config, 0, "flood", "checkpoint_minutes", "seed", "label_smoothing")
    for option in ("learning_rate", "clip_norm", "alpha"):
        value = getattr(config, option)
        flag = option.replace("_", "-")
        require(
            value is None or 0 < value < math.inf,
            f"--{flag} must be finite and above 0; got {value}",
        )
    require(config.seed < 2**32, "seeds must be below 2^32")
    require(config.batch_size < 2**31, "--batch-size must be below 2^31")
    require(math.isfinite(config.switch_threshold), "--switch-threshold must be finite")
    require(config.label_smoothing <= 1, "--label-smoothing must be 0 to 1")
    require(
        config.weight_decay == 0 or name not in optimizers.WITHOUT_DECAY,
        f"{name} takes no --weight-decay; the form with it is adamw",
    )
    free = config.free_epochs if lawn_form and config.schedule == "three-phase" else 0
    require(
        config.warmup_epochs + free <= config.epochs,
        f"--epochs {config.epochs} are fewer than the {free + config.warmup_epochs:g}"
        " of the free phase and the warm-up; shorten --free-epochs or --warmup-epochs",
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
