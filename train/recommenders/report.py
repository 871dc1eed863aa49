"""How runs of recommenders are reported."""

from collections.abc import Mapping
from typing import Any

from train.recommenders.options import Config, resolve
from train.report import papers
from train.report.definition import (
    DIFFERENCE_NOTE,
    OPTIONS,
    PAPERS_NOTE,
    Protocol,
    Report,
)

RANDOM_HR = 0.10  # HR@10 of a random order of 100 candidates.
# One character for each level that a user's hit ratio can have.
_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

NOTES = (
    "HR@10 and NDCG@10 are in percent, at the last epoch: mean ± sample standard"
    " deviation over seeds, where the number of each seed is the mean over its draws of"
    ' candidates. "Chosen on" names the item by which a sweep chose the setting; a run'
    " outside a sweep does not state it. The papers name no item but the test item."
    ' "Best evaluation" is the highest HR@10 among the evaluations of a run. It is'
    " picked by the same item that it is measured on, so it flatters the run. The"
    " interval over users is a percentile bootstrap (95%, 10,000 resamples) of each"
    f" user's mean over seeds and draws. {PAPERS_NOTE}"
    ' "Fail" marks a setting whose interval over users reaches down to within one point'
    f" of the {RANDOM_HR:.0%} that a random order gets.",
    f"{DIFFERENCE_NOTE} The interval over users is a paired bootstrap (95%).",
)


def pack(document: Mapping[str, Any]) -> dict[str, Any]:
    """The hit ratio of each user as one character.

    Args:
        document: Content of ``hits.json``.

    Returns:
        The ``draws``, the ``levels`` that occur, in order, and for each user the
        number of its level, as a digit or, from 10 on, a letter. If there are more
        levels than characters, the document itself.
    """
    levels = sorted(set(document["hr"]))
    if len(levels) > len(_LEVELS):
        return dict(document)
    characters = dict(zip(levels, _LEVELS, strict=False))
    users = "".join(characters[value] for value in document["hr"])
    return {"draws": document["draws"], "levels": levels, "users": users}


def unpack(row: Mapping[str, Any]) -> dict[str, Any]:
    """The document that `pack` was given."""
    if "levels" not in row:
        return dict(row)
    values = [row["levels"][_LEVELS.index(character)] for character in row["users"]]
    return {"draws": row["draws"], "hr": values}


REPORT = Report(
    experiment="recsys",
    Options=Config,
    resolve=resolve,
    title="Recommenders beside the papers' numbers",
    notes=NOTES,
    metric="hr",
    score="HR@10",
    others={"ndcg": "NDCG@10 %"},
    cases="users",
    document="hits.json",
    values=lambda document: (document["hr"], document["draws"]),
    pack=pack,
    unpack=unpack,
    draws="seeds x draws",
    chance=RANDOM_HR,
    options=OPTIONS | {"tower": str, "init": str},
    metrics=frozenset(
        {
            "epoch",
            "step",
            "hr",
            "ndcg",
            "train_hr",
            "margin_p50",
            "test_margin_p50",
        }
    ),
    curve=("hr", "train_hr", "margin_p50", "test_margin_p50"),
    described=("tower", "init", "epochs"),
    alike=(
        "dataset",
        "inactive_users",
        "batch_size",
        "epochs",
        "tower",
        "init",
        "loss",
        "gamma",
        "validation",
        "candidate_seed",
        "candidate_draws",
    ),
    validation=Protocol(
        "validation item",
        "trained on everything but the validation and the test item, HR@10 on the"
        " validation item (not comparable with the papers)",
    ),
    test=Protocol(
        "test item",
        "trained on everything but the test item, HR@10 on the test item",
    ),
    published=papers.published,
    sizes=papers.BATCH_SIZES,
    has_attenuation=True,
    batch_figures={},
    free_figure="7(b)",
    later={"constrain": "all", "inactive_users": "keep"},
)
