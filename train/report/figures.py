"""The figures of the LAWN papers, from our own runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from train import plots
from train.plots import COLOURS, label_values, new_figure, range_over_seeds
from train.report import papers
from train.report.read import Group, ReportedRun
from train.report.suggestions import command, free_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "Gupta et al. 2021, arXiv:2108.05839"
SUBMISSION = "the ICLR submission of LAWN"
_ALPHA, _SWITCH = 0.2, 115  # Factor and free epochs of the papers' Figure 1.


def shared(group: Group, *without: str) -> str:
    """The options that comparable runs share, as one text that can be sorted."""
    alike = group.report.alike
    return json.dumps([group.options.get(key) for key in alike if key not in without])


def draw_figures(groups: Sequence[Group]) -> tuple[dict[str, Figure], list[str]]:
    """Draws every figure for which there are enough runs.

    Args:
        groups: Groups of one experiment and protocol.

    Returns:
        Figures by file name, and one line for each figure that lacks runs.
    """
    figures: dict[str, Figure] = {}
    missing = []
    if not groups[0].report.sizes:
        return figures, missing
    attenuation = [_attenuation] if groups[0].report.has_attenuation else []
    for find in (*attenuation, _batch_sizes, _free_phases):
        found, line = find(groups)
        for name, figure in found:
            same = [other for other, _ in found if other == name]
            number = f"-{len(figures) + 1}" if len(same) > 1 else ""
            figures[f"{name}{number}.png"] = figure
        missing += [line] if line else []
    return figures, missing


Found = tuple[list[tuple[str, "Figure"]], str]


# ----------------------------------------------------------------------- Figure 1


def _attenuation(groups: Sequence[Group]) -> Found:
    undecayed = [g for g in groups if g.options["weight_decay"] == 0]
    plain = [g for g in undecayed if g.method == "adam"]
    attenuated = [g for g in undecayed if g.method == "adam-lawn + attenuated logits"]

    def key(group: Group) -> tuple[str, float]:
        return shared(group), group.options["learning_rate"]

    pairs = [
        (f"figure-1-{_place(a)}", _draw_attenuation(a, b))
        for a, b in itertools.product(plain, attenuated)
        if key(a) == key(b) and a.finished and b.finished
    ]
    if pairs:
        return pairs, ""
    example = (plain or attenuated or groups)[0]
    rate = example.options["learning_rate"]
    scaled = {"alpha": _ALPHA, "free_epochs": free_epochs(example, _SWITCH)}
    commands = [
        command(example, name, learning_rate=rate, **changes)
        for name, found, changes in (
            ("adam", plain, {}),
            ("adam-lawn", attenuated, scaled),
        )
        if not found or (plain and attenuated)
    ]
    return [], (
        "Figure 1 (loss flattening) is not drawn: it needs finished runs, alike in"
        f" {', '.join((*groups[0].report.alike, 'learning_rate'))}, of "
        + " and of ".join(commands)
    )


def _draw_attenuation(plain: Group, attenuated: Group) -> Figure:
    figure = new_figure(8, 7)
    margin, hits = figure.subplots(2, 1, sharex=True)
    arms = (
        (plain, "Adam without decay", ":"),
        (attenuated, f"logits times {attenuated.options['alpha']:g}, norms fixed", "-"),
    )
    for group, label, style in arms:
        epochs = _history(group, lambda row: row["epoch"])[0]
        for split, prefix, colour in (
            ("training", "", COLOURS[0]),
            ("test", "test_", COLOURS[4]),
        ):
            values = _history(group, lambda row, p=prefix: row[f"{p}margin_p50"])
            _line(margin, epochs, values, color=colour, ls=style)
            key = "train_hr" if split == "training" else "hr"
            values = 100 * _history(group, lambda row, key=key: row[key])
            text = f"{split}, {label}"
            _line(hits, epochs, values, color=colour, ls=style, label=text)
    switch = _switch_epoch(attenuated.finished[0])
    for axes in (margin, hits):
        axes.axvline(switch, color="black", ls=":", lw=1)
        axes.grid(alpha=0.3)
    hits.plot([], [], color="black", ls=":", lw=1, label=f"switch, epoch {switch:g}")
    margin.set(ylabel="margin p50 (logit, factor included)")
    margin.set_title("Median margin: training samples; test items")
    hits.set(xlabel="epoch", ylabel="HR@10 %")
    hits.set_title("HR@10: one training item per user; test item")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    rate = plain.options["learning_rate"]
    figure.suptitle(
        f"Loss flattening, after Figure 1 of {PAPER}\n"
        f"{_title(plain)}, rate {rate:g}\n"
        f"{_seeds([plain, attenuated])}; lines: mean, bands: lowest to highest",
        fontsize=10,
    )
    return figure


def _history(group: Group, value: Callable) -> np.ndarray:
    """One number per row of each finished run, ``[seeds, evaluations]``."""
    return np.array([[value(row) for row in run.rows] for run in group.finished])


def _switch_epoch(run: ReportedRun) -> float:
    last = run.rows[-1]
    return run.switched_at * last["epoch"] / last["step"]


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, **style: str) -> None:
    range_over_seeds(axes, x, values.T, **style)


# --------------------------------------------------------- Figure 3; submission 2(d)


def _batch_sizes(groups: Sequence[Group]) -> Found:
    found = []
    plain = [g for g in groups if g.method == g.options["optimizer"]]
    for panel in _split(plain, lambda g: shared(g, "batch_size", "epochs")):
        methods = _split(panel, _method)
        if any(len({g.options["batch_size"] for g in m}) > 1 for m in methods):
            name = f"{_file(_batch_figure(panel[0])[0])}-{panel[0].options['dataset']}"
            found.append((name, _draw_batch_sizes(panel)))
    if found:
        return found, ""
    example = (plain or groups)[0]
    sizes = example.report.sizes[papers.dataset_of(example.options["dataset"])]
    other = next(s for s in sizes[1:] if s != example.options["batch_size"])
    (name, paper), score = _batch_figure(example), example.report.score
    name += f" of {paper}" * (paper != PAPER)
    return [], (
        f"Figure {name} ({score} against batch size) is not drawn: it needs finished"
        " runs of one method at two or more batch sizes, for example "
        + command(example, example.options["optimizer"], batch_size=other)
    )


def _batch_figure(group: Group) -> tuple[str, str]:
    """The figure of the papers about a group's batch sizes, and its paper."""
    name = group.report.batch_figures.get(group.options["dataset"], "3")
    # ImageNet is in the submission's figure alone.
    return name, SUBMISSION if name == "2(d)" else PAPER


