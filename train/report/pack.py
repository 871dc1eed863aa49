"""Packed files: many runs as rows of one file, from which `report` draws them again.

``NAME.jsonl`` has one row per run, sweep, trial or study, and ``NAME-curves.jsonl``
beside it one row per run with its metrics against the epochs. A path inside of a packed
file, such as ``NAME.jsonl/sweep-1``, stands for the folder that was packed.

Options are kept as differences. The first rows, ``"kind": "defaults"``, hold the value
that most rows of an experiment have, and rows ``"kind": "environment"`` hold versions
and hardware by number. Each experiment's `Report` packs the outcomes of single users or
images. Metrics that no figure shows are kept for the last evaluation only. Everything
else that a report needs is kept whole.
"""

import collections
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.digits import report as digits
from train.errors import InputError
from train.report.definition import Report
from train.report.folders import Folder
from train.runs import documents

Row = dict[str, Any]


def split(path: Path) -> tuple[Path, Path] | None:
    """A packed file and the path inside of it, or None for any other path."""
    for file in (path, *path.parents):
        if file.suffix == ".jsonl" and os.path.isfile(file):
            return file, path.relative_to(file)
    return None


def curves_file(file: Path) -> Path:
    """The file of curves beside a packed file."""
    return file.with_name(f"{file.stem}-curves.jsonl")


# ------------------------------------------------------------------------- writing


def write_packed(
    file: Path, folders: Sequence[Folder], reports: Mapping[str, Report]
) -> None:
    """Writes the folders into a packed file and its file of curves.

    Args:
        file: Path of the packed file; it is replaced.
        folders: Folders of runs, sweeps, studies and digits, with different names.
        reports: How the runs of each experiment are reported.

    Raises:
        InputError: If two folders have one name, the file cannot be written, or there
            is one that is no packed file.
    """
    names = collections.Counter(folder.name for folder in folders)
    twice = [str(name) for name, count in names.items() if count > 1]
    if twice:
        raise InputError(f"two folders are named {twice[0]}; pack the one around them")
    _refuse_other_content(file, "kind")
    _refuse_other_content(curves_file(file), "name")
    environments: list[Row] = []
    for folder in folders:
        if folder.environment not in environments:
            environments.append(folder.environment)
    defaults = _defaults(folders)
    rows: list[Row] = [
        {"kind": "defaults", "experiment": name, "options": options}
        for name, options in defaults.items()
    ]
    rows += [
        {"kind": "environment", "environment": number} | environment
        for number, environment in enumerate(environments)
    ]
    curves: list[Row] = []
    for folder in folders:
        name = folder.name.as_posix()
        common = defaults[folder.experiment]
        options = folder.options
        row: Row = {
            "kind": _kind(folder.experiment),
            "name": name,
            "experiment": folder.experiment,
            "environment": environments.index(folder.environment),
            "options": {
                key: options[key]
                for key, value in common.items()
                # Compared as text, since 1, 1.0 and True are equal.
                if key in options and json.dumps(options[key]) != json.dumps(value)
            },
        }
        if absent := sorted(common.keys() - options.keys()):
            row["absent"] = absent
        if folder.protocol:
            row["protocol"] = folder.protocol
        with documents.as_written(folder.place):
            content, trials, curve = _pack(folder, reports)
        rows.append(row | content)
        rows += [{"kind": "trial", "sweep": name} | trial for trial in trials]
        curves += [{"name": name} | curve] if curve else []
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((curves_file(file), curves), (file, rows)):
            part = path.with_name(path.name + ".part")
            part.write_text("".join(map(_line, content)), encoding="utf-8")
            os.replace(part, path)
        if not curves:
            curves_file(file).unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {file} ({error.strerror}); choose another --pack"
        ) from None


