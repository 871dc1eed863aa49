"""The options of image classification: presets, defaults, checks."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

from train import optimizers, options, shortening
from train.errors import require
from train.hyperparameters import tuned_help
from train.images import decoding, grids
from train.rules import check_bounds, option

# Epochs, schedule and clipping: Gupta et al. 2021, arXiv:2108.05839, Appendix D.2 (its
# grid of warm-ups is 5, 20, 40, 60); LAWN, ICLR submission (one warm-up).
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 30, "warmup_epochs": 3.0, "schedule": "three-phase"},
    "arxiv": {"epochs": 300, "warmup_epochs": 20.0, "schedule": "three-phase"},
    "submission": {"epochs": 300, "warmup_epochs": 20.0, "schedule": "two-phase"},
}
IMAGENET_EPOCHS = 90  # Epochs of `arxiv` and `submission` there: Appendix D.4.4.
_ELSEWHERE = "; on ImageNet, and with another --preset, the papers' values"
# Defaults of --switch-threshold. The papers name 3 for logistic loss, and for accuracy
# "a decent high value" (arXiv, section 3).
MARGIN, PLATEAU = 3.0, 0.8
BATCH_SIZE = 4_000  # 8 % of CIFAR's 50,000 training images.


@dataclasses.dataclass(frozen=True)
class Options(options.CommonOptions):
    """Options that a single run and a sweep have in common."""

    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10"
    """cifar-10-batches-bin or -py, cifar-100-binary or -python; for imagenet a folder
    with train/CLASS/*.JPEG and val/CLASS/*.JPEG, of any classes."""
    model: Literal["cnn", "vgg19", "resnet18", "preresnet32", "resnet50"] = "cnn"
    """The papers' networks are vgg19 for CIFAR, resnet50 for ImageNet; cnn is small,
    for CPUs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; weights and statistics are float32."""
    batch_size: int | None = None
    """Images per step, over all devices; those that fill no batch are left out
    (default: 4,000, or 8 % of --images)."""
    preset: Literal["quick", "arxiv", "submission"] = "quick"
    """Epochs and schedule: 30 three-phase, 300 (ImageNet: 90) three-phase, 300 (90)
    two-phase. The latter two take the papers' rates for the data set and the nearest
    batch size, and in `submission` the -lawn forms have no weight decay."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """Cross entropy or focal loss."""
    clip_norm: float | Literal["preset"] | None = "preset"
    """Clip the gradient to this global norm, or None (default: 1, but None for sgd and
    sgd-lawn on ImageNet)."""
    switch: Literal["epochs", "mean-margin", "median-margin", "accuracy-plateau"] = (
        "epochs"
    )
    """When the -lawn forms switch: after the free epochs, once the training margin
    reaches --switch-threshold, or once the training accuracy does and rises no more.
    Margin and accuracy are those of the batches, smoothed over an epoch."""
    switch_threshold: float | None = None
    """Margin or accuracy at which to switch (default: 3, or 0.8 for the accuracy)."""
    switch_plateau: float = option(0.01, above=0, most=1)
    """Largest rise of the smoothed accuracy over an epoch that counts as a plateau."""
    momentum: float | None = option(None, least=0, below=1)
    """Momentum of sgd and its forms (default: 0.9; on ImageNet 0.875)."""
    decay_norms: bool | None = None
    """Whether weight decay includes the norm layers (default: yes on CIFAR, no on
    ImageNet)."""
    constrain: Literal["all", "matrices", "all-but-head"] = "all"
    """Layers that the -lawn forms constrain: all, only kernels (norm layers and biases
    stay free), or all but the last one."""
    scaling: decoding.Scaling = "shorter"
    """Side of a photograph that is scaled to 256 pixels before the middle is cut out
    for testing: the shorter one, or both."""
    augment: bool = True
    """Random crops and mirror images, for cifar100 also rotations by up to 15 degrees.
    On imagenet, crops of 8 to 100 % of the area are always on."""
    images: int | None = option(None, least=1)
    """Train on this many images, drawn by --split-seed, and test on at most as many,
    for a first look (default: all images)."""
    split_seed: int = option(0, least=0, below=options.SEEDS)
    """Seed for drawing the images that --validation and sweeps hold out."""
    eval_every: int = 1
    """Epochs between two evaluations."""
    micro_batch: int | None = None
    """Images at once per device (default: its whole share of a batch). Gradients of
    the parts are summed; batch norm uses the statistics of each part."""
    workers: int | None = option(None, least=0, most=1_000, changes_result=False)
    """Processes that decode photographs (default: one for each processor)."""


@dataclasses.dataclass(frozen=True)
class Config(Options, options.RunOptions):
    """Image classification: convolutional networks with batch norm, at any batch size.

    Trains on CIFAR-10, CIFAR-100 or ImageNet with random crops and mirror images, and
    reports accuracy, calibration and margins. The same command with the same options
    resumes a run that was interrupted. The default run takes about 20 minutes on a CPU
    core, --images 2000 about one.
    """

    validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out 5,000 of the training images and test on them, to choose
    hyperparameters without the test images."""
    learning_rate: Annotated[
        float | None,
        tyro.conf.arg(
            help=tuned_help("Highest learning rate", grids.TUNED, 0, _ELSEWHERE)
        ),
    ] = None
    free_epochs: Annotated[
        float | None,
        tyro.conf.arg(
            help=tuned_help(
                "Epochs before the switch of the -lawn forms",
                grids.TUNED,
                2,
                _ELSEWHERE,
            )
        ),
    ] = None
    weight_decay: Annotated[
        float | None,
        tyro.conf.arg(help=tuned_help(options.DECAY, grids.TUNED, 1, _ELSEWHERE)),
    ] = None


@dataclasses.dataclass(frozen=True)
class SweepConfig(Options, options.SweepOptions):
    """Images: the same number of trials for each optimizer, then its best one.

    Trials have one seed and all epochs, or a short schedule with a whole free phase;
    the best of them, by its accuracy on 5,000 held-out training images, is trained in
    full with several seeds on all training images. The papers search on CIFAR in two
    stages (Table 5): `--grid papers` has 72 to 96 trials for each optimizer, and
    `--grid papers-second` 60 to 80, at the five rates that they print for the data set
    and the nearest batch size. Their grid for ImageNet (Appendix D.4.4) has one stage
    of 3 to 45, with more for the -lawn forms. The same
    command with the same options resumes a sweep that was interrupted. The default
    sweep takes about eight hours on a CPU core, with --images 2000 half an hour.
    """

    grid: Literal["default", "papers", "papers-second"] = "default"
    """Our grid, or the papers' (CIFAR: the first or the second stage, both for the
    epochs of --preset arxiv or submission)."""
    warmups: tuple[float, ...] = option((), least=0, below=options.EPOCHS)
    """Epochs of the warm-up in the full schedule, to try (default: --warmup-epochs if
    given, otherwise those of the grid if it has any)."""


@dataclasses.dataclass(frozen=True)
class Settings(Config, options.ResolvedOptions):
    """Options of a run after defaults are filled in; see `resolve`."""

    # The preset's values are in the other options.
    preset: Literal["quick", "arxiv", "submission"] = option(
        "quick", changes_result=False
    )
    batch_size: int = BATCH_SIZE
    clip_norm: float | None = None
    switch_threshold: float = MARGIN
    momentum: float = 0.9
    decay_norms: bool = True


def grid(config: SweepConfig, name: str) -> options.Grid:
    """Hyperparameters that a sweep tries with an optimizer."""
    tried = grids.GRIDS["default" if config.grid == "default" else "papers"]
    if config.grid != "default" and config.dataset == "imagenet":
        require(config.grid == "papers", "--grid papers-second is for CIFAR")
        large = _batch_size(config) >= grids.LARGE
        tried = grids.PAPERS_16K if large else grids.PAPERS_256
    elif config.grid == "papers-second":
        rates = grids.second_stage(config.dataset, _batch_size(config))
        coarse = tried["adam"]
        tried = {key: coarse._replace(rates=rates[key]) for key in rates}
    found = options.grid(config, name, tried)
    if config.warmups or config.warmup_epochs is not None:
        found = found._replace(warmups=config.warmups)
    return shortening.grid(config, found, _preset(config)["epochs"])


def resolve(config: Config) -> Settings:
    """Fills in the preset and the tuned values, and checks all options.

    Raises:
        InputError: For options that no run can have.
    """
    check_bounds(config)  # The presets' rates depend on the batch size.
    settings = Settings(**_fill_in(config))
    options.check(settings)
    require(
        settings.constrain == "all" or optimizers.is_lawn(settings.optimizer),
        "--constrain needs a -lawn optimizer",
    )
    require(
        settings.switch != "accuracy-plateau" or 0 < settings.switch_threshold <= 1,
        "--switch-threshold of an accuracy must be above 0 and at most 1; got"
        f" {settings.switch_threshold:g}",
    )
    require(
        settings.loss == "cross-entropy" or settings.label_smoothing == 0,
        "--label-smoothing goes with --loss cross-entropy",
    )
    return settings


def _fill_in(config: Config) -> dict[str, Any]:
    """All options by name."""
    clip_norm, defaults = 1.0, {"momentum": 0.9, "decay_norms": True}
    accuracy = config.switch == "accuracy-plateau"
    defaults["switch_threshold"] = PLATEAU if accuracy else MARGIN
    defaults |= _preset(config)
    defaults["batch_size"] = _batch_size(config)
    table: Mapping[str, tuple[float, ...]] = grids.TUNED
    if config.dataset == "imagenet":
        defaults |= {"momentum": 0.875, "decay_norms": False}
        if config.optimizer in ("sgd", "sgd-lawn"):
            clip_norm = None
        large = defaults["batch_size"] >= grids.LARGE
        table = grids.TUNED_16K if large else grids.TUNED_256
    elif config.preset != "quick":
        table = grids.papers_values(config.dataset, defaults["batch_size"])
    defaults |= options.tuned(config.optimizer, table)
    if config.preset == "submission" and optimizers.is_lawn(config.optimizer):
        defaults["weight_decay"] = 0.0  # Its LAWN has none in the free phase either.
    given = config
    if config.clip_norm == "preset":
        given = dataclasses.replace(config, clip_norm=clip_norm)
    found = options.fill_in(given, shortening.phases(config, defaults))
    found["shortened"] = shortening.in_words(config, found, defaults["epochs"])
    return found


def _preset(config: Options) -> dict[str, Any]:
    """Epochs and schedule of the preset."""
    preset = PRESETS[config.preset]
    if config.dataset == "imagenet" and config.preset != "quick":
        return preset | {"epochs": IMAGENET_EPOCHS}
    return preset


def _batch_size(config: Options) -> int:
    """The batch size that is given; otherwise the same share of fewer images."""
    if config.batch_size is not None:
        return config.batch_size
    share = BATCH_SIZE if config.images is None else config.images * 8 // 100
    if share > 8:
        share -= share % 8  # So that two, four or eight devices can split it.
    return max(1, min(BATCH_SIZE, share))
