"""Reports: many finished runs beside the papers' numbers, as tables and figures."""

import dataclasses
import itertools
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from train import (
    InputError,
    optimizers,
    require,
)
from train.report import markdown, papers
from train.report.figures import draw_figures, shared
from train.report.read import (
    Group,
    Run,
    find_runs,
    group_runs,
)
from train.report.reported import Reported
from train.statistics import bootstrap_interval, mean_std, paired_interval


@dataclasses.dataclass(frozen=True)
class Config:
    """Finished runs of recsys or image beside the papers' numbers.

    Reads every finished run below the folders, groups those that differ in their seeds
    alone, and writes table.md and the figures for which there are runs.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or of folders of runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("report")
    """Folder for the table and the figures."""


DIFFERENCE_NOTES = (
    "Every LAWN setting minus the base optimizer, both at the last epoch; where the"
    " base has several settings, the best one here is taken. Over users or images:"
    " paired bootstrap, 95%. Over seeds: those that both have, paired, Student t, 95%."
    ' "beyond" means that an interval excludes 0, "within" that it does not.'
)

# Options without effect before a switch to constrained training.
_LAWN_ONLY = ("free_epochs", "reset", "alpha", "switch", "switch_threshold")
_LAWN_ONLY += ("constrain",)
_BASES = {
    "sgd-lawn": ("sgd",),
    "adam-lawn": ("adam", "adamw"),
    "adamw-lawn": ("adam", "adamw"),
    "lamb-lawn": ("lamb",),
    "lamb-plus-lawn": ("lamb-plus",),
}


# ------------------------------------------------------------------------ settings


def varying(groups: Sequence[Group]) -> list[str]:
    """Names of the options in which some groups differ, sorted."""
    names = sorted({name for group in groups for name in group.options})
    return [
        name
        for name in names
        if len({json.dumps(group.options.get(name)) for group in groups}) > 1
    ]


def setting(group: Group, groups: Sequence[Group]) -> str:
    """A group's options in words: the tuned ones, and what differs between rows.

    Args:
        group: To describe.
        groups: All rows of its table.

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
    return ", ".join(_words(name, group.options.get(name)) for name in tuned + names)


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        value = {True: "on", False: "off", None: "none"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {text}"


def _is_lawn(group: Group) -> bool:
    return optimizers.is_lawn(group.options["optimizer"])


def caption(groups: Sequence[Group]) -> str:
    """What holds for all rows of a table: protocol, users, options, devices."""
    differing, kind = varying(groups), groups[0].kind
    first = groups[0].options
    cases = sorted({run.values.size for group in groups for run in group.runs})
    count = papers.USERS.get(papers.dataset_of(first["dataset"]))
    text = f"{' or '.join(f'{n:,}' for n in cases)} {kind.cases}"
    text += f" (the papers: {count:,})" if count else ""
    main = [
        f"{name}: see the rows" if name in differing else _words(name, first[name])
        for name in kind.described
    ]
    hidden = {*differing, *kind.described, "dataset", "batch_size"}
    hidden |= {"validation", "optimizer", "learning_rate"}
    rest = [_words(name, first[name]) for name in sorted(first) if name not in hidden]
    devices = sorted({run.device for group in groups for run in group.runs})
    return (
        f"Protocol: {kind.protocols[not first['validation']]}. {text};"
        f" {', '.join(main)}."
        f"\n\nThe same in all rows: {', '.join(rest)}. Device: {', '.join(devices)}."
    )


# -------------------------------------------------------------------------- tables


def result_table(groups: Sequence[Group]) -> str:
    """One row per group, as a Markdown table.

    Args:
        groups: All of one data set, batch size and protocol.

    Returns:
        The table.
    """
    kind, validation = groups[0].kind, groups[0].options["validation"]
    header = ["method", "setting", "chosen on", kind.draws]
    header += [f"{kind.score} %, last epoch", f"95% over {kind.cases}"]
    header += [f"best evaluation on the {kind.items[not validation]} %"]
    header += [*kind.others.values()]
    header += [] if validation else [f"papers' {kind.score} %"]
    rows = []
    for group in groups:
        finished, failed = group.finished, group.divergence()
        count = str(len(group.runs))
        if failed:
            count = f"{len(finished)} of {count}"
        if kind.draws != "seeds":
            count += f" x {max(run.draws for run in group.runs)}"
        chosen = " or ".join(sorted({run.chosen_on for run in group.runs}))
        cells = [group.method, setting(group, groups), chosen, count]
        if finished:
            low, high = group.interval
            level = group.last().text(2, scale=100)
            if kind.chance and low < kind.chance + 0.01:
                level = f"Fail: {level}"
            best = mean_std(np.array([run.best for run in finished]))
            number = max(len(run.rows) for run in finished)
            cells += [
                f"{level}; {failed}" if failed else level,
                f"{100 * low:.2f} to {100 * high:.2f}",
                f"{best.text(2, scale=100)} (of {number})",
                *(group.last(key).text(2, scale=100) for key in kind.others),
            ]
        else:
            cells += [failed, "", "", *("" for _ in kind.others)]
        if not validation:
            published = kind.published(group.options)
            cells.append(published.text() if published else "none")
        cells.append(f"{np.mean([run.seconds for run in group.runs]):.0f}")
        rows.append(cells)
    return markdown.table([*header, "s per run"], rows)


def difference_table(groups: Sequence[Group]) -> str:
    """LAWN minus base optimizer, as a Markdown table.

    Args:
        groups: All of one data set, batch size and protocol.

    Returns:
        The table; empty without a LAWN run.
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
            if other.method in bases and shared(other) == shared(group)
        ]
        base = max(
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
    kind = groups[0].kind
    header = ["LAWN - base", "LAWN's setting", "base's setting"]
    header += [f"points of {kind.score}", f"95% over {kind.cases}", "95% over seeds"]
    return markdown.table(header, rows)


def _difference(group: Group, base: Group) -> list[str]:
    """Points of the metric, the interval over cases and the one over seeds."""
    difference = 100 * (group.values - base.values)
    ours, theirs = (
        {run.seed: 100 * run.rows[-1][group.kind.metric] for run in g.finished}
        for g in (group, base)
    )
    seeds = sorted(ours.keys() & theirs.keys())
    over_seeds = "fewer than two seeds in common"
    if len(seeds) > 1:
        mean, half = paired_interval(
            np.array([ours[s] for s in seeds]), np.array([theirs[s] for s in seeds])
        )
        over_seeds = _verdict(mean - half, mean + half) + f" ({len(seeds)} seeds)"
    return [
        f"{difference.mean():+.2f}",
        _verdict(*bootstrap_interval(difference)),
        over_seeds,
    ]


def _verdict(low: float, high: float) -> str:
    verdict = "beyond" if low > 0 or high < 0 else "within"
    return f"{low:+.2f} to {high:+.2f}: {verdict}"


# ----------------------------------------------------------------------------- run


def section(title: str, groups: Sequence[Group]) -> str:
    """Tables of one protocol, by data set and batch size."""
    parts = [f"## {title}"]

    def place(group: Group) -> tuple[str, int]:
        return group.options["dataset"], group.options["batch_size"]

    for (dataset, batch), members in itertools.groupby(
        sorted(groups, key=place), place
    ):
        rows = list(members)
        parts += [f"### {dataset}, batch {batch:,}", caption(rows), result_table(rows)]
        if differences := difference_table(rows):
            parts += [f"LAWN minus base, {dataset}, batch {batch:,}:", differences]
    return "\n\n".join(parts)


def run(config: Config) -> None:
    """Prints the tables and writes them with the figures."""
    require(bool(config.runs), "name at least one folder of runs")
    out = config.out
    require(
        not out.exists() or out.is_dir(), f"{out} is not a folder; choose another --out"
    )
    require(
        not (out / "config.json").exists(),
        f"{out} holds a run or a sweep; choose another --out",
    )
    runs, unfinished = find_runs(config.runs)
    parts, figures = [], {}
    for kind, members in itertools.groupby(
        sorted(runs, key=lambda run: run.kind.experiment), lambda run: run.kind
    ):
        text, drawn = _parts(kind, list(members))
        parts += text
        figures |= drawn
    if unfinished:
        parts += [
            "## Unfinished runs, not counted",
            "\n".join(f"- {u}" for u in unfinished),
        ]
    text = "\n\n".join(parts) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(out / name, dpi=150)
        (out / "table.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write to {out} ({error.strerror}); choose another --out"
        ) from None
    print(f"{text}\nWritten to {out}: {', '.join(['table.md', *figures])}")


def _parts(kind: Reported, runs: Sequence[Run]) -> tuple[list[str], dict[str, Figure]]:
    """Paragraphs and figures of one experiment."""
    groups = group_runs(runs)
    test = [g for g in groups if not g.options["validation"]]
    validation = [g for g in groups if g.options["validation"]]
    notes = [textwrap.fill(text, 88) for text in (kind.notes, DIFFERENCE_NOTES)]
    parts = [f"# {kind.title}", *notes]
    figures, missing = draw_figures(test) if test else ({}, [])
    item, held_out = (text.capitalize() for text in reversed(kind.items))
    if test:
        parts.append(section(item, test))
        links = [f"![{Path(name).stem}]({name})" for name in figures]
        parts += ["## Figures", *links, *missing]
    if validation:
        parts.append(section(held_out, validation))
    return parts, figures
