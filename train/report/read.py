"""Finished runs, read back from their files and put into groups."""

import dataclasses
import json
import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from train.errors import InputError
from train.report import papers
from train.report.definition import Report
from train.report.folders import Folder
from train.runs import documents
from train.statistics import MeanStd, bootstrap_interval, mean_std

FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """One run, finished or diverged.

    Attributes:
        report: How its experiment is reported.
        name: Path of the folder, relative to the one that was asked for.
        options: Options by name, without the seed.
        seed: Seed of the run.
        outcome: ``finished`` or ``diverged at step n``.
        device: Kind of device that it ran on.
        seconds: Seconds of training and evaluation.
        rows: Metrics by name, one row per evaluation; NaN where a number was not
            finite.
        best: Highest metric of all evaluations, 0 to 1.
        switched_at: Step of the switch; -1 where there was none.
        values: float64 ``[cases]``: the metric of each case (a user, an image) at the
            last epoch.
        draws: Number of draws of candidates that each value is a mean over.
        chosen_on: Data by which its sweep chose the hyperparameters; empty without one.
    """

    report: Report
    name: Path
    options: dict[str, Any]
    seed: int
    outcome: str
    device: str
    seconds: float
    rows: list[dict[str, float]]
    best: float
    switched_at: int
    values: np.ndarray
    draws: int
    chosen_on: str

    @property
    def finished(self) -> bool:
        return self.outcome == FINISHED


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone.

    Attributes:
        options: Options by name, without the seed.
        runs: Runs by increasing seed.
    """

    options: dict[str, Any]
    runs: list[ReportedRun]

    @property
    def finished(self) -> list[ReportedRun]:
        return [run for run in self.runs if run.finished]

    @property
    def method(self) -> str:
        """The optimizer and what it was combined with."""
        name, remedy = self.options["optimizer"], papers.tried_remedy(self.options)
        # The name of a -bounded optimizer already contains this remedy.
        return f"{name} + {remedy}" if remedy not in ("", "bounded") else name

    @property
    def report(self) -> Report:
        return self.runs[0].report

    def last(self, metric: str | None = None) -> MeanStd:
        """A metric at the last epoch, over the seeds that finished.

        Args:
            metric: Name of the metric; by default the one that counts.
        """
        metric = metric or self.report.metric
        return mean_std(np.array([run.rows[-1][metric] for run in self.finished]))

    def at(self, epoch: int) -> MeanStd:
        """The metric at the last evaluation up to an epoch, over those seeds."""
        metric = self.report.metric
        found = []
        for run in self.finished:
            done = [row for row in run.rows if row["epoch"] <= epoch] or run.rows[:1]
            found.append(done[-1][metric])
        return mean_std(np.array(found))

    @cached_property
    def values(self) -> np.ndarray:
        """The metric of each case, float64 ``[cases]``: mean over seeds and draws."""
        return np.mean([run.values for run in self.finished], axis=0)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the metric over the cases."""
        return bootstrap_interval(self.values)

    def divergence(self) -> str:
        """``diverged at step n (seed s)`` for each such run, empty if there is none."""
        return ", ".join(
            f"{run.outcome} (seed {run.seed})" for run in self.runs if not run.finished
        )


