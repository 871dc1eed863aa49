"""The options of language models: presets, defaults, checks.

A run has a number of steps, and no passes over the data: what is an epoch in the loop
and in the files of a run is one step here.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Suppress, arg

from train import optimizers, options, shortening
from train.errors import InputError, require
from train.language import data
from train.language.presets import ADAM_RATE, ADAMH_RATE, AROUND, PRESETS, TUNED
from train.options import Grid
from train.rules import option

MODEL = ("width", "depth", "heads", "block", "norm", "positions", "qk_norm")
MODEL += ("activation", "attention_width", "tied", "dropout", "output_scale")
MODEL += ("scanned",)

SIZE = 2**20  # Widths and lengths are lower; memory sets the rest of the limit.

Preset = Literal["default", "full", "nanogpt", "nanolm"]
Init = Literal["fan-in", "small", "zero-out", "searched"]
Part = Literal["method", "adam", "adamh"] | None


@dataclasses.dataclass(frozen=True)
class Options(options.CommonOptions):
    """Options that a single run and a sweep have in common."""

    dataset: Literal["python", "tiny-shakespeare", "files"] | None = None
    """The source of Python's standard library on this machine, Shakespeare's plays
    (input.txt), or all files in --data-dir (default: python, or files with
    --data-dir)."""
    data_dir: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder with text files, or the one with or around input.txt (default, for
    tiny-shakespeare: TensorFlow Datasets downloads it)."""
    preset: Preset = "default"
    """Model and training: our default, a larger one for a GPU (full), or nanoGPT's CPU
    setting or Optax's example nanolm, both with adamw and on tiny-shakespeare."""
    epochs: Annotated[int | None, arg(name="steps")] = None
    """Steps (default: from the preset)."""
    batch_size: int | None = option(None, least=1, below=SIZE)
    """Sequences per step, over all devices (default: from the preset)."""
    schedule: Literal["three-phase", "two-phase", "cosine", "constant"] | None = None
    """Learning-rate schedule after the warm-up: linear to 0 (two-phase; three-phase has
    a second warm-up after the switch of the -lawn forms), cosine to a tenth, or
    constant (default: from the preset; three-phase for the -lawn forms)."""
    warmup_epochs: Annotated[float | None, arg(name="warmup-steps")] = None
    """Steps of the (second) warm-up (default: from the preset)."""
    gamma: Suppress[float] = 2.0
    switch: Literal["epochs", "mean-margin", "median-margin"] = "epochs"
    """When the -lawn forms switch: after the free steps ("epochs"), or once the
    training margin, smoothed over --switch-steps, reaches --switch-threshold."""
    switch_steps: float = option(10.0, least=1, below=options.EPOCHS)
    """Steps over which --switch smooths the margin."""
    width: int | None = option(None, least=2, below=SIZE)
    """Numbers per position in the residual stream (default, as for all options of the
    model: from the preset)."""
    depth: int | None = option(None, least=1, below=2**10)
    """Number of blocks."""
    heads: int | None = option(None, least=1, below=SIZE)
    """Number of heads of attention."""
    block: int | None = option(None, least=1, below=SIZE)
    """Bytes of a sequence."""
    norm: Literal["rms", "layer"] | None = None
    """RMSNorm or LayerNorm."""
    positions: Literal["rotary", "learned"] | None = None
    """Rotary or learned positions."""
    qk_norm: bool | None = None
    """Whether queries and keys are normed."""
    activation: Literal["relu2", "relu", "gelu"] | None = None
    """Squared ReLU, ReLU or GELU."""
    attention_width: int | None = option(None, least=1, below=SIZE)
    """Numbers of all queries of a position (default: the width, but 32 for nanolm)."""
    tied: bool | None = None
    """Whether the head's weights are the embeddings."""
    dropout: float | None = option(None, least=0, below=1)
    """Share of numbers that dropout sets to 0."""
    init: Init | None = None
    """First weights: by the number of inputs, as small as GPT-2's, the first with zeros
    where a block writes its output, or as modded-nanogpt searched them for MuonH."""
    output_scale: float | None = option(None, above=0)
    """Factor of the first weights where a block writes its output."""
    scanned: bool = False
    """Compile one block and repeat it: faster to compile, for deep networks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; weights, norms and logits are float32."""
    head: Part = None
    """What trains the head: the optimizer, Adam, or AdamH, which keeps its norm
    (default: adamh for the forms with a fixed step, adam for muon and the -lawn forms,
    else the optimizer)."""
    embeddings: Part = None
    """What trains embeddings and learned positions (default: the optimizer where it
    also trains the head, else adam)."""
    vectors: Literal["method", "adam"] | None = None
    """What trains the gains of the norms (default: as for the embeddings)."""
    adam_rate: float = option(ADAM_RATE, above=0)
    """Highest learning rate of the parts trained by Adam."""
    adamh_rate: float | None = option(None, above=0)
    """Highest learning rate of the parts trained by AdamH, a share of their norm
    (default: --learning-rate for adamh and muonh, else 0.01)."""
    b2: float | None = option(None, least=0, below=1)
    """Decay of Adam's second moments (default: from the preset)."""
    momentum: float = option(0.9, least=0, below=1)
    """Momentum of sgd and its forms."""
    project: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Project the updates of sgdh, adamh and muonh to the tangent space before they get
    their length."""
    clip_norm: float | Literal["preset"] | None = "preset"
    """Clip the gradient to this global norm, or None (default: 1 for nanogpt, else
    None)."""
    eval_every: int = option(100, least=1)
    """Steps between two evaluations."""
    eval_bytes: int | None = option(None, least=1)
    """Bytes of the held-out text that an evaluation predicts, in sequences spread
    evenly over it (default: 65,536; all of it for nanogpt and nanolm)."""
    sample_bytes: int = option(400, least=0, below=2**16)
    """Bytes of text to generate at an evaluation."""
    text_sha256: Suppress[str | None] = None


@dataclasses.dataclass(frozen=True)
class Config(Options, options.RunOptions):
    """Language model: a small transformer that predicts the next byte of a text.

    Trains on the source of Python's standard library, or any text, and reports the
    loss on held-out files in nats and bits per byte, with a sample of generated text.
    The default run takes less than four minutes on a CPU. The same command with the
    same options resumes a run that was interrupted.
    """

    optimizer: str | None = None
    """One of: sgd, adam, adamw, muon, or with -lawn (sgd, adam, muon), or with steps of
    a fixed angle at a fixed norm: sgdh, adamh, muonh (default: adamh)."""
    learning_rate: float | None = None
    """Highest learning rate of the optimizer (default: by optimizer)."""
    free_epochs: Annotated[float | None, arg(name="free-steps")] = None
    """Steps before norms are fixed (default: 25 for the -lawn forms, else 0). Those of
    adamh have the rate --adam-rate."""
    validation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Hold out another tenth and test on that one, to choose hyperparameters without
    the usual held-out text."""


