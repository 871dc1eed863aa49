"""Training on photographs from workers: against NumPy, on devices, interrupted."""

import dataclasses
import itertools
import json
from functools import partial

import jax
import numpy as np
import optax
import pytest

from tests.support import image_files as images
from tests.support import interruptions as killed
from tests.support import tiny_images as tiny
from tests.support.asserts import close
from tests.support.rating_files import refused
from train import sweep
from train.__main__ import main
from train.devices import MODES, Devices
from train.images import experiment as image
from train.images import loader as image_loader
from train.images import options as image_options
from train.images import photo_files as image_folder
from train.images import programs as classifier
from train.images import streaming as photographs

RATE = 1e-5  # The logits of so many pixels change by about 0.5 in a step.
RATES = {"learning_rate": 0.1, "weight_decay": 0.1}
# Mean and deviation of ImageNet's colours, from torchvision's documentation.
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes; 18 photographs to train on and 9 others."""
    return images.write_folder(tmp_path_factory.mktemp("photos"), train=6, val=3)


@pytest.fixture(scope="module")
def photos(folder):
    return image_folder.list_folder(folder)


def streamed(photos, devices, parts=1, epochs=2):
    """A linear model with batches of 16, and its initial state."""
    options = {"dataset": "imagenet", "batch_size": 16, "epochs": epochs, "workers": 0}
    options |= {"optimizer": "sgd", "warmup_epochs": 0.0, "seed": 7}
    settings = image_options.resolve(image_options.Config(**options))
    task = tiny.make_task(
        *(optax.sgd(RATE), optax.softmax_cross_entropy_with_integer_labels),
        **{"parts": parts, "devices": devices.count, "axis": devices.axis},
        per_device=partial(devices.per_device, split=True),
    )
    task = dataclasses.replace(task, side=224, num_images=18)
    work = photographs.StreamTrainer(task, settings, devices, photos)
    return work, tiny.start(task)


def trained(photos, devices, parts=1):
    """What a run of two epochs gives, on the host."""
    work, state = streamed(photos, devices, parts)
    trial = devices.replicate(tiny.TRIAL)
    state = work.prepare(devices.place_state(state), trial, 0)
    losses = []
    for epoch in range(2):
        state, loss = work.advance(state, trial, epoch, epoch + 1)
        losses.append(loss)
    values, right = work.evaluate(state, trial)
    again, _ = work.evaluate(state, trial)
    jax.tree.map(
        np.testing.assert_array_equal, devices.gather(again), devices.gather(values)
    )
    work.close()
    return losses, *devices.gather((state.params["head"], values, right))


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def rows(batch):
    pixels = (batch.images.astype(np.float64) / 255 - MEAN) / DEVIATION
    return pixels.reshape(len(pixels), -1)


@pytest.fixture(scope="module")
def one(photos):
    return trained(photos, Devices(limit=1))


def test_training_and_evaluation_equal_numpy(photos, one):
    losses, head, values, right = one
    _, state = streamed(photos, Devices(limit=1))
    w, b = (np.asarray(state.params["head"][k], float) for k in ("kernel", "bias"))
    order = image_loader.training_order(photos.train, 16, seed=7)
    for step, batch in enumerate(
        image_loader.Batches(photos.train, order, 0, 2, workers=0)
    ):
        x, targets = rows(batch), np.eye(3)[batch.labels]
        logs = log_softmax(x @ w + b)
        # Sums of 150,528 products in float32.
        close(losses[step], -(logs * targets).sum(-1).mean(), 1e-4)
        slopes = (np.exp(logs) - targets) / 16
        w, b = w - RATE * x.T @ slopes, b - RATE * slopes.sum(0)
    close(head["kernel"], w, 1e-3, atol=1e-6)

    def logits(photos):
        order = image_loader.evaluation_order(photos, len(photos))
        (batch,) = image_loader.Batches(photos, order, 0, 1, workers=0)
        return rows(batch) @ w + b, batch.labels

    test, labels = logits(photos.val)
    np.testing.assert_array_equal(right, test.argmax(-1) == labels)
    close(values["accuracy"], (test.argmax(-1) == labels).mean(), 1e-6)
    own = log_softmax(test)[np.arange(9), labels]
    close(values["test_loss"], -own.mean(), 1e-3)
    train, labels = logits(photos.train)  # All of them: fewer than the probes.
    close(values["train_accuracy"], (train.argmax(-1) == labels).mean(), 1e-6)
    others = np.where(np.eye(3)[labels] > 0, -np.inf, train).max(-1)
    margins = train[np.arange(18), labels] - others
    close(values["margin_p50"], np.median(margins), 1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode, shard_state", [*((m, False) for m in MODES), ("jit", True)]
)
def test_eight_devices_train_as_one_does(mode, shard_state, photos, one):
    eight = trained(photos, Devices(mode, shard_state=shard_state), parts=2)
    assert len(jax.devices()) == 8
    jax.tree.map(partial(close, rtol=1e-4, atol=1e-5), eight, one)


def test_probes_are_of_all_classes(photos, monkeypatch):
    monkeypatch.setattr(photographs, "PROBES", 6)
    work, _ = streamed(photos, Devices(limit=1))
    evaluated = work._evaluated
    labels = [evaluated[i].label for i in range(len(evaluated))]
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2] + [0, 0, 1, 1, 2, 2]
    with pytest.raises(IndexError):
        evaluated[15]


def test_photographs_held_out_are_not_trained_on(photos):
    def names(part):
        return {part[i].name for i in range(len(part))}

    first, again, other = (image_folder.hold_out(photos, 5, seed) for seed in (0, 0, 1))
    assert (len(first.val), len(first.train)) == (5, 13)
    assert names(first.val) | names(first.train) == names(photos.train)
    assert names(first.val) == names(again.val) != names(other.val)
    refused(
        lambda: image_folder.hold_out(photos, 18, 0),
        "--validation needs more than 18 training images; got 18",
    )


def test_a_first_look_takes_some_of_all_classes(folder, photos):
    def load(count, seed):
        config = image_options.Config(
            dataset="imagenet", data_dir=folder, images=count, split_seed=seed
        )
        found = image.load_data(image_options.resolve(config))
        parts = found.train, found.val
        return [[part[i].name for i in range(len(part))] for part in parts]

    train, val = load(8, 0)
    assert (len(set(train)), len(set(val))) == (8, 8)
    assert set(train) <= {photos.train[i].name for i in range(18)}
    assert set(val) <= {photos.val[i].name for i in range(9)}
    assert load(8, 0) == [train, val] != load(8, 1)
    assert [len(part) for part in load(99, 0)] == [18, 9]
    assert len({name.split("/")[-2] for name in val}) > 1


# ------------------------------------------------------------------- command line

BASE = "image --dataset imagenet --batch-size 8 --epochs 3 --optimizer lamb-lawn"
BASE += " --free-epochs 1 --warmup-epochs 1 --workers 0 --eval-every 1 --quiet"
BASE += " --checkpoint-minutes 0 --devices 1"


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(folder, tmp_path, capsys):
    command = [*BASE.split(), f"--data-dir={folder}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*command, f"--out={whole}"]) == 0
    output = capsys.readouterr().out
    assert "3 classes, 18 training photographs, 9 others" in output
    assert "(2 steps per epoch on 1 x" in output and "on 9 test images" in output
    speeds = json.loads((whole / "summary.json").read_text())["speeds"]
    assert min(speeds.values()) > 0
    for name in ("steps alone", "workers alone"):
        assert f"\n{name}: {speeds[name]:,.1f} images per second" in output

    # The workers of the killed process have photographs ready that nobody takes.
    again = [*command, "--workers=1", f"--out={parts}"]
    killed.run_until("save", 2, again)
    assert main([*command, f"--out={parts}"]) == 0
    assert "resuming from epoch 1" in capsys.readouterr().out
    for name in ("metrics.jsonl", "errors.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()

    states = (killed.checkpoint(folder, 3) for folder in (parts, whole))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_wrong_options_are_one_line(folder, tmp_path, capsys):
    wrong = {
        "--batch-size 19": "--batch-size 19 is more than the 18 training images",
        "--validation": "--validation needs more than 5,000 training images; got 18",
        "--workers -1": "--workers must be finite and at least 0",
        "--momentum -1": "--momentum must be finite and at least 0",
    }
    for options, message in wrong.items():
        arguments = [*BASE.split(), f"--data-dir={folder}", *options.split()]
        assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 2
        output, error = capsys.readouterr()
        assert message in error and error.count("\n") == 1 and output == ""
        assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------ presets

# arXiv:2108.05839, D.4.4: learning rates; decay; free epochs; warm-up.
SMALL, LARGE = (1, 5, 10), (5, 10, 20)
ADAM_16K = (0.001, 0.003, 0.005, 0.008, 0.01)
LAMB_16K = (0.01, 0.02, 0.02828, 0.03, 0.04)
GRIDS = {
    256: {
        "sgd": ((0.1, 0.256, 0.5), (1e-4,), (0,), (0.5,)),
        # The best of SGD's rates; which that was, is not printed.
        "sgd-lawn": ((0.256,), (1e-4,), SMALL, SMALL),
        "adam": ((0.0001, 0.00125, 0.0025, 0.005), (0,), (0,), (0.16,)),
        "adam-lawn": ((0.0003, 0.0006, 0.0008, 0.004), (0,), SMALL, SMALL),
        "lamb": ((0.001, 0.002, 0.0035, 0.005), (0.01,), (0,), (0.16,)),
        "lamb-plus": ((0.001, 0.002, 0.0035, 0.005), (0.01,), (0,), (0.16,)),
        "lamb-lawn": ((0.001, 0.002, 0.0035, 0.005), (0.01,), (0.16,), SMALL),
    },
    16_384: {
        "sgd": ((1, 5, 10), (1e-4,), (0,), (0.16, 1, 5, 10)),
        "sgd-lawn": ((1, 5, 10), (1e-4,), SMALL, SMALL),
        "adam": (ADAM_16K, (0,), (0,), LARGE),
        "adamw": (ADAM_16K, (0, 1e-3, 1e-2), (0,), LARGE),
        "adam-lawn": (ADAM_16K, (0,), SMALL, SMALL),
        "lamb": (LAMB_16K, (0.01,), (0,), LARGE),
        "lamb-plus": (LAMB_16K, (0.01,), (0,), LARGE),
        "lamb-lawn": ((0.02828,), (0.01,), LARGE, LARGE),
    },
}


@pytest.mark.parametrize("batch_size", GRIDS)
def test_presets_are_in_the_papers_grids(batch_size):
    for name, grids in GRIDS[batch_size].items():
        config = image_options.Config(
            dataset="imagenet", batch_size=batch_size, optimizer=name, preset="arxiv"
        )
        found = image_options.resolve(config)
        names = ("learning_rate", "weight_decay", "free_epochs", "warmup_epochs")
        for option, grid in zip(names, grids, strict=True):
            assert getattr(found, option) in grid, (name, option)
        assert (found.epochs, found.momentum, found.decay_norms) == (90, 0.875, False)
        assert found.clip_norm == (None if name.startswith("sgd") else 1.0)
        assert image_options.resolve(found) == found


@pytest.mark.parametrize("batch_size", GRIDS)
def test_sweeps_try_the_papers_grids(batch_size):
    for name, (rates, decays, free, warmups) in GRIDS[batch_size].items():
        config = image_options.SweepConfig(
            dataset="imagenet", batch_size=batch_size, grid="papers", preset="arxiv"
        )
        trials = [
            sweep.trial_config(image.EXPERIMENT, config, name, member)
            for member in sweep.grid(image.EXPERIMENT, config, name)
        ]
        # In the -lawn forms the one weight decay ends at the switch.
        expected = itertools.product(rates, decays, free, warmups)
        assert [
            (t.learning_rate, t.weight_decay, t.free_epochs, t.warmup_epochs)
            for t in trials
        ] == list(expected)
        given = dataclasses.replace(config, warmup_epochs=3.0)
        assert {
            m.get("warmup_epochs") for m in sweep.grid(image.EXPERIMENT, given, name)
        } == {None}
        given = dataclasses.replace(given, warmups=(2.0, 4.0), rates=(0.1,))
        found = sweep.grid(image.EXPERIMENT, given, name)
        assert {member["warmup_epochs"] for member in found} == {2.0, 4.0}
        assert {member["learning_rate"] for member in found} == {0.1}


@pytest.mark.slow
def test_sweep_of_photographs_chooses_the_warm_up_too(
    folder, small_photographs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(image, "HELD_OUT", 2)
    monkeypatch.setattr(sweep, "Devices", partial(Devices, limit=1))
    command = "sweep image --dataset imagenet --batch-size 8 --epochs 4 --workers 0"
    command += " --trial-epochs 2 --optimizers lamb-lawn --rates 0.01 --free 1"
    command += f" --warmups 1 2 --seeds 1 --quiet --data-dir={folder}"
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "finals", lambda *_: "")
        assert main([*command.split(), f"--out={out}"]) == 0
    output = capsys.readouterr().out
    assert "lamb-lawn, trial 2 of 2, seed 0: rate 0.01, free 1, warm-up 2\n" in output
    assert "on 2 held-out training images" in output
    assert output.count("Written to") == 1  # A line for a trial, and the table.
    for number, warmup in ((1, 0.5), (2, 1.0)):  # Of half the schedule.
        path = out / "trials" / f"lamb-lawn-{number}" / "config.json"
        config = json.loads(path.read_text())["config"]
        assert (config["warmup_epochs"], config["free_epochs"]) == (warmup, 1)
        assert config["validation"] and config["epochs"] == 2
    assert main([*command.split(), f"--out={out}"]) == 0
    chosen = json.loads((out / "summary.json").read_text())["best"]["lamb-lawn"]
    final = json.loads((out / "final" / "lamb-lawn-seed1" / "config.json").read_text())
    assert final["config"]["warmup_epochs"] == chosen["warmup_epochs"]
    assert not final["config"]["validation"] and final["config"]["epochs"] == 4


def test_presets_for_cifar_are_as_they_were():
    found = image_options.resolve(image_options.Config(optimizer="sgd"))
    assert (found.clip_norm, found.momentum, found.decay_norms) == (1.0, 0.9, True)
    given = image_options.Config(clip_norm=None, momentum=0.5, decay_norms=False)
    found = image_options.resolve(given)
    assert (found.clip_norm, found.momentum, found.decay_norms) == (None, 0.5, False)


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_residual_networks_have_the_stem_for_photographs(model, photos):
    config = image_options.Config(dataset="imagenet", model=model, batch_size=4)
    devices = Devices(limit=1)
    task = image.make_task(image_options.resolve(config), photos, devices)
    params = jax.eval_shape(
        lambda: classifier.start(task, {"seed": 0, "switch_step": 0} | RATES).params
    )
    assert params["stem"]["kernel"].shape == (7, 7, 3, 64)
    assert params["head"]["bias"].shape == (3,)


def test_norm_layers_do_not_decay():
    norm, conv = {"scale": 1, "bias": 2}, {"kernel": 3}
    params = {"block": {"norm1": norm, "conv1": conv}, "head": {"bias": 4, "kernel": 5}}
    assert image.decayed(params) == {
        "block": {"norm1": {"scale": False, "bias": False}, "conv1": {"kernel": True}},
        "head": {"bias": True, "kernel": True},
    }
