"""The options of runs and sweeps of recommenders: presets, defaults, checks."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train import optimizers, require

# Epochs and schedule: Gupta et al. 2021, arXiv:2108.05839, Appendix D.3 and section
# 4.2 (500 for a data set's two largest batches); LAWN, ICLR submission (one warm-up).
PRESETS: dict[str, dict[str, Any]] = {
    "arxiv": {"epochs": 300, "schedule": "three-phase"},
    "arxiv-500": {"epochs": 500, "schedule": "three-phase"},
    "submission": {"epochs": 300, "schedule": "two-phase"},
}
# Learning rate, weight decay, free epochs where none is given. Those of adam, adamw and
# adam-lawn were the best on ml-100k's validation item at batch 100,000 and 300 epochs
# (benchmarks/README.md); the others are plausible and not tuned.
TUNED = {
    "sgd": (0.1, 0.0, 0.0),
    "adam": (1e-3, 0.0, 0.0),
    "adamw": (4e-3, 3.0, 0.0),
    "lamb": (5e-3, 0.0, 0.0),
    "sgd-lawn": (0.1, 0.0, 50.0),
    "adam-lawn": (2e-3, 0.0, 50.0),
    "lamb-lawn": (5e-3, 0.0, 50.0),
}
# These change where and how fast a run computes, and its result only by rounding.
UNRELATED = (
    *("out", "quiet", "data_dir", "checkpoint_minutes", "micro_batch", "parallel"),
    *("devices", "coordinator", "processes", "process", "preset", "deterministic"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What a single run and a sweep have in common."""

    dataset: Literal["ml-100k", "ml-1m", "ml-1m-ncf", "pinterest-20"] = "ml-100k"
    """MovieLens with our leave-one-out split, or He et al.'s files (ml-1m-ncf,
    pinterest-20)."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with the original files (u.data, ratings.dat, *.train.rating ...), or the
    one around it. Default: TensorFlow Datasets downloads them."""
    batch_size: int = 100_000
    """Samples per step, positives and negatives, over all devices."""
    preset: Literal["arxiv", "arxiv-500", "submission"] = "arxiv"
    """Epochs and schedule: 300 three-phase, 500 three-phase, 300 two-phase."""
    epochs: int | None = None
    """Passes over the positives (default: of the preset)."""
    schedule: Literal["three-phase", "two-phase"] | None = None
    """Learning rate: three-phase has a second warm-up after the switch of the -lawn
    forms (default: of the preset; two-phase where a margin decides the switch)."""
    warmup_epochs: float = 30.0
    """Epochs of the (second) warm-up."""
    reset: Literal["restart", "moments"] = "restart"
    """At the switch: the moments with Adam's count, or the moments alone."""
    switch: Literal["epochs", "mean-margin", "median-margin"] = "epochs"
    """When the -lawn forms switch: after the free epochs, or once the training margin,
    smoothed over an epoch, reaches --switch-threshold."""
    switch_threshold: float = 3.0
    """Margin at which to switch."""
    alpha: float = 1.0
    """Extended LAWN: factor of the logits from the switch on."""
    tower: Literal["3-layer", "4-layer"] = "3-layer"
    """Dense layers 256-128-64-1, or 256-256-128-64-1."""
    init: Literal["small", "torch"] = "small"
    """Initial weights: He et al.'s (embeddings of deviation 0.01) or PyTorch's (1)."""
    loss: Literal["bce", "focal"] = "bce"
    """Binary cross entropy or focal loss."""
    gamma: float = 2.0
    """Exponent of the focal loss."""
    label_smoothing: float = 0.0
    """Probability that label smoothing takes from the target."""
    flood: float | None = None
    """Flood level: ascend where a batch's loss is below it."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm."""
    candidate_draws: int = 5
    """Draws of 99 candidates that the metrics are averaged over; 0 takes those that
    come with He et al.'s files."""
    candidate_seed: int = 0
    """Of the candidates."""
    eval_every: int = 5
    """Epochs between two evaluations."""
    micro_batch: int | None = None
    """Samples at once per device; gradients of a batch's parts are summed (default:
    10,000 on CPUs, for their caches, else 1,048,576)."""
    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for the results (default: under runs/, by a hash of the options)."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Recommenders: an MLP on user and item embeddings (NCF), at any batch size.

    Trains on implicit feedback with four fresh negatives per positive, and ranks each
    user's held-out item among 99 others: HR@10, NDCG@10, AUC. The same command with
    the same options resumes a run that was interrupted.
    """

    optimizer: str = "adam-lawn"
    """One of: sgd, adam, adamw, lamb, lamb-plus, or one of them with -lawn, or with
    -bounded (bounded weight norm)."""
    learning_rate: float | None = None
    """Peak, per update (default: by optimizer, for ml-100k at batch 100,000)."""
    free_epochs: float | None = None
    """Epochs before the switch of the -lawn forms (default: as for the rate)."""
    weight_decay: float | None = None
    """Decoupled decay; in the -lawn forms it ends at the switch."""
    seed: int = 0
    """Of initial weights, negatives and order."""
    validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out each user's second-latest item and rank that one, to choose
    hyperparameters without the test item."""
    parallel: Literal["jit", "pmap"] = "jit"
    """How the batch is split over several devices."""
    devices: int | None = None
    """Use this many devices (default: all)."""
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
class Settings(Config):
    """The options of a run with nothing left open; from `resolve`, which gives all."""

    epochs: int = 0
    schedule: Literal["three-phase", "two-phase"] = "three-phase"
    learning_rate: float = 0.0
    free_epochs: float = 0.0
    weight_decay: float = 0.0