def group_runs(runs: Iterable[ReportedRun]) -> list[Group]:
    """Puts runs together that differ in their seeds alone.

    Args:
        runs: Runs of one experiment, in any order.

    Returns:
        The groups, by data set, batch size and optimizer.

    Raises:
        InputError: If two runs are the same, seed included, or runs that differ in
            their seeds alone do not have the same number of cases.
    """
    groups: dict[str, list[ReportedRun]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        members = groups.setdefault(json.dumps(run.options, sort_keys=True), [])
        if members and members[-1].seed == run.seed:
            raise InputError(
                f"{members[-1].name} and {run.name} hold the same run (seed {run.seed}"
                " and all options); leave one of them out"
            )
        members.append(run)
        first = next((member for member in members if member.finished), run)
        if run.finished and first.values.size != run.values.size:
            raise InputError(
                f"{first.name} and {run.name} differ in their seeds, and hold"
                f" {first.values.size:,} and {run.values.size:,} {run.report.cases};"
                " leave one of them out"
            )
    keys = ("dataset", "batch_size", "optimizer", "learning_rate", "free_epochs")
    return sorted(
        (Group(members[0].options, members) for members in groups.values()),
        key=lambda group: [group.options[key] for key in keys],
    )


def read_run(report: Report, folder: Folder) -> ReportedRun:
    """Checks the files of a run that ended, and takes the reported numbers from them.

    Args:
        report: How its experiment is reported.
        folder: Its files; none of them is missing.

    Raises:
        InputError: If a file is damaged.
    """
    with documents.as_written(folder.place):
        return _read_run(report, folder)


def _read_run(report: Report, folder: Folder) -> ReportedRun:
    options = dict(report.later) | folder.options
    for key, expected in report.options.items():
        valid = isinstance(options.get(key), expected)
        folder.check(valid, "config.json", f"no valid {key}")
    del options["experiment"]
    seed = options.pop("seed")
    rows = _read_rows(report, folder)
    file = "summary.json"
    summary = folder.fields(
        file, outcome=str, switched_at=int, best=dict, seconds=int | float
    )
    finished = summary["outcome"] == FINISHED
    diverged = summary["outcome"].startswith("diverged")
    known = finished or diverged
    folder.check(known, file, f"unknown outcome {summary['outcome']!r}")
    best = summary["best"].get(report.metric)
    best = math.nan if best is None else best
    valid = isinstance(best, int | float) and (math.isfinite(best) or not finished)
    folder.check(valid, file, f"best without a valid {report.metric}")
    file = report.document
    try:
        cases, draws = report.values(folder.files[file])
        values, draws = np.array(cases, np.float64), int(draws)
    except (TypeError, ValueError, KeyError, IndexError):
        values, draws = np.empty([0, 0]), 0
    folder.check(values.ndim == 1, file, f"no number for each of the {report.cases}")
    if finished:
        folder.check(values.size > 0, file, f"no {report.cases}")
        highest = math.inf if report.lowest else 1
        inside = bool(((values >= 0) & (values <= highest)).all())
        folder.check(inside, file, f"{report.metric} outside 0 to {highest:g}")
        # The file keeps four digits of each value.
        agrees = bool(abs(values.mean() - rows[-1][report.metric]) < 1e-3)
        reason = f"not the {report.score} of the last row of metrics.jsonl"
        folder.check(agrees, file, reason)
    return ReportedRun(
        report=report,
        name=folder.name,
        options=options,
        seed=seed,
        outcome=summary["outcome"],
        device=folder.environment.get("device", {}).get("kind", "unknown"),
        seconds=summary["seconds"],
        rows=rows,
        best=best,
        switched_at=summary["switched_at"],
        values=values,
        draws=draws,
        chosen_on=_chosen_on(report, folder.protocol),
    )


def _chosen_on(report: Report, protocol: str | None) -> str:
    """The data by which a sweep with this protocol chose the hyperparameters."""
    known = {"validation": report.validation, "papers": report.test}
    return known[protocol].measured if protocol in known else "not stated"


def _read_rows(report: Report, folder: Folder) -> list[dict[str, float]]:
    """The rows of metrics; those before the last need only the metrics of curves."""
    file, documents = "metrics.jsonl", folder.files["metrics.jsonl"]
    folder.check(bool(documents), file, "no rows")
    rows = []
    for number, document in enumerate(documents, start=1):
        row = {k: math.nan if v is None else v for k, v in document.items()}
        needed = {"epoch", *report.curve}
        needed |= report.metrics if number == len(documents) else set()
        valid = all(isinstance(value, int | float) for value in row.values())
        valid &= needed <= row.keys()
        folder.check(valid, file, f"row {number} is not a row of metrics")
        rows.append(row)
    return rows
