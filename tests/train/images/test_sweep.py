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
SWEEP += " --trial-epochs 2 --optimizers adam-lawn --rates 0.002 0.02 1e30 --free 2"
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
        assert row["outcome"] == "finished" and row["free_epochs"] == 2
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["ece"] <= 1
        close(12 * row["accuracy"], round(12 * row["accuracy"]), 1e-6)
    assert found[2]["outcome"].startswith("diverged at step ")
    best = max(found[:2], key=lambda row: row["accuracy"])
    final = folder / "final" / "adam-lawn-seed3"
    assert [path.name for path in (folder / "final").iterdir()] == [final.name]
    expected = {
        **{"learning_rate": best["learning_rate"], "free_epochs": 2.0, "seed": 3},
        **{"epochs": 4, "warmup_epochs": 2.0, "validation": False, "model": "cnn"},
    }
    assert expected.items() <= read(final / "config.json")["config"].items()
    summary = read(final / "summary.json")
    # All 60 images: again three steps an epoch.
    assert (summary["outcome"], summary["switched_at"]) == ("finished", 6)
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
        "Trials on cifar10, batch 16, cnn, float32: 2 epochs, all phases shortened from"
        " 4 (the free epochs named are those of the full schedule). Accuracy after the"
        " last epoch, on 12 held-out training images."
    )
    (marked,) = (line for line in text.splitlines() if "| best |" in line)
    top = max(trials(folder)[:2], key=lambda row: row["accuracy"])
    assert f"{100 * top['accuracy']:.2f}" in marked
    config = image_options.SweepConfig(protocol="papers")
    assert "Accuracy after the last epoch, on the test images." in sweep.table(
        image.EXPERIMENT, config, []
    )


# Table 5, read once more: (data set, batch size, optimizer) and the middle rate.
MIDDLE = [
    *((("cifar10", 256), "sgd", 0.9), (("cifar10", 256), "sgd-lawn", 0.23)),
    *((("cifar10", 256), "adamw", 3e-3), (("cifar10", 256), "adam-lawn", 7e-4)),
    *((("cifar10", 4_000), "lamb", 3e-2), (("cifar10", 10_000), "lamb", 4e-2)),
    *((("cifar10", 10_000), "sgd-lawn", 1.2), (("cifar10", 256), "lamb-lawn", 8e-3)),
    *((("cifar100", 256), "sgd", 0.22), (("cifar100", 4_000), "sgd-lawn", 1.4)),
    *((("cifar100", 4_000), "adam", 0.01), (("cifar100", 4_000), "adam-lawn", 3e-3)),
    *((("cifar100", 4_000), "lamb", 9e-2), (("cifar100", 256), "lamb-lawn", 2e-2)),
    *((("cifar100", 10_000), "adam-lawn", 7e-3), (("cifar100", 10_000), "lamb", 5e-2)),
]


@pytest.mark.parametrize(("place", "name", "rate"), MIDDLE)
def test_presets_and_the_second_stage_have_the_papers_rates(place, name, rate):
    dataset, size = place
    for batch_size in (size, round(1.3 * size)):  # The nearest of the paper's three.
        options = {"dataset": dataset, "batch_size": batch_size}
        for preset in ("arxiv", "submission"):
            config = image_options.Config(optimizer=name, preset=preset, **options)
            found = image_options.resolve(config)
            assert found.learning_rate == pytest.approx(rate)
            none = preset == "submission" and name.endswith("-lawn")
            assert not none or found.weight_decay == 0
            assert image_options.resolve(found) == found
        config = image_options.SweepConfig(grid="papers-second", **options)
        members = sweep.grid(image.EXPERIMENT, config, name)
        rates = sorted({member["learning_rate"] for member in members})
        assert len(rates) == 5 and rates[2] == pytest.approx(rate)
        assert {m["warmup_epochs"] for m in members} == {5, 20, 40, 60}


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
