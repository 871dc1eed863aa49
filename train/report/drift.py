"""How the best learning rates of sweeps move with an option: a table and a figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from train.plots import COLOURS, label_values, new_figure
from train.report import markdown
from train.report.rates import NEIGHBOURS, OPTIONS, Optimum, Trials, fit
from train.statistics import mean_std

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTE = (
    "A fit is a parabola in the logarithm of the rate, of one shape for all seeds and"
    " with a level for each, through the losses at the best rate (by the mean over"
    f" seeds) and at up to {NEIGHBOURS} rates on each side of it. The optimum is its"
    " lowest point, with the factor by which the ends of its 95% interval lie above and"
    " below (from the residuals, to first order). The loss there is that of the"
    ' parabola, mean ± sample standard deviation over seeds. "Drift" is the highest'
    " optimum divided by the lowest. The exponent is that of a power of the option that"
    " the optima follow, by least squares that weigh each with its interval."
)


def section(title: str, found: Sequence[Trials]) -> str:
    """The optima of the trials as Markdown, and how they drift.

    Args:
        title: Heading, such as the name of the data set.
        found: Trials of one experiment and one data set.
    """
    varying = [key for key in OPTIONS if len({t.options.get(key) for t in found}) > 1]
    found = sorted(found, key=lambda trials: _order(trials, varying))
    optima = [fit(trials) for trials in found]
    rows = []
    for trials, optimum in zip(found, optima, strict=True):
        low, high = trials.rates[[0, -1]]
        count = len(trials.losses)
        loss = mean_std(optimum.losses).text(4) if not optimum.reason else ""
        rows.append(
            [
                trials.optimizer,
                trials.others,
                *(f"{trials.options.get(key)}" for key in varying),
                f"{len(trials.rates)}, {low:.3g} to {high:.3g}",
                str(count),
                optimum.text(),
                loss,
            ]
        )
    names = [OPTIONS[key] for key in varying]
    header = ["optimizer", "", *names, "rates", "seeds", "optimum", "loss there"]
    parts = [f"## {title}", markdown.table(header, rows)]
    drifts = []
    for key in varying:
        for name, members in _apart(found, key).items():
            known = [m for m in members if not fit(m).reason]
            if len(known) < 2:
                continue
            optima = [fit(m) for m in known]
            rates = [optimum.rate for optimum in optima]
            values = [m.options[key] for m in known]
            drift = f"{max(rates) / min(rates):.2f}"
            words = [name, OPTIONS[key], ", ".join(map(str, values)), drift]
            drifts.append([*words, _exponent(values, optima)])
    if drifts:
        header = ["optimizer", "option", "its values", "drift", "exponent"]
        parts.append(markdown.table(header, drifts))
    return "\n\n".join(parts)


def _order(trials: Trials, varying: Sequence[str]) -> tuple[str, ...]:
    """What rows are sorted by: the options that differ, then the method."""
    values = (_padded(trials.options.get(key)) for key in varying)
    return *values, trials.optimizer, trials.others


def _padded(value: Any) -> str:
    """A text that sorts numbers by their size."""
    return f"{value}".zfill(9)


def _exponent(values: Sequence[Any], optima: Sequence[Optimum]) -> str:
    """The power of an option that the optima follow, with its 95% interval."""
    halves = np.array([optimum.half for optimum in optima])
    numbers = all(isinstance(v, int | float) and v > 0 for v in values)
    if not numbers or not (halves > 0).all():
        return ""
    x, weights = np.log2(np.array(values, float)), 1 / halves**2
    x -= np.average(x, weights=weights)
    spread = (weights * x**2).sum()
    slope = (weights * x * [optimum.log2_rate for optimum in optima]).sum() / spread
    return f"{slope:+.2f} ± {spread**-0.5:.2f}"


def figure(found: Sequence[Trials]) -> Figure | None:
    """Losses against rates: panels for each option of the task that differs.

    Args:
        found: Trials of one experiment and one data set.

    Returns:
        The figure; None where no trials differ in one option alone.
    """
    rows = {key: _apart(found, key) for key in OPTIONS}
    rows = {key: apart for key, apart in rows.items() if apart}
    if not rows:
        return None
    columns = min(max(map(len, rows.values())), 4)  # More are too small to read.
    lines = [math.ceil(len(apart) / columns) for apart in rows.values()]
    whole = new_figure(3.4 * columns + 0.6, 3.4 * sum(lines) + 0.4)
    parts = whole.subfigures(len(rows), 1, squeeze=False, height_ratios=lines)[:, 0]
    for part, (key, apart), count in zip(parts, rows.items(), lines, strict=True):
        _draw(part, apart, key, (count, columns))
    whole.supylabel("validation loss after the last step")
    whole.suptitle(
        "Line: mean over seeds; band: lowest to highest; star: optimum by a fit"
    )
    return whole


def _apart(found: Sequence[Trials], key: str) -> dict[str, list[Trials]]:
    """The trials that differ in one option alone, by what they have in common."""
    groups: dict[str, list[Trials]] = {}
    # Wider networks have more heads of the same size.
    follows = "heads" if key == "width" and _one_head_size(found) else key
    shared = [other for other in OPTIONS if other not in (key, follows)]
    several = [o for o in shared if len({t.options.get(o) for t in found}) > 1]
    for trials in found:
        words = [trials.others] * bool(trials.others)
        words += [f"{OPTIONS[other]} {trials.options.get(other)}" for other in several]
        name = ", ".join([trials.optimizer, *words])
        groups.setdefault(name, []).append(trials)
    return {
        name: sorted(members, key=lambda t: _padded(t.options[key]))
        for name, members in groups.items()
        if len({t.options.get(key) for t in members}) > 1
    }


def _one_head_size(found: Sequence[Trials]) -> bool:
    sizes = {
        t.options["width"] / t.options["heads"] for t in found if t.options.get("heads")
    }
    return len(sizes) == 1


def _draw(
    part: Any, apart: Mapping[str, Sequence[Trials]], key: str, size: tuple[int, int]
) -> None:
    """Draws panels in lines and columns, one for each method, into a part."""
    panels = part.subplots(*size, squeeze=False).ravel()
    for axes in panels[len(apart) :]:
        axes.remove()
    values = {t.options[key]: None for members in apart.values() for t in members}
    colours = dict(zip(sorted(values, key=_padded), itertools.cycle(COLOURS)))
    shown = {}
    for axes, (name, members) in zip(panels, apart.items(), strict=False):
        for trials in members:
            value = trials.options[key]
            colour = colours[value]
            losses = np.where(np.isfinite(trials.losses), trials.losses, np.nan)
            middle, low, high = losses.mean(0), losses.min(0), losses.max(0)
            (shown[value],) = axes.plot(trials.rates, middle, "o-", ms=3, color=colour)
            axes.fill_between(trials.rates, low, high, color=colour, alpha=0.15, lw=0)
            optimum = fit(trials)
            if not optimum.reason:
                place = (optimum.rate, optimum.losses.mean())
                axes.plot(*place, "*", ms=11, color=colour, mec="black", mew=0.5)
        axes.set_xscale("log")
        label_values(axes, {float(r) for m in members for r in m.rates})
        axes.tick_params(axis="x", labelrotation=60, labelsize=7)
        axes.set_title(name, fontsize=8.5)
        axes.set_xlabel("learning rate")
        axes.grid(alpha=0.3)
    labels = {value: f"{OPTIONS[key]} {value}" for value in colours}
    part.legend(
        [shown[value] for value in labels],
        list(labels.values()),
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
    )
