"""Reports: many finished runs beside the papers' numbers, as tables and figures."""

import dataclasses
import os
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from train import png, recorded, sweep
from train.digits import report as digits
from train.errors import InputError, require
from train.registry import EXPERIMENTS
from train.report import comparisons, drift, pack, rates, stopping, tables
from train.report.definition import Report
from train.report.figures import draw_figures
from train.report.folders import Folder, find_folders
from train.report.read import ReportedRun, group_runs, read_run
from train.rules import neutral_names
from train.runs import documents, results
from train.runs.guard import open_folder
from train.runs.results import Draw
from train.trials import HYPERPARAMETERS, grid, trial_config

REPORTS: dict[str, Report] = {
    name: experiment.report
    for name, experiment in EXPERIMENTS.items()
    if experiment.report
}
# The first line of a report is one of these titles.
_DIGITS, _STUDIES, _TRIALS = "Handwritten digits", "Studies", "Trials of the sweeps"
_TITLES = {report.title for report in REPORTS.values()} | {_DIGITS, _STUDIES, _TRIALS}
SWEEPS = {
    f"sweep {name}": experiment
    for name, experiment in EXPERIMENTS.items()
    if experiment.sweep
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Finished runs of recsys, image or language beside the papers' numbers.

    Reads every finished run below the folders and groups runs that differ only in their
    seeds. Writes table.md, the figures for which there are runs, and for sweeps
    rates.md with the best rates where a fit can find them, else sweeps.md with the
    trials. For runs on digits and studies it writes their text again.
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="")
    ]
    """Folders of runs, or folders around them, or packed files. Without --out, runs are
    below the folder runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("report")
    """Folder for the tables and the figures."""
    pack: Annotated[Path | None, tyro.conf.arg(metavar="FILE.jsonl")] = None
    """Pack the runs into this file instead. `report` reads the file like the folders
    that it was made of."""


def files_of(experiment: str) -> tuple[str, ...] | None:
    """The files that a report needs from a folder; None if it does not report it."""
    if experiment in REPORTS:
        return "metrics.jsonl", "summary.json", REPORTS[experiment].document
    known = dict.fromkeys(SWEEPS, ("trials.jsonl",))
    known |= {"digits": digits.FILES, "study": ("findings.md",)}
    return known.get(experiment)


def find(paths: Sequence[Path]) -> tuple[list[Folder], list[str]]:
    """Reads all folders of runs, sweeps and studies at and below some paths.

    Args:
        paths: Folders, packed files, or paths inside of packed files.

    Returns:
        The folders that are complete, each once, and one line for each other one.

    Raises:
        InputError: If a path does not exist, a file is damaged, or nothing is complete.
    """
    complete: dict[Path, Folder] = {}
    unfinished = {}
    for root in paths:
        if packed := pack.split(root):
            found = pack.read_packed(*packed, REPORTS)
        else:
            require(
                os.path.isdir(root), f"no folder {root}; name a run or a folder of runs"
            )
            found = find_folders(root, files_of)
        for folder in found:
            if missing := folder.missing(*(files_of(folder.experiment) or ())):
                line = f"{folder.name}: not finished (no {missing})"
                unfinished[folder.place] = line
            else:
                check_options(folder)
                check_content(folder)
                complete[folder.place] = folder
    places = ", ".join(map(str, paths))
    require(
        bool(complete),
        f"no finished run below {places}; run recsys, image or language first",
    )
    return list(complete.values()), list(unfinished.values())


def check_options(folder: Folder) -> None:
    """Raises an `InputError` unless the options of a folder are those of a command."""
    name = folder.experiment
    if name in SWEEPS:
        kind = sweep.sweep_of(SWEEPS[name]).Options
    elif name in EXPERIMENTS:
        kind = EXPERIMENTS[name].Options
    else:  # A study.
        valid = isinstance(folder.options.get("name"), str)
        folder.check(valid, "config.json", "no valid name")
        return
    recorded.read(kind, folder.options, folder.place)


def check_content(folder: Folder) -> None:
    """Raises an `InputError` if the results of a folder are damaged."""
    if folder.experiment in REPORTS:
        read_run(REPORTS[folder.experiment], folder)
    elif folder.experiment in SWEEPS:
        _trials(folder)
    elif folder.experiment == "digits":
        with documents.as_written(folder.place):
            digits.check(folder.files)
    else:
        _study(folder)


def run(config: Config) -> None:
    """Prints the tables and writes them with the figures, or packs the runs."""
    require(
        bool(config.runs),
        "name folders of runs; without --out, runs are below the folder runs, and"
        " python -m train report runs reports them all",
    )
    out = config.out
    folders, unfinished = find(config.runs)
    if config.pack:
        suffix = config.pack.suffix
        require(suffix == ".jsonl", f"--pack must end in .jsonl; got {config.pack}")
        pack.write_packed(config.pack, folders, REPORTS)
        print(f"Packed {len(folders)} folders into {config.pack}")
        return
    texts, figures = texts_and_figures(folders, unfinished)
    adopt = partial(_refuse_other_results, out, [*texts, *figures])
    with open_folder(out, _kept(config), about=dict, adopt=adopt):
        results.write(out, texts, figures)
    print(f"Written to {out}: {', '.join([*texts, *figures])}")


def _refuse_other_results(folder: Path, names: Sequence[str]) -> None:
    """Raises an error if a file would be replaced in a folder without a report.

    Args:
        folder: A folder of other files.
        names: Names of the files that the report writes.
    """
    ours = False
    for name in ("table.md", "sweeps.md"):
        if os.path.isfile(folder / name):
            first = documents.read_text(folder / name).partition("\n")[0]
            ours |= first.removeprefix("# ") in _TITLES
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not ours:
        raise InputError(
            f"{folder} has a {there[0]} that is not of a report; choose another --out"
        )


def _kept(config: Config) -> dict[str, Any]:
    """What a folder keeps of the runs that it reports: their paths from there."""
    out = Path(os.path.realpath(config.out))
    runs = [os.path.relpath(os.path.realpath(path), out) for path in config.runs]
    return {"experiment": "report", "runs": runs}


def texts_and_figures(
    folders: Sequence[Folder], unfinished: Sequence[str] = ()
) -> tuple[dict[str, str], dict[str, Draw]]:
    """The content of a report.

    Args:
        folders: Complete folders.
        unfinished: One line for each folder that is not complete.

    Returns:
        Texts, and functions that draw the figures, each by file name.

    Raises:
        InputError: If a run is damaged, or there twice.
    """
    by_experiment: dict[str, list[Folder]] = {}
    for folder in folders:
        by_experiment.setdefault(folder.experiment, []).append(folder)
    parts, figures = [], {}
    for experiment, members in sorted(by_experiment.items()):
        if experiment in REPORTS:
            report = REPORTS[experiment]
            runs = [read_run(report, folder) for folder in members]
            sweeps = by_experiment.get(f"sweep {experiment}", [])
            stops = stopping.epochs(EXPERIMENTS[experiment], sweeps)
            text, drawn = _compare(report, runs, stops)
            parts += text
            figures |= drawn
    if "digits" in by_experiment:
        parts.append(f"# {_DIGITS}")
    for n, folder in enumerate(by_experiment.get("digits", [])):
        parts.append(digits.text(folder.files))
        name = f"curves-{n}.png" if n else "curves.png"
        figures[name] = partial(digits.draw, files=folder.files, options=folder.options)
    if studies := by_experiment.get("study"):
        parts += [f"# {_STUDIES}", *map(_study, studies)]
    if unfinished:
        lines = "\n".join(f"- {line}" for line in unfinished)
        parts += ["## Unfinished runs, not counted", lines]
    texts = {"table.md": "\n\n".join(parts) + "\n"} if parts else {}
    swept = [folder for folder in folders if folder.experiment in SWEEPS]
    found, fitted = _losses_at_rates(swept)
    if trials := [_trials(folder) for folder in swept if folder not in fitted]:
        texts["sweeps.md"] = "\n\n".join([f"# {_TRIALS}", *trials]) + "\n"
    if found:
        by_data = rates.by_text(found)
        sections = []
        for name, members in by_data.items():
            sections.append(drift.section(name, members))
            sections += comparisons.sections(members)
        head = ["# Best learning rates", textwrap.fill(drift.NOTE, 88)]
        texts["rates.md"] = "\n\n".join([*head, *sections]) + "\n"
        for data, members in by_data.items():
            place = f"-{data}" if len(by_data) > 1 else ""
            if drawn := drift.figure(members):
                figures[f"rates{place}.png"] = partial(png.save, figure=drawn)
            if drawn := comparisons.figure(members):
                figures[f"comparisons{place}.png"] = partial(png.save, figure=drawn)
    return texts, figures


def _compare(
    report: Report, runs: Sequence[ReportedRun], stops: Mapping[str, int]
) -> tuple[list[str], dict[str, Draw]]:
    """Paragraphs and figures of one experiment."""
    groups = group_runs(runs)
    test = [g for g in groups if not g.options["validation"]]
    validation = [g for g in groups if g.options["validation"]]
    notes = list(report.notes)
    notes += [stopping.NOTE.replace("epoch", report.unit)] * bool(stops)
    parts = [f"# {report.title}", *(textwrap.fill(text, 88) for text in notes)]
    figures, missing = draw_figures(test) if test else ({}, [])
    if test:
        parts.append(tables.section(report.test.measured.capitalize(), test, stops))
        links = [f"![{Path(name).stem}]({name})" for name in figures]
        if links or missing:
            parts += ["## Figures", *links, *missing]
    if validation:
        title = report.validation.measured.capitalize()
        parts.append(tables.section(title, validation, stops))
    return parts, {name: partial(png.save, figure=f) for name, f in figures.items()}


def _study(folder: Folder) -> str:
    """The findings of a study, with its command and what it ran on."""
    options = folder.options
    command = f"python -m train study {options['name']}"
    command += " --data-dir FOLDER" if options.get("real_data") else ""
    command += " --full" if options.get("full") else ""
    with documents.as_written(folder.place):
        versions = folder.environment.get("versions", {})
        processor: dict[str, Any] = folder.environment.get("processor", {})
        where = ", ".join(f"{k} {v}" for k, v in versions.items())
        where += f"; {processor.get('name')}, {processor.get('cores')} cores"
    findings = folder.files["findings.md"].rstrip("\n")
    return f"## {folder.name.name}\n\n`{command}`; {where}\n\n{findings}"


def _losses_at_rates(
    folders: Sequence[Folder],
) -> tuple[list[rates.Trials], list[Folder]]:
    """The trials of sweeps that are compared by a loss, for `rates`.

    Sweeps that differ in nothing but what they tried count as one.

    Returns:
        The trials, and the folders that they are from.
    """
    tasks: dict[str, tuple[dict[str, Any], list[rates.Loss], list[Folder]]] = {}
    for folder in folders:
        experiment = SWEEPS[folder.experiment]
        kind = sweep.sweep_of(experiment)
        if not kind.lowest:
            continue
        config = recorded.read(kind.Options, folder.options, folder.place)
        with documents.as_written(folder.place / "trials.jsonl"):
            first = grid(experiment, config, config.optimizers[0])[0]
            full = trial_config(experiment, config, config.optimizers[0], first)
            tried = {*HYPERPARAMETERS, *neutral_names(full), "seed"}
            task = {k: v for k, v in vars(full).items() if k not in tried}
            found = rates.read(folder.files["trials.jsonl"], kind.metrics[0])
        _, losses, members = tasks.setdefault(repr(task), (vars(full), [], []))
        losses += found
        members.append(folder)
    trials, fitted = [], []
    for options, losses, members in tasks.values():
        found = rates.collect(options, losses)
        trials += found
        fitted += members if found else []
    return rates.named(trials), fitted


def _trials(folder: Folder) -> str:
    """The trials of a sweep, as the sweep itself prints them."""
    experiment = SWEEPS[folder.experiment]
    kind = sweep.sweep_of(experiment).Options
    config = recorded.read(kind, folder.options, folder.place)
    with documents.as_written(folder.place / "trials.jsonl"):
        table = sweep.table(experiment, config, folder.files["trials.jsonl"])
    return f"## {folder.name}\n\n{table}"
