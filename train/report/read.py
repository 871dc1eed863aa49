"""Finished runs, read back from their folders and put into groups."""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from train import InputError, require
from train.report import papers, reported
from train.report.reported import Reported
from train.statistics import MeanStd, bootstrap_interval, mean_std

FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, finished or diverged.

    Attributes:
        kind: What a report needs to know about its experiment.
        name: The folder, from the one that was asked for on.
        options: By name, without the seed.
        seed: Of the run.
        outcome: ``finished`` or ``diverged at step n``.
        device: Kind of device it ran on.
        seconds: Of training and evaluation.
        rows: One per evaluation, by metric; NaN where a number was not finite.
        best: The highest metric of all evaluations, 0 to 1.
        switched_at: Step of the switch; -1 where there was none.
        values: float64 ``[cases]``: the metric of each case (a user, an image) at the
            last epoch.
        draws: Of the candidates that each is a mean over.
        chosen_on: What its sweep chose the hyperparameters by, where it has one.
    """

    kind: Reported
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
        options: By name, without the seed.
        runs: By increasing seed.
    """

    options: dict[str, Any]
    runs: list[Run]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def method(self) -> str:
        """The optimizer and what it was combined with."""
        name, remedy = self.options["optimizer"], papers.tried_remedy(self.options)
        # The optimizer's name says it already.
        return f"{name} + {remedy}" if remedy not in ("", "bounded") else name

    @property
    def kind(self) -> Reported:
        return self.runs[0].kind

    def last(self, metric: str | None = None) -> MeanStd:
        """A metric (by default the one that counts) at the last epoch, over the seeds
        that finished."""
        metric = metric or self.kind.metric
        return mean_std(np.array([run.rows[-1][metric] for run in self.finished]))

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


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads all runs below some folders.

    Args:
        folders: Each a run or a folder of runs, at any depth. The trials of a sweep,
            which its own table has, count only where they are named.

    Returns:
        The runs that ended, and one line for each that did not.

    Raises:
        InputError: If there is no run that ended, one is damaged, or two folders hold
            the same one.
    """
    runs: dict[Path, Run] = {}
    unfinished = {}
    for root in folders:
        require(root.is_dir(), f"no folder {root}; name a run or a folder of runs")
        for path in sorted(root.resolve().rglob("config.json")):
            folder = path.parent
            below = folder.relative_to(root.resolve())
            if any(part.startswith(".") for part in below.parts):
                continue
            in_trials = below.parts[-2:-1] == ("trials",)
            if in_trials and (folder.parents[1] / "config.json").exists():
                continue  # The folder around it is the sweep's.
            config = _read_json(path)
            options = config.get("config") if isinstance(config, dict) else None
            experiment = options.get("experiment") if isinstance(options, dict) else ""
            if experiment not in reported.ALL:
                continue
            kind, name = reported.ALL[experiment], Path(root.resolve().name) / below
            files = ("metrics.jsonl", "summary.json", kind.document)
            missing = [file for file in files if not (folder / file).exists()]
            if missing:
                unfinished[folder] = f"{name}: not finished (no {', '.join(missing)})"
            else:
                runs[folder] = _read_run(kind, folder, name, config)
    places = ", ".join(map(str, folders))
    require(bool(runs), f"no finished run below {places}; run recsys or image first")
    return list(runs.values()), list(unfinished.values())


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Puts runs together that differ in their seeds alone.

    Args:
        runs: Of one experiment, in any order.

    Returns:
        The groups, by data set, batch size and optimizer.

    Raises:
        InputError: If two runs are the same, seed included.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        members = groups.setdefault(json.dumps(run.options, sort_keys=True), [])
        if members and members[-1].seed == run.seed:
            raise InputError(
                f"{members[-1].name} and {run.name} hold the same run (seed {run.seed}"
                " and all options); leave one of them out"
            )
        members.append(run)
    keys = ("dataset", "batch_size", "optimizer", "learning_rate", "free_epochs")
    return sorted(
        (Group(members[0].options, members) for members in groups.values()),
        key=lambda group: [group.options[key] for key in keys],
    )


def _read_run(kind: Reported, folder: Path, name: Path, config: dict[str, Any]) -> Run:
    options = dict(config["config"])
    for key, expected in kind.options.items():
        valid = isinstance(options.get(key), expected)
        _check(valid, folder / "config.json", f"no valid {key}")
    del options["experiment"]
    seed = options.pop("seed")
    rows = _read_rows(folder / "metrics.jsonl", kind.metrics)
    path = folder / "summary.json"
    summary = _fields(
        path, outcome=str, switched_at=int, best=dict, seconds=int | float
    )
    finished = summary["outcome"] == FINISHED
    diverged = summary["outcome"].startswith("diverged")
    _check(finished or diverged, path, f"unknown outcome {summary['outcome']!r}")
    best = summary["best"].get(kind.metric)
    best = math.nan if best is None else best
    valid = isinstance(best, int | float) and (math.isfinite(best) or not finished)
    _check(valid, path, f"best without a valid {kind.metric}")
    path = folder / kind.document
    document = _read_json(path)
    try:
        cases, draws = kind.values(document)
        values, draws = np.array(cases, np.float64), int(draws)
    except (TypeError, ValueError, KeyError, IndexError):
        values, draws = np.empty([0, 0]), 0
    _check(values.ndim == 1, path, f"no number for each of the {kind.cases}")
    if finished:
        _check(values.size > 0, path, f"no {kind.cases}")
        inside = ((values >= 0) & (values <= 1)).all()
        _check(bool(inside), path, f"{kind.metric} outside 0 to 1")
        # Four digits of each value are kept.
        agrees = abs(values.mean() - rows[-1][kind.metric]) < 1e-3
        _check(
            bool(agrees), path, f"not the {kind.score} of the last row of metrics.jsonl"
        )
    device = config.get("device", {}).get("kind", "unknown")
    return Run(
        kind=kind,
        name=name,
        options=options,
        seed=seed,
        outcome=summary["outcome"],
        device=device,
        seconds=summary["seconds"],
        rows=rows,
        best=best,
        switched_at=summary["switched_at"],
        values=values,
        draws=draws,
        chosen_on=_chosen_on(folder, kind),
    )


def _chosen_on(folder: Path, kind: Reported) -> str:
    """The protocol of the sweep around a final run, ``SWEEP/final/RUN``."""
    path = folder.parent.parent / "config.json"
    if folder.parent.name != "final" or not path.exists():
        return "not stated"
    options = _fields(path, config=dict)["config"]
    items = dict(zip(("validation", "papers"), kind.items, strict=True))
    return items.get(options.get("protocol"), "not stated")


def _read_rows(path: Path, metrics: frozenset[str]) -> list[dict[str, float]]:
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        try:
            row = {key: math.nan if v is None else v for key, v in _load(line).items()}
        except (ValueError, AttributeError):
            row = {}
        valid = all(isinstance(value, int | float) for value in row.values())
        valid &= metrics <= row.keys()
        _check(valid, path, f"row {number} is not a row of metrics")
        rows.append(row)
    _check(bool(rows), path, "no rows")
    return rows


def _fields(path: Path, **kinds: Any) -> dict[str, Any]:
    """The named entries of a JSON object, each of the type given."""
    document = _read_json(path)
    _check(isinstance(document, dict), path, "not a JSON object")
    for key, kind in kinds.items():
        _check(isinstance(document.get(key), kind), path, f"no valid {key}")
    return {key: document[key] for key in kinds}


def _read_json(path: Path) -> Any:
    try:
        return _load(_read_text(path))
    except ValueError as error:
        raise _malformed(path, f"not JSON ({error})") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _malformed(path, f"cannot be read ({error})") from None


def _load(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    return json.loads(text, parse_constant=refuse)


def _check(met: bool, path: Path, reason: str) -> None:
    if not met:
        raise _malformed(path, reason)


def _malformed(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: {reason}; run its command again or move the folder away"
    )
