"""The options of runs and sweeps of recommenders: presets, defaults, checks."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from train import optimizers, options, shortening
from train.errors import require
from train.hyperparameters import tuned_help
from train.rules import option

# Epochs and schedule: Gupta et al. 2021, arXiv:2108.05839, Appendix D.3 and section
# 4.2 (500 for a data set's two largest batches); LAWN, ICLR submission (one warm-up).
PRESETS: dict[str, dict[str, Any]] = {
    "arxiv": {"epochs": 300, "warmup_epochs": 30.0, "schedule": "three-phase"},
    "arxiv-500": {"epochs": 500, "warmup_epochs": 30.0, "schedule": "three-phase"},
    "submission": {"epochs": 300, "warmup_epochs": 30.0, "schedule": "two-phase"},
}
# Learning rate, weight decay and free epochs of a run that gives none: the best on
# ml-100k's validation item at batch 100,000 and 300 epochs
# (benchmarks/results/recommenders.md). lamb and lamb-lawn have the best of their first
# nine trials: later ones are no better on the test item. sgd-lawn learns little with
# its values.
TUNED = {
    "sgd": (1.0, 0.0, 0.0),
    "adam": (1e-3, 0.0, 0.0),
    "adamw": (4e-3, 3.0, 0.0),
    "lamb": (2e-2, 3.0, 0.0),
    "sgd-lawn": (0.1, 0.0, 50.0),
    "adam-lawn": (1.4e-3, 0.0, 50.0),
    "lamb-lawn": (2e-2, 0.0, 50.0),
}

# Gupta et al. 2021, arXiv:2108.05839, Table 8.
_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2)
_SGD_RATES = (1e-2, 5e-2, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.75, 5.0)
GRIDS = {
    # ml-100k was tuned with these decays and these rates of adam.
    "default": options.grids(
        {"adam": (1e-3, 2e-3, 4e-3), "lamb": (5e-3, 1e-2, 2e-2), "sgd": (0.1, 0.5, 2)},
        (0.0, 1.0, 3.0),
        (20.0, 50.0, 100.0),
    ),
    "papers": options.grids(
        {"adam": _RATES, "lamb": _RATES, "sgd": _SGD_RATES},
        (1e-4, 1e-3, 1e-2, 1e-1, 0.0),
        (0.1, 1.0, 5.0, 20.0, 50.0, 100.0),
    ),
}
# For Table 2, Appendix D.5 names three rates for each method and three flood levels,
# but no weight decays and no free epochs. These are three of Table 8, so that LAWN and
# weight decay have as many trials as flooding.
_REMEDIES = options.Grid((1e-3, 5e-3, 1e-2), (1e-3, 1e-2, 1e-1), (5.0, 20.0, 50.0))
GRIDS["papers-remedies"] = {"adam": _REMEDIES}
GRIDS["papers-flooding"] = {"adam": _REMEDIES._replace(floods=(0.2, 0.3, 0.4))}


@dataclasses.dataclass(frozen=True)
class Options(options.CommonOptions):
    """Options that a single run and a sweep have in common."""

    dataset: Literal["ml-100k", "ml-1m", "ml-1m-ncf", "pinterest-20"] = "ml-100k"
    """MovieLens with our leave-one-out split, or He et al.'s files (ml-1m-ncf,
    pinterest-20): u.data, ratings.dat, *.train.rating ..."""
    inactive_users: Literal["keep", "remove"] = "keep"
    """Users with fewer than 20 interactions in He et al.'s files: keep them, or remove
    them as the papers do. (Our splits are always without them.)"""
    batch_size: int = 100_000
    """Samples per step, positives and negatives, over all devices."""
    preset: Literal["arxiv", "arxiv-500", "submission"] = "arxiv"
    """Epochs and schedule: 300 three-phase, 500 three-phase, 300 two-phase; a warm-up
    of 30 epochs."""
    tower: Literal["3-layer", "4-layer"] = "3-layer"
    """Dense layers 256-128-64-1, or 256-256-128-64-1."""
    init: Literal["small", "torch"] = "small"
    """Initial weights: He et al.'s (embeddings of deviation 0.01) or PyTorch's (1)."""
    constrain: Literal["all", "tower", "all-but-head"] = "all"
    """Layers that the -lawn forms constrain: all, only the dense ones (the embeddings
    stay free), or all but the last one."""
    loss: Literal["bce", "focal"] = "bce"
    """Binary cross entropy or focal loss."""
    candidate_draws: int = option(5, least=0)
    """Draws of 99 candidates that the metrics are averaged over; 0 takes those that
    come with He et al.'s files."""
    candidate_seed: int = option(0, least=0, below=options.SEEDS)
    """Seed for drawing candidates."""
    micro_batch: int | None = None
    """Samples at once per device; gradients of a batch's parts are summed (default:
    10,000 on CPUs, for their caches, else 1,048,576)."""


