"""Figures of a run."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from train.digits.grid import GridResult, describe_trial

# Okabe and Ito's colours, distinct to colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


def training_curves(
    path: Path, results: Sequence[GridResult], steps_per_epoch: int
) -> None:
    """Draws margin, accuracy, loss and weight norm against epochs.

    After Figure 1 of Gupta et al. 2021, arXiv:2108.05839: lines are means over the
    seeds of each optimizer's best trial, bands reach from the lowest to the highest
    seed, and a vertical line marks the switch to constrained training.

    Args:
        path: Of the PNG file to write.
        results: One per optimizer; those without a trial left are not drawn.
        steps_per_epoch: Updates per epoch.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    margin, accuracy, loss, norm = figure.subplots(2, 2, sharex=True).flat
    handles, lowest = [], 1.0
    colours = dict(
        zip([r.name for r in results], itertools.cycle(COLOURS), strict=False)
    )
    for result in results:
        best = result.best()
        if best is None:
            continue
        values = {key: v[:, best] for key, v in result.history.items()}
        style: dict[str, Any] = {"color": colours[result.name]}
        _line(margin, result.epochs, values["median_margin"], **style)
        _line(accuracy, result.epochs, values["test_accuracy"], **style)
        _line(accuracy, result.epochs, values["train_accuracy"], ls="--", **style)
        lowest = min(lowest, values["test_accuracy"][-1].mean())
        _line(loss, result.epochs, values["loss"], **style)
        _line(norm, result.epochs, values["weight_norm"], **style)
        trial = result.trials[best]
        label = f"{result.name} ({describe_trial(trial)})"
        handles.append(Line2D([], [], label=label, **style))
        if "switch_step" in trial:
            epoch = trial["switch_step"] / steps_per_epoch
            for axes in (margin, accuracy, loss, norm):
                axes.axvline(epoch, ls=":", **style)
            label = f"{result.name}: switch at epoch {epoch:g}"
            handles.append(Line2D([], [], ls=":", label=label, **style))
    margin.set(title="Median training margin", ylabel="margin")
    accuracy.set(title="Accuracy: test (solid), training (dashed)")
    accuracy.set_ylim(max(0.0, lowest - 0.12), 1.005)  # The start would hide the rest.
    loss.set(title="Training loss", yscale="log", ylabel="cross entropy")
    norm.set(title="Norm of all weights", ylabel="norm")
    for axes in (loss, norm):
        axes.set_xlabel("epoch")
    for axes in (margin, accuracy, loss, norm):
        axes.grid(alpha=0.3)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def run_curves(
    path: Path,
    rows: Sequence[dict[str, Any]],
    switched_at: int,
    *,
    score: str,
    title: str,
    tested: str,
    trained: str,
) -> None:
    """Draws score, margins, loss and weight norms of one run against epochs.

    Args:
        path: Of the PNG file to write.
        rows: What ``metrics.jsonl`` holds.
        switched_at: The first constrained step, marked by a line; -1 for none.
        score: Name of the metric, 0 to 1; ``train_`` before it gives the one on
            training data.
        title: Of the score's panel.
        tested: What the score and its margins are measured on, in words.
        trained: The same for the one on training data.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    hit, margin, loss, norm = figure.subplots(2, 2, sharex=True).flat
    epochs = [row["epoch"] for row in rows]

    def draw(
        axes: Axes, key: str, label: str, scale: float = 1.0, **style: Any
    ) -> None:
        # Numbers that were not finite are null in the file.
        values = [math.nan if row[key] is None else scale * row[key] for row in rows]
        axes.plot(epochs, values, label=label, **style)

    draw(hit, score, tested, 100)
    draw(hit, f"train_{score}", trained, 100, ls="--")
    for quantile in ("p10", "p50", "p90"):
        draw(margin, f"margin_{quantile}", f"training, {quantile}")
    draw(margin, "test_margin_p50", f"{tested}, p50", ls="--")
    draw(loss, "loss", "training")
    norms = [key for key in rows[0] if key.startswith("norm/")]
    for key in norms:
        # Names of more groups than this would hide the lines.
        label = key.removeprefix("norm/") if len(norms) <= 12 else "_"
        draw(norm, key, label, lw=1)
    hit.set(title=title, ylabel="%")
    margin.set(title="Margins", ylabel="margin")
    loss.set(title="Loss", ylabel="mean over the epochs")
    norm.set(title="Weight norms", ylabel="norm")
    switch_epoch = switched_at * rows[0]["epoch"] / rows[0]["step"]
    for axes in (hit, margin, loss, norm):
        if switched_at >= 0:
            label = "constrained from here"
            axes.axvline(switch_epoch, ls=":", color="grey", label=label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    for axes in (loss, norm):
        axes.set_xlabel("epoch")
    for axes, keys in ((loss, ["loss"]), (norm, norms)):
        # A run that diverged at once has nothing that a logarithm could show.
        if any(row[key] for row in rows for key in keys):
            axes.set_yscale("log")
    figure.savefig(path, dpi=100)


def _line(axes: Axes, epochs: Sequence[int], values: np.ndarray, **style: Any) -> None:
    axes.plot(epochs, values.mean(axis=-1), **style)
    low, high = values.min(axis=-1), values.max(axis=-1)
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, lw=0)
