"""Damaged folders of runs, and paths that lead nowhere, for `report` and `evaluate`."""

import json

import pytest

from tests.support import run_folders
from tests.support import tiny_recommenders as tiny
from train.__main__ import main


def change(name, **values):
    def apply(folder):
        document = json.loads((folder / name).read_text())
        (document["config"] if name == "config.json" else document).update(values)
        (folder / name).write_text(json.dumps(document))

    return apply


def overwrite(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGES = {
    "config null": overwrite("config.json", "null"),
    "config list": overwrite("config.json", "[]"),
    "config text": overwrite("config.json", '"recsys"'),
    "config nest": overwrite("config.json", "[" * 100_000),
    "negative batch": change("config.json", batch_size=-5),
    "unknown data": change("config.json", dataset="netflix"),
    "no loss": change("config.json", loss=None),
    "unknown option": change("config.json", colour="red"),
    "summary empty": overwrite("summary.json", ""),
    "summary without keys": overwrite("summary.json", "{}"),
    "summary list": overwrite("summary.json", "[]"),
    "rows of lists": overwrite("metrics.jsonl", "[1]\n"),
    "rows without metrics": overwrite("metrics.jsonl", '{"epoch": 300}\n'),
    "no rows": overwrite("metrics.jsonl", ""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_a_damaged_folder_is_refused_in_one_line(command, damage, tmp_path, capsys):
    folder = tmp_path / "runs" / "0"
    run_folders.write_run(folder, run_folders.level(260))
    damage(folder)
    data = tiny.write_ratings(tmp_path / "data") if command == "evaluate" else None
    more = [f"--data-dir={data}"] if data else [f"--out={tmp_path / 'report'}"]
    (folder / "checkpoints").mkdir()
    assert main([command, str(folder), *more]) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and str(folder) in error
    assert not (tmp_path / "report").exists()


ROW = {"optimizer": "adam", "trial": 0, "seed": 0, "epoch": 1}


def digits_grid(change):
    """A damaged summary of `run_folders.write_digits`."""

    def apply(folder):
        document = json.loads((folder / "summary.json").read_text())
        change(document["adam"])
        (folder / "summary.json").write_text(json.dumps(document))

    return apply


DIGITS_DAMAGES = {
    "config null": overwrite("config.json", "null"),
    "batch 0": change("config.json", batch_size=0),
    "large batch": change("config.json", batch_size=5_000),
    "summary list": overwrite("summary.json", "[]"),
    "no optimizer": overwrite("summary.json", "{}"),
    "summary of another form": change("summary.json", adam=[1]),
    "no trials": digits_grid(lambda grid: grid.pop("trials")),
    "more trials": digits_grid(lambda grid: grid["trials"].append(grid["trials"][0])),
    "unequal seeds": digits_grid(lambda grid: grid["trials"][0]["diverged_step"].pop()),
    "time of a text": digits_grid(lambda grid: grid.update(seconds="long")),
    "no rows": overwrite("metrics.jsonl", ""),
    "no row": overwrite("metrics.jsonl", "{}\n"),
    "rows of lists": overwrite("metrics.jsonl", "[1]\n"),
    "rows without metrics": overwrite("metrics.jsonl", json.dumps(ROW) + "\n"),
    "no paragraphs": overwrite("table.md", "mine"),
}


@pytest.mark.parametrize("damage", DIGITS_DAMAGES.values(), ids=DIGITS_DAMAGES)
def test_a_damaged_grid_of_digits_is_refused_in_one_line(damage, tmp_path, capsys):
    folder = run_folders.write_digits(tmp_path / "runs" / "0")
    damage(folder)
    for option in (f"--out={tmp_path / 'report'}", f"--pack={tmp_path / 'p.jsonl'}"):
        assert main(["report", str(folder), option]) == 2
        output, error = capsys.readouterr()
        assert output == "" and error.count("\n") == 1 and str(folder) in error
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_seeds_of_one_setting_have_as_many_cases(tmp_path, capsys):
    run_folders.write_run(tmp_path / "runs" / "0", run_folders.level(260))
    run_folders.write_run(tmp_path / "runs" / "1", run_folders.level(260, 399), seed=1)
    assert main(["report", str(tmp_path / "runs"), f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "hold 400 and 399 users; leave one of them out" in error
    # With other options they may differ, and then there is no difference to report.
    run_folders.write_run(
        tmp_path / "two" / "0", run_folders.level(260, 399), **run_folders.BASE
    )
    text = run_folders.make_report(
        tmp_path, tmp_path / "runs" / "0", tmp_path / "two" / "0"
    )
    assert "no run of the base is alike" in text


def test_paths_of_a_report_that_lead_nowhere(tmp_path, capsys):
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for path in (circle, tmp_path / ("x" * 300), tmp_path / "gone"):
        assert main(["report", str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: no folder {path}; name")
        assert main(["evaluate", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [circle]