@dataclasses.dataclass(frozen=True)
class SweepConfig(Options, options.SweepOptions):
    """Language models: the same number of trials for each optimizer, then its best one.

    Trials train on all but two tenths of the text, and are compared on the first of
    them. The best one of each optimizer is trained on all but the last tenth, with
    several seeds, and tested there. The same command with the same options resumes a
    sweep that was interrupted.
    """

    optimizers: tuple[str, ...] = ("adamw", "adamh", "muon", "muonh")
    """Optimizers to tune: any that a single run takes."""
    grid: Suppress[Literal["default", "papers"]] = "default"
    free: Annotated[tuple[float, ...], arg(name="free")] = ()
    """Free steps, for the -lawn forms and those with an h."""
    trial_epochs: Annotated[int | None, arg(name="trial-steps")] = None
    """Steps of a trial (default: all)."""
    at_once: int | None = option(None, least=1, below=2**16, changes_result=False)
    """Trials trained side by side by vmap (default: 1)."""


@dataclasses.dataclass(frozen=True)
class Settings(Config, options.ResolvedOptions):
    """Options of a run after defaults are filled in; see `resolve`."""

    # The preset's values are in the other options.
    preset: Preset = option("default", changes_result=False)
    shortened: str = option("", changes_result=False)
    optimizer: str = "adamh"
    dataset: str = "python"
    schedule: Literal["three-phase", "two-phase", "cosine", "constant"] = "two-phase"
    batch_size: int = 1
    width: int = 128
    depth: int = 4
    heads: int = 4
    block: int = 128
    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["rotary", "learned"] = "rotary"
    qk_norm: bool = True
    activation: Literal["relu2", "relu", "gelu"] = "relu2"
    tied: bool = False
    dropout: float = 0.0
    output_scale: float = 1.0
    init: Init = "fan-in"
    head: Literal["method", "adam", "adamh"] = "method"
    embeddings: Literal["method", "adam", "adamh"] = "method"
    vectors: Literal["method", "adam"] = "method"
    b2: float = 0.99
    clip_norm: float | None = None
    eval_bytes: int = 65_536


