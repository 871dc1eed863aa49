"""Made-up folders of finished runs, with known numbers."""

import json

import numpy as np

from train.report import command as report
from train.report import read

USERS = 400
OPTIONS = {
    "experiment": "recsys",
    "dataset": "ml-100k",
    "optimizer": "adam-lawn",
    "batch_size": 100_000,
    "epochs": 300,
    "schedule": "three-phase",
    "learning_rate": 0.002,
    "warmup_epochs": 30.0,
    "free_epochs": 20.0,
    "weight_decay": 0.0,
    "reset": "restart",
    "switch": "epochs",
    "switch_threshold": 3.0,
    "alpha": 1.0,
    "tower": "3-layer",
    "init": "small",
    "loss": "bce",
    "gamma": 2.0,
    "label_smoothing": 0.0,
    "flood": None,
    "clip_norm": None,
    "seed": 0,
    "validation": False,
    "candidate_draws": 5,
    "candidate_seed": 0,
    "eval_every": 100,
}
ENVIRONMENT = {"versions": {"jax": "1.0"}, "device": {"platform": "cpu", "kind": "cpu"}}
# Options of a base optimizer, to compare with.
BASE = {"optimizer": "adamw", "weight_decay": 0.01, "free_epochs": 0.0}


def level(hits, users=USERS):
    """Hits of users of whom the first `hits` are hit in every draw."""
    return [1.0] * hits + [0.0] * (users - hits)


def write_run(folder, hits, outcome="finished", switched_at=-1, **options):
    """A run folder, evaluated at epochs 100, 200 and 300, five steps each."""
    folder.mkdir(parents=True)
    hr = float(np.mean(hits))
    scales = (1.0, options.get("alpha", 1.0), options.get("alpha", 1.0))
    rows = [
        {
            "epoch": epoch,
            "step": 5 * epoch,
            "loss": 0.5,
            "hr": value if outcome == "finished" else None,
            "ndcg": value / 2,
            "auc": 0.9,
            "train_hr": 0.95,
            "margin_p50": scale * epoch / 100,
            "test_margin_p50": scale * epoch / 200,
            "logit_scale": scale,
        }
        for epoch, value, scale in zip(
            (100, 200, 300), (0.2, hr + 0.01, hr), scales, strict=True
        )
    ]
    documents = {
        "config.json": {"config": OPTIONS | options, "device": {"kind": "cpu"}},
        "summary.json": {
            "outcome": outcome,
            "switched_at": switched_at,
            "last": rows[-1],
            "best": {"epoch": 200, "hr": rows[1]["hr"]},
            "samples_per_second": 1e6,
            "seconds": 60.0,
            "compile_seconds": 1.0,
        },
        "hits.json": {"draws": 5, "hr": hits},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


IMAGE_OPTIONS = {
    key: OPTIONS[key] for key in OPTIONS if not key.startswith("candidate")
} | {
    "experiment": "image",
    "dataset": "cifar10",
    "batch_size": 256,
    "epochs": 2,
    "model": "cnn",
    "dtype": "float32",
    "loss": "cross-entropy",
    "augment": True,
}
del IMAGE_OPTIONS["tower"], IMAGE_OPTIONS["init"]


def write_image_run(folder, right, outcome="finished", **options):
    """A run folder with this number of `USERS` test images right at its end."""
    folder.mkdir(parents=True)
    rows = [
        {
            "epoch": epoch,
            "step": 5 * epoch,
            "loss": 0.5,
            "accuracy": accuracy if outcome == "finished" else None,
            "ece": accuracy / 10,
            "train_accuracy": 0.9,
        }
        for epoch, accuracy in ((1, right / USERS + 0.01), (2, right / USERS))
    ]
    documents = {
        "config.json": {"config": IMAGE_OPTIONS | options, "device": {"kind": "cpu"}},
        "summary.json": {
            "outcome": outcome,
            "switched_at": -1,
            "best": {"epoch": 1, "accuracy": rows[0]["accuracy"]},
            "seconds": 30.0,
        },
        "errors.json": {"images": USERS, "wrong": list(range(USERS - right))},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def write_digits(folder):
    """A grid of one optimizer: two trials, two seeds, three evaluations."""
    folder.mkdir(parents=True)
    config = {"experiment": "digits", "epochs": 2, "batch_size": 449}
    (folder / "config.json").write_text(json.dumps({"config": config} | ENVIRONMENT))
    keys = ("loss", "validation_loss", "median_margin", "weight_norm", "ece")
    keys += ("norm_dense_0", "train_accuracy", "test_accuracy", "validation_accuracy")
    rows = [
        {"optimizer": "adam", "trial": trial, "seed": seed, "epoch": epoch}
        | {key: round(0.1 + 0.05 * (trial + epoch) + 0.01 * seed, 4) for key in keys}
        for trial in range(2)
        for seed in range(2)
        for epoch in range(3)
    ]
    rows[2]["ece"] = None  # A number that was not finite.
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    trials = [
        {"learning_rate": rate, "test_accuracy": [], "diverged_step": [-1, step]}
        for rate, step in ((0.1, 3), (0.2, -1))
    ]
    summary = {"adam": {"seconds": 2.0, "compile_seconds": 1.0, "trials": trials}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "table.md").write_text("What it is.\n\n| a table |\n\nNotes.\n\nMore.\n")
    return folder


def read_groups(*paths):
    """The groups of the runs of one experiment below some paths."""
    folders, _ = report.find(paths)
    runs = [
        read.read_run(report.REPORTS[folder.experiment], folder) for folder in folders
    ]
    return read.group_runs(runs)


def make_report(folder, *runs):
    """The text of the report on ``folder/runs``, or on some runs."""
    report.run(report.Config(runs or (folder / "runs",), folder / "report"))
    return (folder / "report" / "table.md").read_text()


def cells(text, *starts):
    """The cells of the one row of a table that starts with these cells."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    (row,) = [row for row in rows if row[: len(starts)] == list(starts)]
    return row
