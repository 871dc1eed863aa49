"""Figures of runs, and helpers for all figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from train import png
from train.digits.grid import GridResult, describe_trial

if TYPE_CHECKING:  # Matplotlib takes a second to import, and few commands draw.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def training_curves(
    path: Path, results: Sequence[GridResult], steps_per_epoch: int
) -> None:
    """Draws margin, accuracy, loss and weight norm against epochs.

    As in Figure 1 of Gupta et al. 2021, arXiv:2108.05839. A line is the mean over the
    seeds of an optimizer's best trial, its band reaches from the lowest to the highest
    seed, and a vertical line marks the switch to constrained training.

    Args:
        path: Path of the PNG file to write.
        results: One per optimizer. It is not drawn if all of its trials diverged.
        steps_per_epoch: Updates per epoch.
    """
    from matplotlib.lines import Line2D

    figure = new_figure(10, 7.5)
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
        range_over_seeds(margin, result.epochs, values["median_margin"], **style)
        range_over_seeds(accuracy, result.epochs, values["test_accuracy"], **style)
        range_over_seeds(
            accuracy, result.epochs, values["train_accuracy"], ls="--", **style
        )
        lowest = min(lowest, values["test_accuracy"][-1].mean())
        range_over_seeds(loss, result.epochs, values["loss"], **style)
        range_over_seeds(norm, result.epochs, values["weight_norm"], **style)
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
    accuracy.set_ylim(max(0.0, lowest - 0.12), 1.005)  # Leaves out the start.
    loss.set(title="Training loss", yscale="log", ylabel="cross entropy")
    norm.set(title="Norm of all weights", ylabel="norm")
    for axes in (loss, norm):
        axes.set_xlabel("epoch")
    for axes in (margin, accuracy, loss, norm):
        axes.grid(alpha=0.3)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Best trial of each optimizer, mean and range over the seeds")
    png.save(path, figure)


def run_curves(
    path: Path,
    rows: Sequence[dict[str, Any]],
    switched_at: int,
    heading: str,
    *,
    score: str,
    title: str,
    tested: str,
    trained: str,
) -> None:
    """Draws score, margins, loss and weight norms of one run against epochs.

    Args:
        path: Path of the PNG file to write.
        rows: Rows of ``metrics.jsonl``.
        switched_at: The first constrained step, marked by a line; -1 for none.
        heading: Title of the figure.
        score: Name of the metric, which is from 0 to 1. With ``train_`` before it, it
            is the name of the metric on training data.
        title: Title of the panel of the score.
        tested: Words for the data of the score and of its margins.
        trained: Words for the training data of the score.
    """
    figure = new_figure(13, 7.5)
    figure.suptitle(heading)
    hit, margin, loss, norm = figure.subplots(2, 2, sharex=True).flat
    epochs = [row["epoch"] for row in rows]

    def draw(
        axes: Axes, key: str, label: str, scale: float = 1.0, **style: Any
    ) -> None:
        # The file has null for numbers that were not finite.
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
        # A longer legend would be higher than the figure.
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
            # Beside the panel: within it, it might cover a line.
            place = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
            axes.legend(frameon=False, fontsize="small", **place)
    for axes in (loss, norm):
        axes.set_xlabel("epoch")
    for axes, keys in ((loss, ["loss"]), (norm, norms)):
        # A run that diverged at once has no number that a logarithmic axis can show.
        if any(row[key] for row in rows for key in keys):
            axes.set_yscale("log")
    png.save(path, figure)


def band(
    axes: Axes,
    x: ArrayLike,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    alpha: float = 0.15,
    **style: Any,
) -> None:
    """Draws a line, and a band from `low` to `high` in its colour.

    Args:
        axes: The panel.
        x: Positions, ``[n]``.
        middle: Heights of the line, ``[n]``.
        low: Lower edge of the band, ``[n]``.
        high: Upper edge of the band, ``[n]``.
        alpha: Opacity of the band.
        **style: Options of ``axes.plot``, among them ``color``.
    """
    axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=alpha, lw=0)


def range_over_seeds(
    axes: Axes, x: ArrayLike, values: np.ndarray, **style: Any
) -> None:
    """Draws means over the last axis, and a band from the lowest to the highest."""
    band(axes, x, values.mean(-1), values.min(-1), values.max(-1), **style)


def label_values(axes: Axes, values: Iterable[float]) -> None:
    """Gives the horizontal axis a tick at each of some values, and no others."""
    ticks = sorted(set(values))
    names = [f"{x:,}" if isinstance(x, int) else f"{x:g}" for x in ticks]
    axes.set_xticks(ticks, names)
    axes.minorticks_off()


def leave_out_failures(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    gap: float,
    shown: Iterable[float] = (),
) -> str:
    """Sets the lower limit so that points far below the others do not flatten them.

    Args:
        axes: Panel with the points.
        points: Places and values.
        gap: How far below the best value at its place a point has to lie.
        shown: Further values, which are shown in any case.

    Returns:
        How many points are left out, in words; nothing if all are shown.
    """
    best = {x: max(y for place, y in points if place == x) for x, _ in points}
    near = [y for x, y in points if y >= best[x] - gap]
    if len(near) == len(points):
        return ""
    axes.set_ylim(bottom=min([*near, *shown]) - 1)
    return f"; left out: {len(points) - len(near)} far lower"


def finish(figure: Figure, path: Path, labelled: Axes | None = None, columns: int = 3):
    """Adds grids and one legend below all panels, and writes the figure.

    Args:
        figure: The figure.
        path: Path of the PNG file to write.
        labelled: The panel whose labels the legend shows; None for no legend.
        columns: Number of columns of the legend.
    """
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    if labelled is not None:
        handles = labelled.get_legend_handles_labels()[0]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False
        )
    png.save(path, figure)
