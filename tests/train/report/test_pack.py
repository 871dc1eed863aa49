"""Packed files: what comes back from them is what was packed."""

import json

import numpy as np
import pytest

from tests.support.run_folders import (
    BASE,
    ENVIRONMENT,
    OPTIONS,
    USERS,
    level,
    write_digits,
    write_image_run,
    write_run,
)
from train.errors import InputError
from train.images import report as images
from train.recommenders import report as recommenders
from train.report import command as report
from train.report import pack


def write_sweep(folder, optimizers=("adamw", "adam-lawn")):
    """A sweep of recommenders with two trials, and the final run of one of them."""
    folder.mkdir(parents=True)
    config = {key: OPTIONS[key] for key in ("dataset", "batch_size", "tower", "init")}
    config |= {"experiment": "sweep recsys", "protocol": "validation"}
    config |= {"optimizers": optimizers, "rates": [0.001], "decays": [0.0, 1.0]}
    config |= {"free": [20.0, 50.0]}
    document = {"config": config} | ENVIRONMENT
    (folder / "config.json").write_text(json.dumps(document))
    trials = [
        {"optimizer": name, "batch_size": 100_000, "learning_rate": 0.001, "seed": 0}
        | {key: value, "hr": hr, "ndcg": 0.3, "auc": 0.9, "outcome": "finished"}
        for name, key, value, hr in (
            ("adamw", "weight_decay", 0.0, 0.61),
            ("adamw", "weight_decay", 1.0, 0.62),
            ("adam-lawn", "free_epochs", 20.0, 0.63),
            ("adam-lawn", "free_epochs", 50.0, 0.6),
        )
    ]
    lines = "".join(json.dumps(trial) + "\n" for trial in trials)
    (folder / "trials.jsonl").write_text(lines)
    write_run(folder / "final" / "adam-lawn-seed0", level(260))


def write_study(folder):
    folder.mkdir(parents=True)
    config = {"experiment": "study", "name": "margins", "full": True, "real_data": True}
    (folder / "config.json").write_text(json.dumps({"config": config} | ENVIRONMENT))
    (folder / "findings.md").write_text("Found:\n\n| a | b |\n")


def write_all(runs):
    rng = np.random.default_rng(0)
    write_run(runs / "a", (rng.integers(6, size=USERS) / 5).tolist(), seed=3)
    write_run(runs / "b", level(240), **BASE)
    write_run(runs / "c", level(0), "diverged at step 9", optimizer="sgd", clip_norm=1)
    short = write_run(runs / "d", level(250), optimizer="lamb", label_smoothing=0)
    document = json.loads((short / "config.json").read_text())
    del document["config"]["eval_every"]  # An option that came later.
    (short / "config.json").write_text(json.dumps(document | ENVIRONMENT))
    write_image_run(runs / "e", 270)
    write_image_run(runs / "f", 271, batch_size=4_000)
    write_sweep(runs / "sweep")
    write_digits(runs / "digits")
    write_study(runs / "margins")


def make(out, *paths):
    """The files of a report, by name."""
    report.run(report.Config(paths, out))
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    del files["config.json"]  # It names the runs.
    return files


def test_a_packed_file_gives_the_same_report_to_the_byte(tmp_path):
    write_all(tmp_path / "runs")
    packed = tmp_path / "packed.jsonl"
    report.run(report.Config((tmp_path / "runs",), pack=packed))
    expected = make(tmp_path / "from-folders", tmp_path / "runs")
    assert expected.keys() >= {"table.md", "sweeps.md", "curves.png"}
    assert make(tmp_path / "from-packed", packed) == expected
    text = expected["sweeps.md"].decode()
    assert text.count("## runs/sweep") == 1 and "rate 0.001, free 20" in text
    table = expected["table.md"].decode()
    assert "`python -m train study margins --data-dir FOLDER --full`; jax 1.0" in table
    assert "What it is.\n\n| optimizer |" in table and "\n\nNotes.\n\n" in table


def test_nothing_that_a_report_needs_is_lost(tmp_path):
    write_all(tmp_path / "runs")
    packed = tmp_path / "packed.jsonl"
    report.run(report.Config((tmp_path / "runs",), pack=packed))
    folders = {f.name: f for f in report.find([tmp_path / "runs"])[0]}
    found = {f.name: f for f in report.find([packed])[0]}
    assert found.keys() == folders.keys() and len(found) == 10
    for name, folder in folders.items():
        assert found[name].files.keys() == folder.files.keys()
        assert found[name].protocol == folder.protocol
        assert found[name].options == folder.options
        kinds = {key: type(value) for key, value in folder.options.items()}
        assert {k: type(v) for k, v in found[name].options.items()} == kinds
        assert found[name].environment == folder.environment
        for file in ("hits.json", "errors.json", "trials.jsonl", "findings.md"):
            assert found[name].files.get(file) == folder.files.get(file)
        if folder.experiment in report.REPORTS:
            kept, rows = (x.files["metrics.jsonl"] for x in (found[name], folder))
            assert kept[-1] == rows[-1] and len(kept) == len(rows)
            curve = ("epoch", *report.REPORTS[folder.experiment].curve)
            for row, thinned in zip(rows, kept, strict=True):
                assert {key: thinned[key] for key in curve} == {
                    k: row[k] for k in curve
                }
            summary = folder.files["summary.json"]
            assert found[name].files["summary.json"].items() >= summary.items()
    again = tmp_path / "again.jsonl"
    report.run(report.Config((packed,), pack=again))
    for file in (packed, pack.curves_file(packed)):
        other = again if file == packed else pack.curves_file(again)
        assert file.read_bytes() == other.read_bytes()