def grid(config: SweepConfig, name: str) -> Grid:
    """Hyperparameters that a sweep tries with an optimizer."""
    check_optimizer(name)
    rate, decay, free = TUNED[name]
    decays = (0.0, 0.1, 0.3) if name == "adamw" else (decay,)
    if name not in optimizers.HYPERBALL:  # They take none.
        decays = config.decays or decays
    tried = Grid(
        config.rates or tuple(rate * factor for factor in AROUND),
        decays,
        config.free or (free,),
    )
    return shortening.grid(config, tried, PRESETS[config.preset]["epochs"])


def check_optimizer(name: str) -> None:
    """Raises an `InputError` if there is no such optimizer."""
    known = ", ".join(TUNED)
    require(name in TUNED, f"no optimizer {name!r}; choose from: {known}")


def resolve(config: Config) -> Settings:
    """Fills in the preset and the tuned values, and checks all options.

    Raises:
        InputError: For options that no run can have.
    """
    settings = Settings(**_fill_in(config))
    try:
        options.check(settings)
    except InputError as error:  # What is an epoch elsewhere is a step here.
        raise InputError(str(error).replace("epochs", "steps")) from None
    _check_model(settings)
    require(
        settings.optimizer not in optimizers.HYPERBALL or settings.weight_decay == 0,
        f"{settings.optimizer} takes no --weight-decay, which would be radial",
    )
    require(
        not settings.project or settings.optimizer in optimizers.HYPERBALL,
        "--project needs sgdh, adamh or muonh; the -lawn forms always project",
    )
    return settings


def _fill_in(config: Config) -> dict[str, Any]:
    """All options by name."""
    preset = PRESETS[config.preset]
    given = config.optimizer
    name = preset["optimizer"] if given is None else given
    check_optimizer(name)
    values = preset.get(name, TUNED[name])
    names = ("learning_rate", "weight_decay", "free_epochs")
    defaults = preset | dict(zip(names, values, strict=True))
    if optimizers.is_lawn(name) and preset["schedule"] == "two-phase":
        defaults["schedule"] = "three-phase"
    if name in optimizers.HYPERBALL:
        defaults |= {"head": "adamh", "embeddings": "adam", "vectors": "adam"}
    elif name in optimizers.MUON or optimizers.is_lawn(name):
        defaults |= dict.fromkeys(("head", "embeddings", "vectors"), "adam")
    else:
        defaults |= dict.fromkeys(("head", "embeddings", "vectors"), "method")
    if config.tied or (config.tied is None and preset["tied"]):
        defaults["head"] = "method"  # There is none.
    if name not in ("adamh", "muonh"):
        defaults["adamh_rate"] = ADAMH_RATE
    dataset = "files" if config.data_dir else "python"
    published = config.preset in ("nanogpt", "nanolm")
    defaults["dataset"] = "tiny-shakespeare" if published else dataset
    if config.clip_norm == "preset":
        config = dataclasses.replace(config, clip_norm=preset["clip_norm"])
    known = {field.name for field in dataclasses.fields(config)} - {"clip_norm"}
    defaults = shortening.phases(config, defaults)
    filled = options.fill_in(config, {k: v for k, v in defaults.items() if k in known})
    line = shortening.in_words(config, filled, preset["epochs"])
    filled["shortened"] = line.replace("epochs", "steps")
    if filled["text_sha256"] is None:
        filled["text_sha256"] = data.sha256(filled["dataset"], config.data_dir)
    return filled


def _check_model(settings: Settings) -> None:
    width, heads = settings.attention_width or settings.width, settings.heads
    flag = "--attention-width" if settings.attention_width else "--width"
    require(width % heads == 0, f"{flag} {width} must be a multiple of --heads {heads}")
    require(
        settings.positions == "learned" or width // heads % 2 == 0,
        f"--positions rotary needs heads of an even width; {flag} {width} with"
        f" --heads {heads} has {width // heads}",
    )
    require(
        not settings.tied or settings.head == "method",
        "--tied has no head of its own for --head; choose --embeddings instead",
    )
