"""How runs of language models are reported."""

from collections.abc import Mapping
from typing import Any

from train.language.options import Config, resolve
from train.language.presets import PRESETS
from train.report.definition import DIFFERENCE_NOTE, OPTIONS, Protocol, Report
from train.report.papers import Published

NOTES = (
    "Losses are in nats per byte of held-out text, at the last step: mean ± sample"
    ' standard deviation over seeds. "Best evaluation" is the lowest loss among the'
    " evaluations of a run. It is picked by the same text that it is measured on, so it"
    " flatters the run. The interval over pieces is a percentile bootstrap (95%, 10,000"
    " resamples) of each piece's mean over seeds; a piece is a stretch of the held-out"
    " text. \"Published\" is the loss that nanoGPT's README and Optax's example nanolm"
    " print for their settings.",
    DIFFERENCE_NOTE.replace("epoch", "step")
    + ' "LAWN" stands there for adamh, muonh and sgdh too.',
)
# What was published for the settings of two presets.
_PUBLISHED = {
    "nanogpt": Published(1.88, None, "README of nanoGPT, for CPUs"),
    "nanolm": Published(1.4253, None, "Optax's example nanolm at 5e-3"),
}


def published(options: Mapping[str, Any]) -> Published | None:
    """The published loss for a run with one of these settings, or None."""
    for name, loss in _PUBLISHED.items():
        setting = {**PRESETS[name], "dataset": "tiny-shakespeare", "validation": False}
        setting["learning_rate"], setting["weight_decay"], _ = setting.pop("adamw")
        if setting.items() <= options.items():
            return loss
    return None


def same(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document itself: its losses have few digits already."""
    return dict(document)


REPORT = Report(
    experiment="language",
    Options=Config,
    resolve=resolve,
    title="Language models",
    notes=NOTES,
    metric="test_loss",
    score="held-out loss",
    lowest=True,
    unit="step",
    others={"bits_per_byte": "bits per byte", "accuracy": "accuracy %"},
    cases="pieces",
    document="losses.json",
    values=lambda document: (document["loss"], 1),
    pack=same,
    unpack=same,
    draws="seeds",
    chance=None,
    options=OPTIONS | {"width": int, "depth": int, "dtype": str},
    metrics=frozenset({"epoch", "step", "test_loss", "bits_per_byte", "accuracy"}),
    curve=("loss", "test_loss", "accuracy"),
    described=("width", "depth", "block", "dtype", "epochs"),
    alike=(
        "dataset",
        "batch_size",
        "epochs",
        *("width", "depth", "heads", "block", "norm", "positions", "qk_norm"),
        *("activation", "attention_width", "tied", "dropout", "init", "output_scale"),
        *("dtype", "validation", "eval_bytes", "text_sha256"),
    ),
    validation=Protocol(
        "validation text",
        "trained on all but the validation and the held-out text, loss on the former",
    ),
    test=Protocol(
        "held-out text",
        "trained on all but the held-out text, loss on the held-out text",
    ),
    published=published,
    sizes={},
    has_attenuation=False,
    batch_figures={},
    free_figure="",
    later={"output_scale": 1.0, "project": False},
)