def _file(figure: str) -> str:
    """The start of a file's name: ``7(b)`` gives ``figure-7b``."""
    return f"figure-{figure.replace('(', '').replace(')', '')}"


def _method(group: Group) -> str:
    """The papers' row that a group belongs to; their Adam includes weight decay."""
    name = group.options["optimizer"]
    return "adam or adamw" if name in ("adam", "adamw") else name


def _draw_batch_sizes(panel: Sequence[Group]) -> Figure:
    figure = new_figure(8, 5.5)
    axes = figure.subplots()
    report = panel[0].report
    dataset = papers.dataset_of(panel[0].options["dataset"])
    drawn, published, shown = [], [], {g.options["batch_size"] for g in panel}
    for members, colour in zip(
        _split(panel, _method), itertools.cycle(COLOURS), strict=False
    ):
        best = [
            max(alive, key=lambda g: g.last().mean)
            for same in _split(members, lambda g: g.options["batch_size"])
            if (alive := [g for g in same if g.finished])
        ]
        drawn += best
        method = _method(members[0])
        done = {g.options["batch_size"] for g in best}
        failed = {g.options["batch_size"] for g in members} - done
        label = method + "".join(f"; diverged at {b:,}" for b in sorted(failed))
        _points(axes, best, "batch_size", color=colour, label=label)
        values = {
            size: value
            for size in report.sizes.get(dataset, ())
            if (value := report.published(members[0].options | {"batch_size": size}))
        }
        scores = [np.nan if v.value is None else v.value for v in values.values()]
        if np.isfinite(scores).any():
            style = {"color": colour, "ls": "--", "marker": "x", "alpha": 0.6}
            fails = [f"{size:,}" for size, v in values.items() if v.value is None]
            label = f"{method}, {next(iter(values.values())).source}"
            label += f"; Fail at {', '.join(fails)}" if fails else ""
            axes.plot(list(values), scores, **style, label=label)
            published += [score for score in scores if np.isfinite(score)]
            shown |= values.keys()
    axes.set(xscale="log", xlabel="batch size (samples, log scale)")
    label_values(axes, shown)
    axes.set_ylabel(f"{report.score} %")
    points = [(g.options["batch_size"], 100 * g.last().mean) for g in drawn]
    outside = plots.leave_out_failures(axes, points, 12, published)
    axes.grid(alpha=0.3)
    epochs = sorted({g.options["epochs"] for g in drawn})
    name, paper = _batch_figure(panel[0])
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(
        f"{report.score} against batch size, after Figure {name} of {paper}\n"
        f"{_title(panel[0], batch=False)}, {' or '.join(map(str, epochs))} epochs;"
        f" last epoch, {_seeds(drawn)}\neach method's best setting;"
        f" bars: sample standard deviation over seeds{outside}",
        fontsize=10,
    )
    return figure