def _refuse_other_content(path: Path, key: str) -> None:
    """Raises an error if there is a file whose rows do not begin with a key of ours."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        first = lines.readline()
    if first and not first.startswith(b'{"%s":' % key.encode()):
        raise InputError(
            f"{path} is there and is no packed file; choose another --pack"
        )


def _line(row: Row) -> str:
    return json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"


def _kind(experiment: str) -> str:
    if experiment.startswith("sweep "):
        return "sweep"
    return experiment if experiment in ("digits", "study") else "run"


def _defaults(folders: Iterable[Folder]) -> dict[str, Row]:
    """The most frequent value of each option, by experiment."""
    counts: dict[str, dict[str, collections.Counter]] = {}
    for folder in folders:
        options = counts.setdefault(folder.experiment, {})
        for name, value in folder.options.items():
            options.setdefault(name, collections.Counter())[json.dumps(value)] += 1
    return {
        experiment: {
            name: json.loads(values.most_common(1)[0][0])
            for name, values in options.items()
        }
        for experiment, options in counts.items()
    }


def _pack(
    folder: Folder, reports: Mapping[str, Report]
) -> tuple[Row, list[Row], Row | None]:
    """The row of a folder, the rows of its trials if it is a sweep, and its curve."""
    files, kind = folder.files, _kind(folder.experiment)
    if kind == "sweep":
        return {}, files["trials.jsonl"], None
    if kind == "study":
        return {"findings": files["findings.md"]}, [], None
    if kind == "digits":
        content, curve = digits.pack(files)
        return content, [], curve
    report, rows = reports[folder.experiment], files["metrics.jsonl"]
    summary = {k: v for k, v in files["summary.json"].items() if k != "last"}
    content = {
        "summary": summary,
        "last": rows[-1],
        "cases": report.pack(files[report.document]),
    }
    columns = ("epoch", *report.curve)
    return content, [], {key: [row[key] for row in rows] for key in columns}


# ------------------------------------------------------------------------- reading


def read_packed(
    file: Path, inside: Path, reports: Mapping[str, Report]
) -> list[Folder]:
    """The folders that were packed into a file.

    Args:
        file: Path of the packed file.
        inside: Start of the names of the folders to read; ``.`` for all.
        reports: How the runs of each experiment are reported.

    Raises:
        InputError: If the file is damaged, or has nothing of that name.
    """
    rows = documents.read_rows(file)
    beside = curves_file(file)
    curved = documents.read_rows(beside) if beside.exists() else []
    by_kind: dict[str, list[Row]] = {}
    folders = []
    with documents.as_written(file):
        curves = {row["name"]: row for row in curved}
        for row in rows:
            by_kind.setdefault(row["kind"], []).append(row)
        defaults = {
            row["experiment"]: row["options"] for row in by_kind.get("defaults", [])
        }
        environments = {
            row["environment"]: {
                k: v for k, v in row.items() if k not in ("kind", "environment")
            }
            for row in by_kind.get("environment", [])
        }
        trials: dict[str, list[Row]] = {}
        for row in by_kind.get("trial", []):
            plain = {k: v for k, v in row.items() if k not in ("kind", "sweep")}
            trials.setdefault(row["sweep"], []).append(plain)
        for row in rows:
            if "name" not in row or not Path(row["name"]).is_relative_to(inside):
                continue
            experiment, name = row["experiment"], row["name"]
            options = defaults[experiment] | row["options"]
            options = {k: options[k] for k in options if k not in row.get("absent", ())}
            config = {"config": options} | environments[row["environment"]]
            files: dict[str, Any] = {"config.json": config}
            if row["kind"] == "sweep":
                files["trials.jsonl"] = trials.get(name, [])
            elif row["kind"] == "study":
                files["findings.md"] = row["findings"]
            elif row["kind"] == "digits":
                files |= digits.unpack(row, curves[name])
            else:
                files |= _unpack_run(reports[experiment], row, curves[name])
            folders.append(Folder(file / name, Path(name), files, row.get("protocol")))
    if not folders:
        raise InputError(f"{file} has nothing named {inside}")
    return folders


def _unpack_run(report: Report, row: Row, curve: Row) -> dict[str, Any]:
    columns = {key: curve[key] for key in ("epoch", *report.curve)}
    rows = [
        dict(zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]
    return {
        "metrics.jsonl": [*rows[:-1], row["last"]],
        "summary.json": row["summary"] | {"last": row["last"]},
        report.document: report.unpack(row["cases"]),
    }
