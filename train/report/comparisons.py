"""Methods at their best rates side by side: losses, and steps to the same loss."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from train.plots import COLOURS, label_values, new_figure
from train.report import markdown
from train.report.rates import OPTIONS, Optimum, Trials, fit
from train.statistics import mean_interval, mean_std, paired_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "adamw"
LENGTH = "epochs"  # What is an epoch in the records is a step of a language model.
DIFFERENCE = (
    "Each method is at the optimum of its own fit. A difference is that of the losses"
    " there, seed by seed, from the first line's: the mean and its 95% Student t"
    " interval. It counts where the interval leaves out 0."
)
SAVING = (
    f"Steps that a method needs for the loss that {REFERENCE} has after the steps on"
    " the left, as a share of these: the geometric mean over seeds, and the ends of its"
    " 95% Student t interval. Losses between two lengths are read off a line in the"
    " logarithm of the steps; each length is a training of its own, with its own best"
    " rate."
)


class Method(NamedTuple):
    """A method at its best rate on one task."""

    name: str
    trials: Trials
    optimum: Optimum


def sections(found: Sequence[Trials]) -> list[str]:
    """Tables of what the trials allow to compare, as Markdown.

    Args:
        found: Trials of one experiment and one data set.
    """
    tasks = _tasks(found)
    return [text for text in (_differences(tasks), _savings(tasks)) if text]


def _tasks(found: Sequence[Trials]) -> dict[str, list[Method]]:
    """The methods that have an optimum, by what they were trained on."""
    tasks: dict[str, list[Method]] = {}
    for trials in found:
        optimum = fit(trials)
        if optimum.reason:
            continue
        name = ", ".join(filter(None, [trials.optimizer, trials.others]))
        task = json.dumps({key: trials.options.get(key) for key in OPTIONS})
        tasks.setdefault(task, []).append(Method(name, trials, optimum))
    for task, methods in tasks.items():
        # A method with fewer seeds is no reference for others.
        methods.sort(key=lambda m: (-len(m.trials.seeds), m.optimum.losses.mean()))
        tuned = [m for m in methods if m.trials.optimizer == REFERENCE][:1]
        tasks[task] = tuned + [m for m in methods if m not in tuned]
    return tasks


def _differences(tasks: dict[str, list[Method]]) -> str:
    options = [json.loads(task) for task in tasks]
    varying = [key for key in OPTIONS if len({o.get(key) for o in options}) > 1]
    rows = []
    for task, methods in sorted(
        tasks.items(), key=lambda item: _order(item[0], varying)
    ):
        values = [f"{json.loads(task)[key]}" for key in varying]
        first, *others = methods
        if not others:
            continue
        rows.append([*values, first.name, _loss(first)])
        for method, mean, half in _paired(methods):
            difference = "one seed"
            if len(first.trials.seeds) > 1:
                difference = f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"
            count = str(len(first.trials.seeds))
            rows.append([*values, method.name, _loss(method), difference, count])
    if not rows:
        return ""
    header = [*(OPTIONS[key] for key in varying), "method", "loss", "difference", "n"]
    return f"{_fill(DIFFERENCE)}\n\n{markdown.table(header, rows)}"


def _paired(methods: Sequence[Method]) -> Iterator[tuple[Method, float, float]]:
    """The differences from the first method, and half of their 95% intervals."""
    first, *others = methods
    for method in others:
        if method.trials.seeds == first.trials.seeds:
            yield method, *paired_interval(method.optimum.losses, first.optimum.losses)


def _order(task: str, varying: Sequence[str]) -> list[str]:
    """What tasks are sorted by."""
    options = json.loads(task)
    return [f"{options.get(key)}".zfill(9) for key in varying]


def _fill(text: str) -> str:
    return textwrap.fill(text, 88)


def _loss(method: Method) -> str:
    return mean_std(method.optimum.losses).text(4)


def _families(
    tasks: Mapping[str, Sequence[Method]],
) -> list[dict[str, dict[int, Method]]]:
    """Methods by name and length, for tasks that differ in length alone."""
    families: dict[str, dict[str, dict[int, Method]]] = {}
    for task, methods in tasks.items():
        options = json.loads(task)
        length = options.pop(LENGTH)
        family = families.setdefault(json.dumps(options), {})
        for method in methods:
            # The best of the reference's settings stands for it.
            base = method.trials.optimizer == REFERENCE
            family.setdefault(REFERENCE if base else method.name, {}).setdefault(
                length, method
            )
    return list(families.values())


def _savings(tasks: Mapping[str, Sequence[Method]]) -> str:
    """Steps to the loss of the reference, as Markdown."""
    rows = []
    for family in _families(tasks):
        references = family.pop(REFERENCE, {})
        for length, reference in references.items():
            for name, methods in family.items():
                lengths = sorted(methods)
                seeds = {methods[one].trials.seeds for one in lengths}
                if len(lengths) > 1 and seeds == {reference.trials.seeds}:
                    losses = np.array([methods[one].optimum.losses for one in lengths])
                    text = _steps(reference.optimum.losses, lengths, losses, length)
                    rows.append([str(length), name, text])
    if not rows:
        return ""
    rows.sort(key=lambda row: (int(row[0]), row[1]))
    header = [f"steps of {REFERENCE}", "method", "steps for the same loss"]
    return f"{_fill(SAVING)}\n\n{markdown.table(header, rows)}"


def _steps(
    wanted: np.ndarray, lengths: Sequence[int], losses: np.ndarray, unit: int
) -> str:
    """Steps to a loss in words, in units of `unit`.

    Args:
        wanted: Loss of each seed, ``[seeds]``.
        lengths: Steps, increasing.
        losses: Losses after them, ``[lengths, seeds]``.
        unit: Steps of the reference.
    """
    if (np.diff(losses, axis=0) >= 0).any():
        return "its loss does not fall with the steps"
    if (wanted > losses[0]).any():
        return f"fewer than {lengths[0] / unit:.2f}"
    if (wanted < losses[-1]).any():
        return f"more than {lengths[-1] / unit:.2f}"
    steps = np.log(np.asarray(lengths, float) / unit)
    needed = [
        np.interp(loss, column[::-1], steps[::-1])  # `interp` wants rising losses.
        for loss, column in zip(wanted, losses.T, strict=True)
    ]
    if len(needed) < 2:
        return f"{np.exp(needed[0]):.2f}"
    mean, half = mean_interval(np.array(needed))
    return (
        f"{np.exp(mean):.2f} ({np.exp(mean - half):.2f} to {np.exp(mean + half):.2f})"
    )


def figure(found: Sequence[Trials]) -> Figure | None:
    """Differences on the task with the most methods, and losses against steps.

    Args:
        found: Trials of one experiment and one data set.

    Returns:
        The figure; None where no two methods have the same task and several seeds.
    """
    tasks = _tasks(found)
    several = [m for m in tasks.values() if len(m[0].trials.seeds) > 1]
    methods = max(several, key=len, default=[])
    rows = list(_paired(methods))[::-1] if methods else []
    if not rows:
        return None
    lengths = [
        {name: by_length for name, by_length in family.items() if len(by_length) > 1}
        for family in _families(tasks)
    ]
    longest = max(lengths, key=len, default={})
    whole = new_figure(10 if longest else 6, 2 + 0.25 * max(len(rows), 6))
    panels = whole.subplots(1, 1 + bool(longest), squeeze=False)[0]
    _draw_differences(panels[0], rows, methods[0].name)
    options = [json.loads(task) for task in tasks]
    varying = [key for key in OPTIONS if len({o.get(key) for o in options}) > 1]
    known = (f"{OPTIONS[key]} {methods[0].trials.options[key]}" for key in varying)
    panels[0].set_title(", ".join(known), fontsize=9)
    if longest:
        _draw_lengths(panels[1], longest)
    return whole


def _draw_differences(
    axes: Axes, rows: Sequence[tuple[Method, float, float]], reference: str
) -> None:
    """Draws the differences from a method with their intervals."""
    methods, means, halves = zip(*rows, strict=True)
    places = range(len(rows))
    axes.errorbar(means, places, xerr=halves, fmt="o", ms=4, color=COLOURS[0])
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(places, [method.name for method in methods])
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"loss minus that of {reference} (95% interval over seeds)")
    axes.grid(alpha=0.3)


def _draw_lengths(axes: Axes, family: Mapping[str, Mapping[int, Method]]) -> None:
    """Draws the losses at the best rates against the steps: mean, lowest, highest."""
    steps = set()
    for (name, methods), colour in zip(
        sorted(family.items()), itertools.cycle(COLOURS)
    ):
        lengths = sorted(methods)
        losses = np.array([methods[one].optimum.losses for one in lengths])
        middle = losses.mean(1)
        axes.plot(lengths, middle, "o-", ms=4, color=colour, label=name)
        axes.fill_between(
            lengths, losses.min(1), losses.max(1), color=colour, alpha=0.15, lw=0
        )
        steps |= {float(length) for length in lengths}
    axes.set_xscale("log")
    label_values(axes, steps)
    axes.set_xlabel("steps of a training, each with its best rate")
    axes.set_ylabel("validation loss after the last step")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
