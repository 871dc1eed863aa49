"""Tables of a report: runs beside the papers' numbers, and LAWN minus its base."""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from train import optimizers
from train.report import markdown, papers, stopping
from train.report.definition import Report
from train.report.figures import shared
from train.report.read import Group
from train.statistics import bootstrap_interval, mean_std, paired_interval

# Options that have no effect without a switch to constrained training.
_LAWN_ONLY = (
    "free_epochs",
    "reset",
    "alpha",
    "switch",
    "switch_threshold",
    "switch_plateau",
    "constrain",
)
# The base optimizers that each form with fixed norms is compared with. The papers have
# LAMB-LAWN beside LAMB+ on ImageNet.
_BASES = {
    "sgd-lawn": ("sgd",),
    "adam-lawn": ("adam", "adamw"),
    "adamw-lawn": ("adam", "adamw"),
    "lamb-lawn": ("lamb", "lamb-plus"),
    "lamb-plus-lawn": ("lamb-plus",),
    "muon-lawn": ("muon",),
    "sgdh": ("sgd",),
    "adamh": ("adam", "adamw"),
    "muonh": ("muon",),
}


def varying(groups: Sequence[Group]) -> list[str]:
    """The names of the options in which some groups differ, sorted."""
    names = sorted({name for group in groups for name in group.options})
    return [
        name
        for name in names
        if len({json.dumps(group.options.get(name)) for group in groups}) > 1
    ]


def setting(group: Group, groups: Sequence[Group]) -> str:
    """A group's options in words: the tuned ones, and those that differ between rows.

    Args:
        group: One row of a table.
        groups: All rows of that table.

    Returns:
        Names and values, separated by commas.
    """
    is_lawn = _is_lawn(group)
    tuned = ["learning_rate", "free_epochs" if is_lawn else "weight_decay"]
    names = varying(groups)
    if not is_lawn:
        alike = varying([g for g in groups if not _is_lawn(g)])
        names = [n for n in names if n not in _LAWN_ONLY or n in alike]
    names = [n for n in names if n not in (*tuned, "optimizer")]
    return ", ".join(
        _words(group.report, name, group.options.get(name)) for name in tuned + names
    )


