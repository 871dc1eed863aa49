"""Twelve panels after Figure 2 of "How normalization and weight decay can affect SGD?"
(Noisy Rayleigh Quotient, ICLR submission).

The paper does not give the dimension, spectrum, noise, rate and decay. We chose them,
so only the shape of the curves can be compared. The rows show three angular updates in
equilibrium, by SGD and by the stochastic differential equation that the paper takes for
it; a decay of the learning rate with and without rescaling; and one problem from two
starts, and from the second start with the rate and decay that make it equivalent to the
first.
"""

from functools import partial
from pathlib import Path
from typing import Any

from train.plots import COLOURS, band, finish, new_figure
from train.report import markdown
from train.runs.progress import ProgressReport
from train.runs.results import Findings
from train.studies import rayleigh_cifar
from train.studies.rayleigh_trials import (
    Choices,
    Line,
    compute,
    quadratic_limits,
    units,
)


def table(rows: list[list[Line]]) -> str:
    """A table of the limits of each line beside their predictions."""
    cells = []
    for letter, row in zip("abc", rows, strict=True):
        for line in row:
            end = slice(-max(line.risk.size // 10, 1), None)
            risk, error = line.risk[end].mean(), line.risk_error[end].mean()
            equation = (
                "" if line.equation is None else f"{line.equation[end].mean():.4f}"
            )
            cells.append(
                [
                    letter,
                    line.label,
                    f"{risk:.4f} ± {error:.4f}",
                    equation,
                    f"{line.predicted_risk:.4f}",
                    f"{line.risk.min():.4f}",
                    f"{line.angle[end].mean():.5f}",
                    f"{line.predicted_angle[-1]:.5f}",
                ]
            )
    header = ["row", "line", "risk at the end", "equation", "predicted", "lowest risk"]
    return markdown.table([*header, "angle, rad", "predicted"], cells)


def _limits(choices: Choices, lines: list[Line]) -> str:
    losses = [line.loss[-max(line.loss.size // 10, 1) :].mean() for line in lines]
    cells = [
        [f"{decay:g}", f"{loss:.4f}", f"{limit:.4f}"]
        for decay, loss, limit in zip(
            choices.decays, losses, quadratic_limits(choices), strict=True
        )
    ]
    return markdown.table(["decay", "Rayleigh quotient", "quadratic model"], cells)


def draw(path: Path, rows: list[list[Line]], choices: Choices) -> None:
    """Draws the twelve panels.

    Args:
        path: Path of the PNG file to write.
        rows: Lines from `compute`.
        choices: Parameters that `compute` was given, for the title.
    """
    figure = new_figure(16, 10.5)
    panels = figure.subplots(3, 4)
    titles = (
        "In equilibrium",
        f"Rate divided by {choices.factor:g}",
        "Other starts, rates and decays",
    )
    letters = iter("abcdefghijkl")
    for axes_row, lines, title in zip(panels, rows, titles, strict=True):
        loss, risk, angle, norm = axes_row
        for k, (line, colour) in enumerate(zip(lines, COLOURS, strict=False)):
            # Earlier lines are wider, so that they show where later ones cover them.
            style: dict[str, Any] = {"color": colour, "lw": 2.6 - 0.8 * k}
            loss.plot(line.steps, line.loss, label=line.label, **style)
            low, high = line.risk - line.risk_error, line.risk + line.risk_error
            band(risk, line.steps, line.risk, low, high, **style)
            risk.axhline(line.predicted_risk, color=colour, ls=":", lw=1)
            if line.equation is not None:
                risk.plot(line.steps, line.equation, color=colour, ls="--", lw=1)
            angle.plot(line.steps, line.angle, **style)
            angle.plot(line.steps, line.predicted_angle, color="black", ls=":", lw=1)
            norm.plot(line.steps, line.norm, **style)
            norm.plot(line.steps, line.predicted_norm, color="black", ls=":", lw=1)
        loss.legend(frameon=False, fontsize="small")
        for axes, name in zip(
            axes_row,
            ("loss", "risk 1 - E[f]", "angular update (radians)", "norm of x"),
            strict=True,
        ):
            axes.set(yscale="log", ylabel=name)
            axes.set_title(f"({next(letters)}) {title}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("updates")
    figure.suptitle(
        'Noisy Rayleigh quotient, in the shape of Figure 2 of "How normalization and'
        f' weight decay can affect SGD?"\n{choices.describe()}\nlines: means over the'
        " trials (root mean square of angles), bands: standard error, dotted:"
        " predictions (of the risk its limit), dashed in (b): the differential"
        " equation",
        fontsize=10,
    )
    finish(figure, path)


def report(data_dir: Path | None = None, full: bool = False) -> Findings:
    """The findings, and what draws the figure.

    With a folder of CIFAR-10 they are those of `train.studies.rayleigh_cifar`.
    """
    if data_dir is not None:
        return rayleigh_cifar.report(data_dir, full)
    choices = Choices()
    equilibria, escape, starts = (units(choices, row) for row in range(3))
    total = len(choices.decays) * equilibria + 2 * escape + 3 * starts
    with ProgressReport(total) as progress:
        rows = compute(choices, progress=progress)
    text = (
        f"Noisy Rayleigh quotient: {choices.describe()}.\n"
        "Claims: a smaller angular update ends at a lower risk, later (a); after a"
        " decay of the rate the risk falls below its limit and comes back, unless the"
        " weights are rescaled (b); the start matters only through rate and decay"
        " (c). Equation: the risk by the stochastic differential equation (eq. 9),"
        f" {choices.parts} steps per update.\n\n"
        f"{table(rows)}\n\n"
        "The limit of the loss beside that of the noisy quadratic model (eqs. 7 and 8)"
        " with the same rate and noise: only the Rayleigh quotient's falls with the"
        f" decay.\n\n{_limits(choices, rows[0])}"
    )
    return text, {"rayleigh.png": partial(draw, rows=rows, choices=choices)}
