"""Methods at their best rates side by side: losses, and steps to the same loss."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from train.report import markdown
from train.report.rates import OPTIONS, Optimum, Trials, fit
from train.statistics import mean_interval, mean_std, paired_interval

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
        for method in others:
            if method.trials.seeds != first.trials.seeds:
                continue
            difference = "one seed"
            if len(first.trials.seeds) > 1:
                mean, half = paired_interval(
                    method.optimum.losses, first.optimum.losses
                )
                difference = f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"
            count = str(len(first.trials.seeds))
            rows.append([*values, method.name, _loss(method), difference, count])
    if not rows:
        return ""
    header = [*(OPTIONS[key] for key in varying), "method", "loss", "difference", "n"]
    return f"{_fill(DIFFERENCE)}\n\n{markdown.table(header, rows)}"


def _order(task: str, varying: Sequence[str]) -> list[str]:
    """What tasks are sorted by."""
    options = json.loads(task)
    return [f"{options.get(key)}".zfill(9) for key in varying]


def _fill(text: str) -> str:
    return textwrap.fill(text, 88)


def _loss(method: Method) -> str:
    return mean_std(method.optimum.losses).text(4)


def _savings(tasks: dict[str, list[Method]]) -> str:
    """Steps to the loss of the reference, for tasks that differ in length alone."""
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
    rows = []
    for family in families.values():
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