def _words(report: Report, name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ').replace('epoch', report.unit)} {text}"


def _is_lawn(group: Group) -> bool:
    return optimizers.is_lawn(group.options["optimizer"])


def caption(groups: Sequence[Group]) -> str:
    """The facts that all rows of a table share: protocol, cases, options, devices."""
    differing, report = varying(groups), groups[0].report
    first = groups[0].options
    cases = sorted({run.values.size for group in groups for run in group.runs})
    count = papers.USERS.get(papers.dataset_of(first["dataset"]))
    text = f"{' or '.join(f'{n:,}' for n in cases)} {report.cases}"
    text += f" (the papers: {count:,})" if count else ""
    words = partial(_words, report)
    main = [
        f"{name.replace('epoch', report.unit)}: see the rows"
        if name in differing
        else words(name, first[name])
        for name in report.described
    ]
    hidden = {*differing, *report.described, "dataset", "batch_size"}
    hidden |= {"validation", "optimizer", "learning_rate"}
    rest = [words(name, first[name]) for name in sorted(first) if name not in hidden]
    devices = sorted({run.device for group in groups for run in group.runs})
    return (
        f"Protocol: {report.protocol(first).description}. {text};"
        f" {', '.join(main)}."
        f"\n\nThe same in all rows: {', '.join(rest)}. Device: {', '.join(devices)}."
    )


def result_table(groups: Sequence[Group], stops: Mapping[str, int]) -> str:
    """One row per group, as a Markdown table.

    Args:
        groups: Groups of one data set, batch size and protocol.
        stops: Epochs at which trials were best, from `stopping.epochs`.

    Returns:
        The table.
    """
    report, validation = groups[0].report, groups[0].options["validation"]
    measured = report.protocol(groups[0].options).measured
    header = ["method", "setting", "chosen on", report.draws]
    unit, scale, decimals = " %" * (not report.lowest), report.scale, report.decimals
    header += [f"{report.label}, last {report.unit}", f"95% over {report.cases}"]
    header += [f"best evaluation on the {measured}{unit}"]
    stopped = [stops.get(stopping.key(group.options)) for group in groups]
    chose = any(epoch is not None for epoch in stopped)
    header += [f"at the {report.unit} of the best trial{unit}"] * chose
    header += [*report.others.values()]
    source = "published" if report.lowest else "papers'"
    header += [] if validation else [f"{source} {report.label}"]
    rows = []
    for group, epoch in zip(groups, stopped, strict=True):
        finished, failed = group.finished, group.divergence()
        count = str(len(group.runs))
        if failed:
            count = f"{len(finished)} of {count}"
        if report.draws != "seeds":
            count += f" x {max(run.draws for run in group.runs)}"
        chosen = " or ".join(sorted({run.chosen_on for run in group.runs}))
        cells = [group.method, setting(group, groups), chosen, count]
        if finished:
            low, high = group.interval
            level = group.last().text(decimals, scale)
            if report.chance and low < report.chance + 0.01:
                level = f"Fail: {level}"
            best = mean_std(np.array([run.best for run in finished]))
            number = max(len(run.rows) for run in finished)
            stop = ""
            if epoch is not None:
                stop = f"{group.at(epoch).text(decimals, scale)} ({epoch})"
            cells += [
                f"{level}; {failed}" if failed else level,
                f"{scale * low:.{decimals}f} to {scale * high:.{decimals}f}",
                f"{best.text(decimals, scale)} (of {number})",
                *[stop] * chose,
                *(
                    group.last(key).text(*((2, 100) if name[-1] == "%" else (4, 1)))
                    for key, name in report.others.items()
                ),
            ]
        else:
            cells += [failed, "", "", *[""] * chose, *("" for _ in report.others)]
        if not validation:
            published = report.published(group.options)
            cells.append(published.text() if published else "none")
        cells.append(f"{np.mean([run.seconds for run in group.runs]):.0f}")
        rows.append(cells)
    return markdown.table([*header, "s per run"], rows)


def difference_table(groups: Sequence[Group]) -> str:
    """LAWN minus base optimizer, as a Markdown table.

    Args:
        groups: Groups of one data set, batch size and protocol.

    Returns:
        The table, or "" if there is no LAWN run.
    """
    rows = []
    for group in groups:
        bases = _BASES.get(group.options["optimizer"])
        if bases is None:
            continue
        pair = f"{group.method} - {' or '.join(bases)}"
        alike = [
            other
            for other in groups
            if other.options["optimizer"] in bases
            and _recipe(other) == _recipe(group)
            # The difference is taken case by case.
            and _cases(other) <= _cases(group)
        ]
        best = min if group.report.lowest else max
        base = best(
            (other for other in alike if other.finished),
            key=lambda other: other.last().mean,
            default=None,
        )
        cells = [pair, setting(group, groups)]
        if not group.finished:
            rows.append([*cells, "", f"LAWN {group.divergence()}"])
        elif base is None:
            failed = ", ".join(other.divergence() for other in alike)
            reason = f"base {failed}" if failed else "no run of the base is alike"
            rows.append([*cells, "", reason])
        else:
            cells += [f"{base.method}: {setting(base, groups)}"]
            rows.append([*cells, *_difference(group, base)])
    if not rows:
        return ""
    report = groups[0].report
    header = ["LAWN - base", "LAWN's setting", "base's setting"]
    header += [
        report.score if report.lowest else f"points of {report.score}",
        f"95% over {report.cases}",
        "95% over seeds",
    ]
    return markdown.table(header, rows)


def _recipe(group: Group) -> tuple[Any, ...]:
    """What LAWN and its base have in common: the data, the loss and its remedies."""
    smoothing, flood = (group.options.get(k) for k in ("label_smoothing", "flood"))
    return shared(group), smoothing or 0, flood


def _cases(group: Group) -> set[int]:
    """How many cases its finished runs were measured on."""
    return {run.values.size for run in group.finished}


def _difference(group: Group, base: Group) -> list[str]:
    """The difference in points, with its intervals over cases and over seeds."""
    scale, decimals = group.report.scale, group.report.decimals
    difference = scale * (group.values - base.values)
    ours, theirs = (
        {run.seed: scale * run.rows[-1][group.report.metric] for run in g.finished}
        for g in (group, base)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    over_seeds = "fewer than two seeds in common"
    if len(seeds) > 1:
        mean, half = paired_interval(
            np.array([ours[s] for s in seeds]), np.array([theirs[s] for s in seeds])
        )
        over_seeds = _verdict(mean - half, mean + half, decimals)
        over_seeds += f" ({len(seeds)} seeds)"
    return [
        f"{difference.mean():+.{decimals}f}",
        _verdict(*bootstrap_interval(difference), decimals),
        over_seeds,
    ]


def _verdict(low: float, high: float, decimals: int) -> str:
    verdict = "beyond" if low > 0 or high < 0 else "within"
    return f"{low:+.{decimals}f} to {high:+.{decimals}f}: {verdict}"


def section(title: str, groups: Sequence[Group], stops: Mapping[str, int]) -> str:
    """The tables of one protocol, by data set and batch size.

    Args:
        title: Heading of the section.
        groups: Groups of that protocol.
        stops: Epochs at which trials were best, from `stopping.epochs`.
    """
    parts = [f"## {title}"]

    def place(group: Group) -> tuple[str, int]:
        return group.options["dataset"], group.options["batch_size"]

    for (dataset, batch), members in itertools.groupby(
        sorted(groups, key=place), place
    ):
        rows = list(members)
        parts += [f"### {dataset}, batch {batch:,}", caption(rows)]
        parts.append(result_table(rows, stops))
        if differences := difference_table(rows):
            parts += [f"LAWN minus base, {dataset}, batch {batch:,}:", differences]
    return "\n\n".join(parts)