def resolve(config: Config) -> Settings:
    """Fills in what was left to the preset and to the tuned values, and checks all.

    Raises:
        InputError: For options that no run can have.
    """
    name = config.optimizer
    known = ", ".join(optimizers.NAMES)
    require(name in optimizers.NAMES, f"no optimizer {name!r}; choose from: {known}")
    key = name.removesuffix("-bounded").replace("-plus", "")
    key = key if key in TUNED else key.replace("adamw", "adam")
    tuned = ("learning_rate", "weight_decay", "free_epochs")
    defaults = PRESETS[config.preset] | dict(zip(tuned, TUNED[key], strict=True))
    if config.switch != "epochs":
        defaults["schedule"] = "two-phase"
    given: dict[str, Any] = {
        f.name: getattr(config, f.name) for f in dataclasses.fields(Config)
    }
    given |= {key: defaults[key] for key in defaults if given[key] is None}
    settings = Settings(**given)
    check(settings)
    return settings


def check(config: Settings) -> None:
    """Raises an `InputError` for options that no run can have."""

    def at_least(least: float, *names: str) -> None:
        for name in names:
            value = getattr(config, name)
            flag = name.replace("_", "-")
            fits = value is None or least <= value < math.inf
            require(fits, f"--{flag} must be finite and at least {least}; got {value}")

    name, lawn_form = config.optimizer, optimizers.is_lawn(config.optimizer)
    at_least(1, "batch_size", "epochs", "eval_every", "micro_batch", "devices")
    at_least(1, "processes")
    at_least(0, "warmup_epochs", "free_epochs", "weight_decay", "gamma", "flood")
    at_least(0, "candidate_draws", "checkpoint_minutes", "seed", "candidate_seed")
    for option in ("learning_rate", "clip_norm", "alpha"):
        value = getattr(config, option)
        flag = option.replace("_", "-")
        require(
            value is None or 0 < value < math.inf,
            f"--{flag} must be finite and above 0; got {value}",
        )
    require(max(config.seed, config.candidate_seed) < 2**32, "seeds must be below 2^32")
    require(config.batch_size < 2**31, "--batch-size must be below 2^31")
    require(math.isfinite(config.switch_threshold), "--switch-threshold must be finite")
    require(config.label_smoothing <= 1, "--label-smoothing must be 0 to 1")
    at_least(0, "label_smoothing")
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
        config.loss == "bce" or config.label_smoothing == 0,
        "--label-smoothing goes with --loss bce",
    )
    require(
        0 <= config.process < config.processes,
        f"--process must be 0 to {config.processes - 1}, one number per process",
    )
    require(
        (config.coordinator is None) == (config.processes == 1),
        "several --processes need --coordinator HOST:PORT, and one needs none",
    )
