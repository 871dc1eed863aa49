"""The curves of a run of a language model."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from train.plots import finish


def draw(
    path: Path, rows: list[dict[str, Any]], switched_at: int, heading: str
) -> None:
    """Draws losses, accuracy, margins and weight norms against steps.

    Args:
        path: Path of the PNG file to write.
        rows: Rows of ``metrics.jsonl``.
        switched_at: The first constrained step, marked by a line; -1 for none.
        heading: Title of the figure.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    figure.suptitle(heading.replace("epochs", "steps"))
    loss, accuracy, margin, norm = panels = list(figure.subplots(2, 2).flat)
    steps = [row["step"] for row in rows]

    def line(axes, key, label, scale=1.0, **style):
        # The file has null for numbers that were not finite.
        values = [math.nan if row[key] is None else scale * row[key] for row in rows]
        axes.plot(steps, values, label=label, **style)

    line(loss, "loss", "training, mean since the last evaluation", ls="--")
    line(loss, "test_loss", "held-out text")
    line(accuracy, "accuracy", "held-out text", 100)
    for quantile in ("p10", "p50", "p90"):
        line(margin, f"margin_{quantile}", f"held-out text, {quantile}")
    norms = [key for key in rows[0] if key.startswith("norm/")]
    for key in norms:
        # A longer legend would hide the lines.
        label = key.removeprefix("norm/") if len(norms) <= 12 else "_"
        line(norm, key, label, lw=1)
    loss.set(title="Loss", ylabel="nats per byte")
    accuracy.set(title="Next byte is right", ylabel="%")
    margin.set(title="Margins", ylabel="margin", xlabel="step")
    norm.set(title="Weight norms", ylabel="norm", xlabel="step")
    if any(row[key] for row in rows for key in norms):
        norm.set_yscale("log")
    for axes in panels:
        if switched_at >= 0:
            label = "constrained from here"
            axes.axvline(switched_at, ls=":", color="grey", label=label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    finish(figure, path)
