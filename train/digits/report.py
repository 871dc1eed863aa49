"""A finished grid on handwritten digits, reported again from its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train import plots
from train.digits.experiment import TRAIN
from train.digits.grid import MEMBER, read_results
from train.digits.tables import differences, result_table, trial_table

FILES = ("metrics.jsonl", "summary.json", "table.md")
# Metrics that the figure shows of each optimizer's best trial.
_CURVES = ("loss", "median_margin", "test_accuracy", "train_accuracy", "weight_norm")


def check(files: Mapping[str, Any]) -> None:
    """Raises an error of some kind unless files are as the experiment writes them.

    Args:
        files: Content of `FILES`, by name.
    """
    rows = files["metrics.jsonl"]
    grids = read_results(rows, files["summary.json"])
    if not grids or any(type(row["epoch"]) is not int for row in rows):
        raise ValueError("no optimizer, or no epoch of a row")
    for grid in grids:
        last = sorted(
            (row["trial"], row["seed"])
            for row in rows
            if (row["optimizer"], row["epoch"]) == (grid.name, grid.epochs[-1])
        )
        if not last or last != sorted(np.ndindex(grid.diverged_step.shape)):
            raise ValueError(f"not one last row for each trial and seed of {grid.name}")
    text(files)
    pack(files)


def text(files: Mapping[str, Any]) -> str:
    """The text that the experiment printed, with tables made anew from the rows.

    Args:
        files: Content of `FILES`, by name.
    """
    grids = read_results(files["metrics.jsonl"], files["summary.json"])
    introduction, notes = _words(files["table.md"])
    parts = [introduction, result_table(grids), notes, differences(grids)]
    return "\n\n".join(filter(None, [*parts, "All trials:", trial_table(grids)]))


def _words(table: str) -> tuple[str, str]:
    """The paragraphs before and after the table of results."""
    paragraphs = table.split("\n\n")
    return paragraphs[0], paragraphs[2]


def draw(path: Path, files: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Draws the best trial of each optimizer against the epochs.

    Args:
        path: Path of the PNG file to write.
        files: Content of `FILES`, by name.
        options: Options of the experiment, by name.
    """
    grids = read_results(files["metrics.jsonl"], files["summary.json"])
    plots.training_curves(path, grids, TRAIN // options["batch_size"])


def pack(files: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of `FILES` in less space: a row, and a row of curves.

    The last metrics of every trial and seed are kept, and the earlier metrics of the
    best trials that the figure shows.
    """
    grids, curves = [], {}
    for grid in read_results(files["metrics.jsonl"], files["summary.json"]):
        best = grid.best()
        summary = files["summary.json"][grid.name]
        grids.append(
            {
                "optimizer": grid.name,
                "seconds": summary["seconds"],
                "compile_seconds": summary["compile_seconds"],
                "trials": grid.trials,
                "diverged_step": grid.diverged_step.tolist(),
                "epoch": grid.epochs[-1],
                "last": {k: _nested(v[-1]) for k, v in grid.history.items()},
            }
        )
        rows = [
            row
            for row in files["metrics.jsonl"]
            if (row["optimizer"], row["trial"]) == (grid.name, best)
        ]
        rows.sort(key=lambda row: (row["seed"], row["epoch"]))
        columns = ("seed", "epoch", *_CURVES)
        curves[grid.name] = {key: [row[key] for row in rows] for key in columns}
        curves[grid.name]["trial"] = best
    introduction, notes = _words(files["table.md"])
    return {"introduction": introduction, "notes": notes, "grids": grids}, curves


def _nested(values: np.ndarray) -> list[list[float | None]]:
    return [[v if np.isfinite(v) else None for v in row] for row in values.tolist()]


def unpack(row: Mapping[str, Any], curves: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `FILES`, as far as `pack` kept it."""
    summary, metrics = {}, []
    for grid in row["grids"]:
        name, last, curve = grid["optimizer"], grid["last"], curves[grid["optimizer"]]
        trials = zip(grid["trials"], grid["diverged_step"], strict=True)
        summary[name] = {
            "seconds": grid["seconds"],
            "compile_seconds": grid["compile_seconds"],
            "trials": [trial | {"diverged_step": steps} for trial, steps in trials],
        }
        columns = zip(*(curve[key] for key in ("seed", "epoch", *_CURVES)), strict=True)
        for seed, epoch, *values in columns:
            if epoch < grid["epoch"]:
                member = (name, curve["trial"], seed, epoch)
                shown = dict(zip(_CURVES, values, strict=True))
                metrics.append(dict(zip(MEMBER, member, strict=True)) | shown)
        for trial, seed in np.ndindex(np.shape(grid["diverged_step"])):
            member = (name, trial, seed, grid["epoch"])
            shown = {key: values[trial][seed] for key, values in last.items()}
            metrics.append(dict(zip(MEMBER, member, strict=True)) | shown)
    table = f"{row['introduction']}\n\n\n\n{row['notes']}"
    return {"summary.json": summary, "metrics.jsonl": metrics, "table.md": table}
