"""How runs of image classifiers are reported."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from train.images.options import Config, resolve
from train.report import papers
from train.report.definition import (
    DIFFERENCE_NOTE,
    OPTIONS,
    PAPERS_NOTE,
    Protocol,
    Report,
)

_CALIBRATION = "; ".join(
    f"{dataset} Adam {100 * base:.1f}, Adam-LAWN {100 * constrained:.1f}"
    for dataset, (base, constrained) in papers.CALIBRATION.items()
)

NOTES = (
    "Accuracy and expected calibration error (ECE, 15 bins) are in percent, at the last"
    " epoch: mean ± sample standard deviation over seeds."
    ' "Chosen on" names the images by which a sweep chose the setting; a run outside a'
    ' sweep does not state it. "Best evaluation" is the highest accuracy among the'
    " evaluations of a run. It is picked by the same images that it is measured on, so"
    " it flatters the run. The interval over images is a percentile bootstrap (95%,"
    f" 10,000 resamples) of each image's mean over seeds. {PAPERS_NOTE} The papers'"
    " networks are VGG-19 on CIFAR and ResNet-50 on ImageNet; for other networks there"
    " is no number of theirs. Their ECE (sub. Table 6, batch size not stated):"
    f" {_CALIBRATION}.",
    f"{DIFFERENCE_NOTE} The interval over images is a paired bootstrap (95%).",
)


def values(document: Mapping[str, Any]) -> tuple[Any, Any]:
    """1 for each image that was classified correctly, 0 for the others; one draw."""
    correct = np.ones(document["images"])
    correct[document["wrong"]] = 0
    return correct.tolist(), 1


def pack(document: Mapping[str, Any]) -> dict[str, Any]:
    """One bit for each image.

    Args:
        document: Content of ``errors.json``: the number of ``images``, and in
            increasing order the numbers of those that were classified ``wrong``.

    Returns:
        The number of ``images``, and bits in base64 that are 1 where it was ``wrong``.
    """
    wrong = np.zeros(document["images"], bool)
    wrong[document["wrong"]] = True
    bits = base64.b64encode(np.packbits(wrong).tobytes()).decode()
    return {"images": document["images"], "wrong": bits}


def unpack(row: Mapping[str, Any]) -> dict[str, Any]:
    """The document that `pack` was given."""
    bits = np.frombuffer(base64.b64decode(row["wrong"], validate=True), np.uint8)
    wrong = np.flatnonzero(np.unpackbits(bits, count=row["images"]))
    return {"images": row["images"], "wrong": wrong.tolist()}


REPORT = Report(
    experiment="image",
    Options=Config,
    resolve=resolve,
    title="Images beside the papers' numbers",
    notes=NOTES,
    metric="accuracy",
    score="accuracy",
    others={"ece": "ECE %", "train_accuracy": "training accuracy %"},
    cases="images",
    document="errors.json",
    values=values,
    pack=pack,
    unpack=unpack,
    draws="seeds",
    chance=None,
    options=OPTIONS | {"model": str, "dtype": str},
    metrics=frozenset({"epoch", "step", "accuracy", "ece", "train_accuracy"}),
    curve=("loss", "accuracy", "train_accuracy"),
    described=("model", "dtype", "epochs"),
    alike=(
        "dataset",
        "batch_size",
        "epochs",
        "model",
        "dtype",
        "loss",
        "gamma",
        "validation",
        "augment",
        "images",
    ),
    validation=Protocol(
        "held-out training images",
        "trained on all but the held-out training images, tested on these (not"
        " comparable with the papers)",
    ),
    test=Protocol(
        "test images", "trained on all training images, tested on the test images"
    ),
    published=papers.published_accuracy,
    sizes=papers.IMAGE_BATCH_SIZES,
    has_attenuation=False,
    batch_figures={"cifar10": "3(a)", "cifar100": "3(b)", "imagenet": "2(d)"},
    free_figure="7(a)",
    later={"switch_plateau": 0.01},
)