# -------------------------------------------------------------------- Figure 7(b)


def _free_phases(groups: Sequence[Group]) -> Found:
    lawn = [g for g in groups if g.method == "adam-lawn" and g.finished]

    def others(group: Group) -> str:
        options = {k: v for k, v in group.options.items() if k != "free_epochs"}
        return json.dumps(options, sort_keys=True)

    lines = [line for line in _split(lawn, others) if len(line) > 1]
    found = [
        (
            f"{_file(panel[0][0].report.free_figure)}-{_place(panel[0][0])}",
            _draw_free_phases(panel),
        )
        for panel in _split(lines, lambda line: shared(line[0]))
    ]
    if found:
        return found, ""
    example = (lawn or groups)[0]
    name, rate = example.report.free_figure, example.options["learning_rate"]
    present = example.options["free_epochs"] if lawn else None
    free = next(
        free
        for wanted in (20, 50, 10)
        if (free := free_epochs(example, wanted)) != present
    )
    return [], (
        f"Figure {name} (effect of the free phase) is not drawn: it needs finished runs"
        " of adam-lawn with two or more free phases, all other options alike, for"
        " example "
        + command(example, "adam-lawn", learning_rate=rate, free_epochs=free)
    )


def _draw_free_phases(panel: Sequence[Sequence[Group]]) -> Figure:
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for line, colour in zip(panel, itertools.cycle(COLOURS), strict=False):
        options = line[0].options
        label = f"rate {options['learning_rate']:g}"
        known = (*line[0].report.alike, "optimizer", "learning_rate", "free_epochs")
        for key in options.keys() - set(known):
            if len({str(other[0].options.get(key)) for other in panel}) > 1:
                label += f", {key.replace('_', ' ')} {options[key]}"
        _points(axes, line, "free_epochs", color=colour, label=label)
    free = [g.options["free_epochs"] for line in panel for g in line]
    if min(free) > 0:
        axes.set_xscale("log")
    else:  # The axis is linear from 0 to the smallest other value.
        axes.set_xscale("symlog", linthresh=min(value for value in free if value))
    label_values(axes, free)
    axes.set(xlabel="free epochs before the switch (log scale)")
    axes.set_ylabel(f"{panel[0][0].report.score} %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.suptitle(
        f"Adam-LAWN: effect of the free phase, after Figure"
        f" {panel[0][0].report.free_figure} of {PAPER}\n"
        f"{_title(panel[0][0])}\nlast epoch,"
        f" {_seeds([g for line in panel for g in line])}; bars: sample standard"
        " deviation over seeds",
        fontsize=10,
    )
    return figure


# -------------------------------------------------------------------- shared parts


def _points(axes: Axes, groups: Iterable[Group], option: str, **style: str) -> None:
    """Draws the last metric against an option, with bars where there are two seeds."""
    groups = sorted(groups, key=lambda g: g.options[option])
    stats = [g.last() for g in groups]
    axes.errorbar(
        [g.options[option] for g in groups],
        [100 * s.mean for s in stats],
        yerr=[100 * s.std if s.n > 1 else 0.0 for s in stats],
        marker="o",
        capsize=3,
        **style,  # pyright: ignore[reportArgumentType]
    )


def _split(items: Iterable, key: Callable) -> list[list]:
    ordered = sorted(items, key=key)
    return [list(members) for _, members in itertools.groupby(ordered, key)]


def _place(group: Group) -> str:
    return f"{group.options['dataset']}-{group.options['batch_size']}"


def _title(group: Group, batch: bool = True) -> str:
    options, report = group.options, group.report
    parts = [f"{options['dataset']} ({group.runs[0].values.size:,} {report.cases})"]
    if batch:
        parts += [f"batch {options['batch_size']:,}", f"{options['epochs']} epochs"]
    parts += [f"{key} {options[key]}" for key in report.described if key != "epochs"]
    return ", ".join(parts)


def _seeds(groups: Iterable[Group]) -> str:
    counts = sorted({len(g.finished) for g in groups})
    return f"n = {' or '.join(map(str, counts))} seed{'s' * (counts != [1])}"