@dataclasses.dataclass(frozen=True)
class Config(Options, options.RunOptions):
    """Recommenders: an MLP on user and item embeddings (NCF), at any batch size.

    Trains on implicit feedback with four fresh negatives per positive, and ranks each
    user's held-out item among 99 others: HR@10, NDCG@10, AUC. The same command with
    the same options resumes a run that was interrupted. The default run takes about
    five minutes on 2 CPU cores, --epochs 30 less than one.
    """

    validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out each user's second-latest item and rank that one, to choose
    hyperparameters without the test item."""
    learning_rate: Annotated[
        float | None,
        tyro.conf.arg(help=tuned_help("Highest learning rate", TUNED, 0)),
    ] = None
    free_epochs: Annotated[
        float | None,
        tyro.conf.arg(
            help=tuned_help("Epochs before the switch of the -lawn forms", TUNED, 2)
        ),
    ] = None
    weight_decay: Annotated[
        float | None,
        tyro.conf.arg(help=tuned_help(options.DECAY, TUNED, 1)),
    ] = None


@dataclasses.dataclass(frozen=True)
class SweepConfig(Options, options.SweepOptions):
    """Recommenders: the same number of trials for each optimizer, then its best one.

    Trials have one seed and all epochs, or a short schedule with a whole free phase.
    The best of them, by each user's second-latest item, is trained in full with several
    seeds on everything but the latest item, which is the test item. The papers' grid,
    Table 8, has 40 to 66 trials for each optimizer. The same command with the same
    options resumes a sweep that was interrupted. The default sweep takes about two
    hours on 2 CPU cores, with --epochs 30 a quarter of an hour.
    """

    grid: Literal["default", "papers", "papers-remedies", "papers-flooding"] = "default"
    """Our grid; the papers' (Table 8); or, for Adam and its forms, their smaller one
    for Table 2 (Appendix D.5), without or with its flood levels."""
    at_once: int | None = option(None, least=1, below=2**16, changes_result=False)
    """Trials trained side by side by vmap (default: 1 on CPUs, where more at once are
    not faster, else as many as fit the memory)."""


@dataclasses.dataclass(frozen=True)
class Settings(Config, options.ResolvedOptions):
    """Options of a run after defaults are filled in; see `resolve`."""

    # The preset's values are in the other options.
    preset: Literal["arxiv", "arxiv-500", "submission"] = option(
        "arxiv", changes_result=False
    )


def grid(config: SweepConfig, name: str) -> options.Grid:
    """Hyperparameters that a sweep tries with an optimizer."""
    listed = GRIDS[config.grid]
    require(
        options.listed_name(name, listed) in listed,
        f"--grid {config.grid} is for Adam and its forms; got {name}",
    )
    tried = options.grid(config, name, listed)
    return shortening.grid(config, tried, PRESETS[config.preset]["epochs"])


def resolve(config: Config) -> Settings:
    """Fills in the preset and the tuned values, and checks all options.

    Raises:
        InputError: For options that no run can have.
    """
    defaults: dict[str, Any] = {}
    defaults |= PRESETS[config.preset] | options.tuned(config.optimizer, TUNED)
    found = options.fill_in(config, shortening.phases(config, defaults))
    found["shortened"] = shortening.in_words(config, found, defaults["epochs"])
    settings = Settings(**found)
    options.check(settings)
    require(
        settings.constrain == "all" or optimizers.is_lawn(settings.optimizer),
        "--constrain needs a -lawn optimizer",
    )
    require(
        settings.loss == "bce" or settings.label_smoothing == 0,
        "--label-smoothing goes with --loss bce",
    )
    return settings
