"""What a report needs to know about each experiment."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from train.report import papers
from train.statistics import RESAMPLES

RANDOM_HR = 0.10  # Of a random order of 100 candidates.

# Of every experiment; a run has more.
_OPTIONS = {
    "dataset": str,
    "optimizer": str,
    "batch_size": int,
    "epochs": int,
    "learning_rate": int | float,
    "weight_decay": int | float,
    "free_epochs": int | float,
    "seed": int,
    "validation": bool,
}


class Reported(NamedTuple):
    """What a report says of an experiment.

    Attributes:
        experiment: Its name.
        title: Of the report.
        notes: What its numbers are.
        metric: The one that counts, 0 to 1, as a row of metrics names it.
        score: Its name in a table.
        others: Further metrics, and their names in a table, in percent.
        cases: What it is a mean over, in the plural.
        document: The file with the value of each case.
        values: ``document -> (values, draws)``: a list of numbers, and over how many
            draws each is a mean.
        draws: The header for seeds and draws.
        chance: The metric of a model that learnt nothing, where a run that is no
            better is called a failure.
        options: Those that a run must have, with their types.
        metrics: Those that each row of metrics must have.
        described: Options that the caption names first.
        alike: Options that runs must share to be compared.
        items: What is measured: (of a run that holds out, of any other).
        protocols: The same in words.
        published: The papers' number for a run.
        sizes: The papers' batch sizes by data set.
        figures: Names of the figures over batch sizes by data set, and over free
            epochs.
    """

    experiment: str
    title: str
    notes: str
    metric: str
    score: str
    others: Mapping[str, str]
    cases: str
    document: str
    values: Callable[[Mapping[str, Any]], tuple[Any, Any]]
    draws: str
    chance: float | None
    options: Mapping[str, Any]
    metrics: frozenset[str]
    described: tuple[str, ...]
    alike: tuple[str, ...]
    items: tuple[str, str]
    protocols: tuple[str, str]
    published: Callable[[Mapping[str, Any]], papers.Published | None]
    sizes: Mapping[str, tuple[int, ...]]
    figures: tuple[Mapping[str, str], str]


def _correct(document: Mapping[str, Any]) -> tuple[Any, Any]:
    correct = np.ones(document["images"])
    correct[document["wrong"]] = 0
    return correct.tolist(), 1


_COMPARED = (
    '"Best evaluation" is the highest {score} of a run\'s evaluations, chosen on the'
    " very {item} that it is measured on. 95% over {cases}: percentile bootstrap of the"
    f" {{cases}} ({RESAMPLES:,} resamples), of their means over {{means}}. Papers:"
    ' "arXiv" is Gupta et al. 2021, arXiv:2108.05839, "sub." the ICLR submission of'
    " LAWN; ± is the printed standard error of three runs times sqrt(3), a standard"
    " deviation as ours."
)

RECSYS = Reported(
    experiment="recsys",
    title="Recommenders beside the papers' numbers",
    notes="HR@10 and NDCG@10 in percent at the last epoch: mean ± sample standard"
    " deviation over seeds, each seed the mean over its draws of candidates."
    ' "Chosen on" is the item by which a sweep chose the setting (the papers name none'
    " but the test item); runs outside of a sweep do not state it. "
    + _COMPARED.format(
        score="HR@10", item="item", cases="users", means="seeds and draws"
    )
    + f' "Fail": the interval over users reaches down to within a point of the'
    f" {RANDOM_HR:.0%} of a random order.",
    metric="hr",
    score="HR@10",
    others={"ndcg": "NDCG@10 %"},
    cases="users",
    document="hits.json",
    values=lambda document: (document["hr"], document["draws"]),
    draws="seeds x draws",
    chance=RANDOM_HR,
    options=_OPTIONS | {"tower": str, "init": str},
    metrics=frozenset(
        ("epoch", "step", "hr", "ndcg", "train_hr", "margin_p50", "test_margin_p50")
        + ("logit_scale",)
    ),
    described=("tower", "init", "epochs"),
    alike=(
        *("dataset", "batch_size", "epochs", "tower", "init", "loss", "gamma"),
        *("validation", "candidate_seed", "candidate_draws"),
    ),
    items=("validation item", "test item"),
    protocols=(
        "trained on everything but the validation and the test item, HR@10 on the"
        " validation item (not comparable with the papers)",
        "trained on everything but the test item, HR@10 on the test item",
    ),
    published=papers.published,
    sizes=papers.BATCH_SIZES,
    figures=({}, "7(b)"),
)

IMAGE = Reported(
    experiment="image",
    title="Images beside the papers' numbers",
    notes="Accuracy and expected calibration error (ECE, 15 bins) in percent at the"
    " last epoch: mean ± sample standard deviation over seeds."
    ' "Chosen on" are the images by which a sweep chose the setting; runs outside of a'
    " sweep do not state it. "
    + _COMPARED.format(score="accuracy", item="images", cases="images", means="seeds")
    + " The papers' networks are VGG-19 on CIFAR and ResNet-50 on ImageNet;"
    " others stand here without a number of theirs."
    " Their ECE (sub. Table 6, batch size not stated): "
    + "; ".join(
        f"{dataset} Adam {100 * base:.1f}, Adam-LAWN {100 * constrained:.1f}"
        for dataset, (base, constrained) in papers.CALIBRATION.items()
    )
    + ".",
    metric="accuracy",
    score="accuracy",
    others={"ece": "ECE %", "train_accuracy": "training accuracy %"},
    cases="images",
    document="errors.json",
    values=_correct,
    draws="seeds",
    chance=None,
    options=_OPTIONS | {"model": str, "dtype": str},
    metrics=frozenset(("epoch", "step", "accuracy", "ece", "train_accuracy")),
    described=("model", "dtype", "epochs"),
    alike=(
        *("dataset", "batch_size", "epochs", "model", "dtype", "loss", "gamma"),
        *("validation", "augment"),
    ),
    items=("held-out training images", "test images"),
    protocols=(
        "trained on all but the held-out training images, tested on these (not"
        " comparable with the papers)",
        "trained on all training images, tested on the test images",
    ),
    published=papers.published_accuracy,
    sizes=papers.IMAGE_BATCH_SIZES,
    figures=({"cifar10": "3(a)", "cifar100": "3(b)"}, "7(a)"),
)
ALL = {reported.experiment: reported for reported in (RECSYS, IMAGE)}
