"""The options of image classification: presets, defaults, checks."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

from train import (
    optimizers,
    options,
    require,
)
from train.images import decoding as image_views

# Epochs, schedule and clipping: Gupta et al. 2021, arXiv:2108.05839, Appendix D.2 (its
# grid of warm-ups is 5, 20, 40, 60); LAWN, ICLR submission (one warm-up).
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"epochs": 30, "warmup_epochs": 3.0, "schedule": "three-phase"},
    "arxiv": {"epochs": 300, "warmup_epochs": 20.0, "schedule": "three-phase"},
    "submission": {"epochs": 300, "warmup_epochs": 20.0, "schedule": "two-phase"},
}
IMAGENET_EPOCHS = 90  # Of `arxiv` and `submission` there: Appendix D.4.4.
# Learning rate, weight decay, free epochs where none is given: in the middle of the
# papers' grids for CIFAR-10 at batch 4k (arXiv, Table 5), not tuned here.
TUNED = {
    "sgd": (1.9, 1e-4, 0.0),
    "adam": (7e-3, 0.0, 0.0),
    "adamw": (7e-3, 1e-3, 0.0),
    "lamb": (3e-2, 1e-3, 0.0),
    "sgd-lawn": (1.7, 1e-4, 5.0),
    "adam-lawn": (6e-3, 0.0, 5.0),
    "lamb-lawn": (3e-2, 0.0, 5.0),
}
# The same for ImageNet, and epochs of the warm-up: in the middle of the grids for batch
# 256 and for 16k, or their only value (arXiv, Appendix D.4.4), not tuned here.
TUNED_256 = {
    "sgd": (0.256, 1e-4, 0.0, 0.5),
    "adam": (1.25e-3, 0.0, 0.0, 0.16),
    "adamw": (1.25e-3, 0.0, 0.0, 0.16),
    "lamb": (2e-3, 0.01, 0.0, 0.16),
    "sgd-lawn": (0.256, 1e-4, 5.0, 5.0),
    "adam-lawn": (6e-4, 0.0, 5.0, 5.0),
    "lamb-lawn": (2e-3, 0.01, 0.16, 5.0),
}
TUNED_16K = {
    "sgd": (5.0, 1e-4, 0.0, 5.0),
    "adam": (5e-3, 0.0, 0.0, 10.0),
    "adamw": (5e-3, 1e-3, 0.0, 10.0),
    "lamb": (0.02828, 0.01, 0.0, 10.0),
    "sgd-lawn": (5.0, 1e-4, 5.0, 5.0),
    "adam-lawn": (5e-3, 0.0, 5.0, 5.0),
    "lamb-lawn": (0.02828, 0.01, 10.0, 10.0),
}
LARGE = 2_048  # Batch size from which on those for 16k are taken.

GRIDS = {
    "default": options.grids(
        {"adam": (1e-3, 3e-3, 1e-2), "lamb": (3e-3, 1e-2, 3e-2), "sgd": (0.1, 0.5, 2)},
        (1e-3, 1e-2, 1e-1),
        (1.0, 3.0, 9.0),
    ),
    # The coarse one of arXiv, Table 5, with the decays and free epochs of D.2; the
    # second stage, five rates near the best, is named with --rates.
    "papers": options.grids(
        dict.fromkeys(("adam", "lamb", "sgd"), (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)),
        (1e-5, 1e-4, 1e-3),
        (1.0, 5.0, 20.0, 40.0),
    ),
}


_SMALL, _LARGE = (1.0, 5.0, 10.0), (5.0, 10.0, 20.0)
_LAMB = (1e-3, 2e-3, 3.5e-3, 5e-3)
_ADAM_16K = (1e-3, 3e-3, 5e-3, 8e-3, 1e-2)
_LAMB_16K = (0.01, 0.02, 0.02828, 0.03, 0.04)
# The same for ImageNet (arXiv, Appendix D.4.4). Where it keeps the rate that was best
# for the base optimizer, that is LAMB's 0.02828, and for SGD, of which no best rate is
# printed, the middle one. The trials are as many as the papers': more for LAWN.
PAPERS_256 = {
    "sgd": options.Grid((0.1, 0.256, 0.5), (1e-4,), (), (0.5,)),
    "adam": options.Grid((1e-4, 1.25e-3, 2.5e-3, 5e-3), (0.0,), (), (0.16,)),
    "lamb": options.Grid(_LAMB, (0.01,), (), (0.16,)),
    "sgd-lawn": options.Grid((0.256,), (), _SMALL, _SMALL),
    "adam-lawn": options.Grid((3e-4, 6e-4, 8e-4, 4e-3), (), _SMALL, _SMALL),
    "lamb-lawn": options.Grid(_LAMB, (), (0.16,), _SMALL),
}
PAPERS_16K = {
    "sgd": options.Grid((1.0, 5.0, 10.0), (1e-4,), (), (0.16, 1.0, 5.0, 10.0)),
    "adam": options.Grid(_ADAM_16K, (0.0, 1e-3, 1e-2), (), _LARGE),
    "lamb": options.Grid(_LAMB_16K, (0.01,), (), _LARGE),
    "sgd-lawn": options.Grid((1.0, 5.0, 10.0), (), _SMALL, _SMALL),
    "adam-lawn": options.Grid(_ADAM_16K, (), _SMALL, _SMALL),
    "lamb-lawn": options.Grid((0.02828,), (), _LARGE, _LARGE),
}


@dataclasses.dataclass(frozen=True)
class Options(options.Training):
    """What a single run and a sweep have in common."""

    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10"
    """cifar-10-batches-bin or -py, cifar-100-binary or -python; for imagenet a folder
    with train/CLASS/*.JPEG and val/CLASS/*.JPEG, of any classes."""
    model: Literal["cnn", "vgg19", "resnet18", "preresnet32", "resnet50"] = "cnn"
    """The papers' networks are vgg19 for CIFAR, resnet50 for ImageNet; cnn is small,
    for CPUs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; weights and statistics are float32."""
    batch_size: int = 4_000
    """Images per step, over all devices; those that fill no batch are left out."""
    preset: Literal["quick", "arxiv", "submission"] = "quick"
    """Epochs and schedule: 30 three-phase, 300 (ImageNet: 90) three-phase, 300 (90)
    two-phase."""
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    """Cross entropy or focal loss."""
    clip_norm: float | Literal["preset"] | None = "preset"
    """Clip the gradient to this global norm; None does not (default: to 1, but for sgd
    and sgd-lawn on ImageNet)."""
    momentum: float | None = None
    """Of sgd and its forms (default: 0.9, on ImageNet 0.875)."""
    decay_norms: bool | None = None
    """Whether weight decay includes the norm layers (default: on CIFAR)."""
    constrain: Literal["all", "matrices", "all-but-head"] = "all"
    """Layers that the -lawn forms constrain: all, kernels alone (norm layers and
    biases stay free), or all but the last one."""
    scaling: image_views.Scaling = "shorter"
    """Before the middle of a photograph is cut out to be tested: its shorter side to
    256 pixels, or both."""
    augment: bool = True
    """Random crops and mirror images, for cifar100 rotations by up to 15 degrees; on
    imagenet always crops of 8 to 100 % of the area."""
    images: int | None = None
    """Train on this many images, drawn by --split-seed, and test on as many at most,
    for a first look (default: all)."""
    split_seed: int = 0
    """Of the images that --validation and sweeps hold out."""
    eval_every: int = 1
    """Epochs between two evaluations."""
    micro_batch: int | None = None
    """Images at once per device (default: its whole share of a batch). Gradients of
    the parts are summed; batch norm takes the statistics of each."""
    workers: int | None = None
    """Processes that decode photographs (default: one for each processor)."""


@dataclasses.dataclass(frozen=True)
class Config(Options, options.Single):
    """Image classification: convolutional networks with batch norm, at any batch size.

    Trains on CIFAR-10, CIFAR-100 or ImageNet with random crops and mirror images, and
    reports accuracy, calibration and margins. The same command with the same options
    resumes a run that was interrupted.
    """

    validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out 5,000 of the training images and test on them, to choose
    hyperparameters without the test images."""


@dataclasses.dataclass(frozen=True)
class SweepConfig(Options, options.Several):
    """Images: the same number of trials for each optimizer, then its best one.

    Trials have one seed and all epochs, or a schedule with all phases shortened alike;
    the best of them, by its accuracy on 5,000 held-out training images, is trained in
    full with several seeds on all training images. The papers' grid for CIFAR, the
    first stage of Table 5, has 18 to 24 trials for each optimizer; that for ImageNet,
    Appendix D.4.4, 3 to 45, more for the -lawn forms. The same command with the same
    options resumes a sweep that was interrupted.
    """

    warmups: tuple[float, ...] = ()
    """Epochs of the warm-up in the full schedule (default: --warmup-epochs; without it
    those of the grid, if it has any)."""


@dataclasses.dataclass(frozen=True)
class Settings(Config, options.Settled):
    """The options of a run with nothing left open; from `resolve`, which gives all."""

    clip_norm: float | None = None
    momentum: float = 0.9
    decay_norms: bool = True


def grid(config: SweepConfig, name: str) -> options.Grid:
    """What a sweep tries with an optimizer."""
    tried = GRIDS[config.grid]
    if config.grid == "papers" and config.dataset == "imagenet":
        tried = PAPERS_256 if config.batch_size < LARGE else PAPERS_16K
    found = options.grid(config, name, tried)
    if config.warmups or config.warmup_epochs is not None:
        found = found._replace(warmups=config.warmups)
    return found


def resolve(config: Config) -> Settings:
    """Fills in what was left to the preset and to the tuned values, and checks all.

    Raises:
        InputError: For options that no run can have.
    """
    settings = Settings(**_settle(config))
    options.check(settings)
    options.at_least(settings, 0, "split_seed", "workers", "momentum")
    options.at_least(settings, 1, "images")
    require(
        settings.constrain == "all" or optimizers.is_lawn(settings.optimizer),
        "--constrain needs a -lawn optimizer",
    )
    require(settings.split_seed < 2**32, "seeds must be below 2^32")
    require(
        settings.loss == "cross-entropy" or settings.label_smoothing == 0,
        "--label-smoothing goes with --loss cross-entropy",
    )
    return settings


def _settle(config: Config) -> dict[str, Any]:
    """All options by name."""
    clip_norm, defaults = 1.0, {"momentum": 0.9, "decay_norms": True}
    defaults |= PRESETS[config.preset]
    table: Mapping[str, tuple[float, ...]] = TUNED
    if config.dataset == "imagenet":
        defaults |= {"momentum": 0.875, "decay_norms": False}
        if config.preset != "quick":
            defaults["epochs"] = IMAGENET_EPOCHS
        if config.optimizer in ("sgd", "sgd-lawn"):
            clip_norm = None
        table = TUNED_256 if config.batch_size < LARGE else TUNED_16K
    defaults |= options.tuned(config.optimizer, table)
    if config.clip_norm == "preset":
        config = dataclasses.replace(config, clip_norm=clip_norm)
    return options.settle(config, defaults)
