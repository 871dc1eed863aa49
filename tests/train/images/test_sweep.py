"""Sweeps of image classifiers: trials on held-out images, final runs on all."""

import itertools
import json
from functools import partial

import pytest

from tests.support import image_files as images
from tests.support import interruptions as killed
from tests.support.asserts import close
from train import sweep
from train.__main__ import main
from train.devices import Devices
from train.errors import InputError
from train.images import experiment as image
from train.images import options as image_options

SWEEP = "sweep image --quiet --batch-size 16 --epochs 4 --warmup-epochs 2"
SWEEP += " --trial-epochs 2 --optimizers adam-lawn --rates 0.002 0.02 1e30 --free 1"
SWEEP += " --seeds 3 --checkpoint-minutes 0"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return images.write_binary(folder, images.some_tables("cifar10", count=12))


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "HELD_OUT", 12)  # Of the 60 images; 3 steps of 16 remain.
        patch.setattr(sweep, "Devices", partial(Devices, limit=1))
        command = [*SWEEP.split(), f"--data-dir={files}", f"--out={out}"]
        assert main(command) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def trials(folder):
    lines = (folder / "trials.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_best_trial_is_trained_in_full_on_all_images(folder):
    found = trials(folder)
    assert [row["learning_rate"] for row in found] == [0.002, 0.02, 1e30]
    for row in found[:2]:
        assert row["outcome"] == "finished" and row["free_epochs"] == 1
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["ece"] <= 1
        close(12 * row["accuracy"], round(12 * row["accuracy"]), 1e-6)
    assert found[2]["outcome"].startswith("diverged at step ")
    best = max(found[:2], key=lambda row: row["accuracy"])
    final = folder / "final" / "adam-lawn-seed3"
    assert [path.name for path in (folder / "final").iterdir()] == [final.name]
    expected = {
        **{"learning_rate": best["learning_rate"], "free_epochs": 1.0, "seed": 3},
        **{"epochs": 4, "warmup_epochs": 2.0, "validation": False, "model": "cnn"},
    }
    assert expected.items() <= read(final / "config.json")["config"].items()
    summary = read(final / "summary.json")
    # All 60 images: again three steps an epoch.
    assert (summary["outcome"], summary["switched_at"]) == ("finished", 3)
    assert summary["last"]["step"] == 12


@pytest.mark.slow
def test_a_trial_is_the_run_with_the_same_options(folder, files, monkeypatch):
    monkeypatch.setattr(image, "HELD_OUT", 12)
    out = folder.parent / "single"
    command = "image --quiet --batch-size 16 --epochs 2 --warmup-epochs 1 --devices 1"
    command += " --optimizer adam-lawn --free-epochs 1 --learning-rate 0.02"
    command += " --validation --checkpoint-minutes 0"
    assert main([*command.split(), f"--data-dir={files}", f"--out={out}"]) == 0
    last = read(out / "summary.json")["last"]
    for metric in ("accuracy", "ece", "test_loss"):
        assert trials(folder)[1][metric] == last[metric]


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_it_was(
    folder, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(image, "HELD_OUT", 12)
    monkeypatch.setattr(sweep, "Devices", partial(Devices, limit=1))
    monkeypatch.setattr(sweep, "finals", lambda *_: "")
    out = tmp_path / "run"
    command = [*SWEEP.split(), f"--data-dir={files}", f"--out={out}"]
    with killed.interrupted_at(2):
        assert main(command) == 130
    assert [path.name for path in out.glob("trials/*")] == ["adam-lawn-1"]
    capsys.readouterr()
    assert main(command) == 0
    assert "resuming from epoch 1" in capsys.readouterr().out
    found = (out / "trials.jsonl").read_bytes()
    assert found == (folder / "trials.jsonl").read_bytes()
    # What counts is the last evaluation, not the best one.
    chosen = read(out / "summary.json")["best"]
    summary = read(out / "trials" / "adam-lawn-1" / "summary.json")
    summary["best"]["accuracy"] = 1.0
    (out / "trials" / "adam-lawn-1" / "summary.json").write_text(json.dumps(summary))
    with killed.interrupted_at(1):  # No trial begins again.
        assert main(command) == 0
    rows = [json.loads(line) for line in found.splitlines()]
    assert rows[0]["best"]["accuracy"] < 1
    rows[0]["best"]["accuracy"] = 1.0
    lines = (out / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert read(out / "summary.json")["best"] == chosen


@pytest.mark.slow
def test_report_has_trials_only_where_they_are_named(folder, tmp_path):
    def report(path):
        out = tmp_path / path.name
        assert main(["report", str(path), f"--out={out}"]) == 0
        return (out / "table.md").read_text()

    text = report(folder)
    assert "## Held-out" not in text and "## Test images" in text
    text = report(folder / "trials")
    assert "## Held-out" in text and "diverged at step" in text


@pytest.mark.slow
def test_table_says_on_what_was_chosen(folder):
    text = (folder / "table.md").read_text()
    heading = " ".join(text.split("|")[0].split())
    assert heading == (
        "Trials on cifar10, batch 16, cnn, float32: 2 epochs, all phases but the free"
        " one shortened from 4. Accuracy after the last epoch, on 12 held-out training"
        " images."
    )
    (marked,) = (line for line in text.splitlines() if "| best |" in line)
    top = max(trials(folder)[:2], key=lambda row: row["accuracy"])
    assert f"{100 * top['accuracy']:.2f}" in marked
    config = image_options.SweepConfig(protocol="papers")
    assert "Accuracy after the last epoch, on the test images." in sweep.table(
        image.EXPERIMENT, config, []
    )


# arXiv, Table 5, as it stands there: optimizer, batch size, CIFAR-10, CIFAR-100; a list
# is "mantissas of the power of ten".
TABLE_5 = """
sgd       | 256 | 0.5 0.7 0.9 1.1 1.3           | 0.20 0.21 0.22 0.23 0.24
          | 4k  | 1.5 1.7 1.9 2.1 2.3           | 0.8 0.9 1.0 1.1 1.2
          | 10k | 1.3 1.5 1.7 1.9 2.1           | 1.3 1.4 1.5 1.6 1.7
sgd-lawn  | 256 | 0.21 0.22 0.23 0.24 0.25      | 0.16 0.17 0.18 0.19 0.20
          | 4k  | 1.5 1.6 1.7 1.8 1.9           | 1.2 1.3 1.4 1.5 1.6
          | 10k | 1.0 1.1 1.2 1.3 1.4           | 1.6 1.7 1.8 1.9 2.0
adam      | 256 | 1 2 3 4 5 e-3                 | 6 7 8 9 10 e-3
          | 4k  | 5 6 7 8 9 e-3                 | 8 9 10 11 12 e-3
          | 10k | 7 8 9 10 11 e-3               | 8 9 10 11 12 e-3
adam-lawn | 256 | 5 6 7 8 9 e-4                 | 3 4 5 6 7 e-4
          | 4k  | 4 5 6 7 8 e-3                 | 1 2 3 4 5 e-3
          | 10k | 4 5 6 7 8 e-3                 | 5 6 7 8 9 e-3
lamb      | 256 | 1 2 3 4 5 e-2                 | 4 5 6 7 8 e-2
          | 4k  | 1 2 3 4 5 e-2                 | 5 7 9 11 13 e-2
          | 10k | 2 3 4 5 6 e-2                 | 3 4 5 6 7 e-2
lamb-lawn | 256 | 6 7 8 9 10 e-3                | 0.5 1 2 3 4 e-2
          | 4k  | 1 2 3 4 5 e-2                 | 2 3 4 5 6 e-2
          | 10k | 1 2 3 4 5 e-2                 | 4 5 6 7 8 e-2
"""


def table_5():
    """Data set, batch size, optimizer and five rates."""
    name = ""
    for line in TABLE_5.strip().splitlines():
        first, size, *lists = (cell.strip() for cell in line.split("|"))
        name = first or name
        for dataset, text in zip(("cifar10", "cifar100"), lists, strict=True):
            mantissas, _, power = text.partition(" e")
            rates = [float(x) * 10 ** int(power or 0) for x in mantissas.split()]
            yield dataset, int(size.replace("k", "000")), name, rates


@pytest.mark.parametrize(("dataset", "size", "name", "rates"), [*table_5()])
def test_presets_and_the_second_stage_have_the_papers_rates(dataset, size, name, rates):
    forms = (name, "adamw") if name == "adam" else (name,)
    sizes = size, round(1.3 * size)  # The nearest of the paper's three.
    for form, batch_size in itertools.product(forms, sizes):
        options = {"dataset": dataset, "batch_size": batch_size}
        for preset in ("arxiv", "submission"):
            config = image_options.Config(optimizer=form, preset=preset, **options)
            found = image_options.resolve(config)
            assert found.learning_rate == pytest.approx(rates[2])
            none = preset == "submission" and form.endswith("-lawn")
            assert not none or found.weight_decay == 0
            assert image_options.resolve(found) == found
        config = image_options.SweepConfig(grid="papers-second", **options)
        members = sweep.grid(image.EXPERIMENT, config, form)
        assert sorted({m["learning_rate"] for m in members}) == pytest.approx(rates)
        assert {m["warmup_epochs"] for m in members} == {5, 20, 40, 60}


def test_table_5_has_36_lists():
    assert len({row[:3] for row in table_5()}) == 36


def test_the_second_stage_is_for_cifar():
    config = image_options.SweepConfig(grid="papers-second", dataset="imagenet")
    with pytest.raises(InputError, match="papers-second is for CIFAR"):
        sweep.grid(image.EXPERIMENT, config, "sgd")


def test_lawn_of_the_submission_has_no_weight_decay_on_imagenet():
    for name, batch_size in itertools.product(("sgd-lawn", "lamb-lawn"), (256, 16_384)):
        decays = [
            image_options.resolve(
                image_options.Config(
                    dataset="imagenet",
                    batch_size=batch_size,
                    optimizer=name,
                    preset=preset,
                )
            ).weight_decay
            for preset in ("arxiv", "submission")
        ]
        assert decays[0] > 0 == decays[1]


def test_the_papers_grids_are_for_the_papers_epochs(capsys, tmp_path):
    out = ["--out", str(tmp_path / "new")]
    assert main(["sweep", "image", "--grid", "papers-second", *out]) == 2
    error = capsys.readouterr().err
    assert "--epochs 30 are fewer than" in error and "shorten --free or" in error
    config = image_options.SweepConfig(grid="papers-second", preset="arxiv")
    for name in config.optimizers:
        for member in sweep.grid(image.EXPERIMENT, config, name):
            sweep.trial_config(image.EXPERIMENT, config, name, member)


@pytest.mark.parametrize("batch_size", [0, -8])
def test_a_preset_needs_a_batch(batch_size):
    config = image_options.Config(preset="arxiv", batch_size=batch_size)
    with pytest.raises(InputError, match="--batch-size must be finite and at least 1"):
        image_options.resolve(config)


def test_grids():
    config = image_options.SweepConfig(grid="papers")
    sizes = [
        len(sweep.grid(image.EXPERIMENT, config, name))
        for name in ("sgd", "adamw", "adam-lawn")
    ]
    # arXiv Table 5 (coarse) and Appendix D.2: rates, decays or free epochs, warm-ups.
    assert sizes == [6 * 3 * 4, 6 * 3 * 4, 6 * 4 * 4]
    rates = {
        member["learning_rate"]
        for member in sweep.grid(image.EXPERIMENT, config, "lamb-lawn")
    }
    assert rates == {1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0}
    config = image_options.SweepConfig()
    assert {
        len(sweep.grid(image.EXPERIMENT, config, name)) for name in config.optimizers
    } == {9}