def test_rows_hold_what_differs(tmp_path):
    write_all(tmp_path / "runs")
    packed = tmp_path / "packed.jsonl"
    report.run(report.Config((tmp_path / "runs",), pack=packed))
    rows = [json.loads(line) for line in packed.read_text().splitlines()]
    (run,) = [row for row in rows if row.get("name") == "runs/a"]
    assert run["options"] == {"seed": 3}
    (short,) = [row for row in rows if row.get("name") == "runs/d"]
    assert short["absent"] == ["eval_every"] and short["options"]["optimizer"] == "lamb"
    assert len([row for row in rows if row["kind"] == "environment"]) == 2
    assert len([row for row in rows if row["kind"] == "trial"]) == 4


def test_a_path_inside_of_a_packed_file_is_a_part_of_it(tmp_path):
    write_all(tmp_path / "runs")
    packed = tmp_path / "packed.jsonl"
    report.run(report.Config((tmp_path / "runs",), pack=packed))
    final = packed / "runs" / "sweep" / "final"
    folders, _ = report.find([final, packed / "runs" / "a"])
    assert [f.name.name for f in folders] == ["adam-lawn-seed0", "a"]
    assert folders[0].protocol == "validation"
    with pytest.raises(InputError, match="packed.jsonl has nothing named runs/sw$"):
        report.find([packed / "runs" / "sw"])


@pytest.mark.parametrize("draws", [1, 5, 9, 10, 60, 61, 62, 200])
def test_hits_come_back_exactly(draws):
    rng = np.random.default_rng(draws)
    hits = [round(x, 4) for x in (rng.integers(draws + 1, size=500) / draws).tolist()]
    document = {"draws": draws, "hr": hits}
    row = json.loads(json.dumps(recommenders.pack(document)))
    assert recommenders.unpack(row) == document
    assert ("users" in row) == (len(set(hits)) <= 62)


@pytest.mark.parametrize("images_", [1, 7, 8, 9, 1000])
def test_errors_come_back_exactly(images_):
    rng = np.random.default_rng(images_)
    for share in (0, 0.3, 1):
        wrong = np.flatnonzero(rng.random(images_) < share).tolist()
        document = {"images": images_, "wrong": wrong}
        row = json.loads(json.dumps(images.pack(document)))
        assert images.unpack(row) == document
        assert len(row["wrong"]) <= 4 * (images_ / 24 + 1)


def test_bad_input_is_one_line(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "0", level(260))
    packed = tmp_path / "packed.jsonl"
    with pytest.raises(InputError, match="--pack must end in .jsonl; got .*packed"):
        report.run(report.Config((runs,), pack=tmp_path / "packed"))
    damaged = write_run(tmp_path / "damaged" / "0", level(260))
    (damaged / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(InputError, match="metrics.jsonl: row 1 is not a row of metric"):
        report.run(report.Config((tmp_path / "damaged",), pack=packed))
    write_run(tmp_path / "other" / "runs" / "0", level(261), seed=1)
    with pytest.raises(InputError, match="two folders are named runs/0; pack the one"):
        both = (runs, tmp_path / "other" / "runs")
        report.run(report.Config(both, pack=packed))
    assert not packed.exists()
    own = runs / "0" / "metrics.jsonl"
    beside = pack.curves_file(packed)
    beside.write_text("Somebody's data\n")
    for target, file in ((own, own), (packed, beside)):
        before = file.read_bytes()
        with pytest.raises(InputError, match="is there and is no packed file"):
            report.run(report.Config((runs,), pack=target))
        assert file.read_bytes() == before
    beside.unlink()
    report.run(report.Config((runs,), pack=packed))
    lines = packed.read_text().splitlines()
    damages = {
        "not as written .KeyError": "\n".join(lines[1:]),
        "row 3 is not": "\n".join([*lines[:-1], lines[-1][:-9]]),
        "packed.jsonl/runs/0/hits.json: not the HR@10": "\n".join(
            [*lines[:-1], lines[-1].replace("11111", "00000")]
        ),
    }
    for message, text in damages.items():
        assert text != "\n".join(lines)
        packed.write_text(text)
        with pytest.raises(InputError, match=message) as error:
            make(tmp_path / "report", packed)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "report").exists()
