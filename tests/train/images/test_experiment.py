"""Runs of image classifiers through the command line, on made-up images."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support import events, small_cnn
from tests.support import image_files as images
from tests.support import interruptions as killed
from tests.support.asserts import close
from train import hyperparameters
from train.__main__ import main
from train.devices import Devices
from train.images import experiment as image
from train.images import options as image_options
from train.images import programs as classifier

# Sixty images: three steps of 16 an epoch, and 12 images left out.
BASE = "image --quiet --batch-size 16 --warmup-epochs 1"
WHOLE = f"{BASE} --optimizer adam-lawn --free-epochs 1 --epochs 4 --eval-every 1"
WHOLE += " --learning-rate 0.01 --checkpoint-minutes 0 --devices 1"
KEYS = {
    *("epoch", "step", "loss", "accuracy", "test_loss", "ece", "train_accuracy"),
    *("margin_p10", "margin_p50", "margin_p90", "test_margin_p50", "learning_rate"),
    *("constrained", "logit_scale", "norm/head"),
    *(f"norm/{name}" for name in small_cnn.LAYERS),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return images.write_binary(folder, images.some_tables("cifar10", count=12))


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*WHOLE.split(), f"--data-dir={files}", f"--out={folder}"]) == 0
    return folder


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_folder_of_a_run(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        *("checkpoints", "config.json", "curves.png", "errors.json"),
        *("events.out.tfevents.0.run", "metrics.jsonl", "summary.json"),
    ]
    found = rows(whole)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert [row["step"] for row in found] == [3, 6, 9, 12]
    assert [row["constrained"] for row in found] == [0, 1, 1, 1]
    for row in found:
        assert set(row) == KEYS
        assert all(math.isfinite(value) for value in row.values())
    for name in ("norm/conv1", "norm/norm2", "norm/head"):
        assert found[1][name] == pytest.approx(found[-1][name], 1e-5)
        assert found[0][name] == pytest.approx(found[-1][name], 1e-5)
    expected = [0.01, 0.01, 0.01 * 4 / 6, 0.01 / 6]
    close([row["learning_rate"] for row in found], expected, 1e-5)
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["outcome"], summary["switched_at"]) == ("finished", 3)
    best = max(found, key=lambda row: row["accuracy"])
    assert summary["best"] == {key: best[key] for key in ("epoch", "accuracy")}
    wrong = json.loads((whole / "errors.json").read_text())["wrong"]
    close(1 - len(wrong) / 4, found[-1]["accuracy"], 1e-6)


@pytest.mark.slow
def test_killed_run_ends_in_the_same_bits(whole, files, tmp_path):
    out = tmp_path / "run"
    command = [*WHOLE.split(), f"--data-dir={files}", f"--out={out}"]
    killed.run_until("save", 3, command)
    assert main(command) == 0
    for name in ("metrics.jsonl", "errors.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert events.without_times(out) == events.without_times(whole)

    states = (killed.checkpoint(folder, 4) for folder in (out, whole))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_validation_holds_out_training_images(files, monkeypatch):
    monkeypatch.setattr(image, "HELD_OUT", 7)

    def load(**options):
        config = image_options.Config(data_dir=files, **options)
        return image.load_data(image_options.resolve(config))

    everything = load().train
    first, again, other = (load(validation=True, split_seed=x) for x in (0, 0, 1))
    assert len(first.test.labels) == 7 and len(first.train.labels) == 53
    found = np.concatenate([first.train.images, first.test.images])
    labels = np.concatenate([first.train.labels, first.test.labels])
    key = lambda image: image.tobytes()  # noqa: E731
    pairs = {key(x): y for x, y in zip(found, labels, strict=True)}
    expected = zip(everything.images, everything.labels, strict=True)
    assert pairs == {key(x): y for x, y in expected}
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert set(map(key, first.test.images)) != set(map(key, other.test.images))

    few = load(images=3)  # Of the four test images the first three.
    assert len(few.train.labels) == len(few.test.labels) == 3
    assert set(map(key, few.train.images)) <= set(pairs)
    np.testing.assert_array_equal(few.test.images, load().test.images[:3])
    few = load(images=9, validation=True)
    assert len(few.train.labels) == 9 and len(few.test.labels) == 7
    assert not set(map(key, few.train.images)) & set(map(key, first.test.images))


@pytest.mark.slow
@pytest.mark.parametrize(
    "constrain, free",
    [
        ("all", set()),
        ("matrices", {"norm1", "norm2"}),
        ("all-but-head", {"head"}),
    ],
)
def test_what_is_constrained(constrain, free, files):
    config = image_options.resolve(
        image_options.Config(
            data_dir=files, batch_size=16, constrain=constrain, free_epochs=0.0
        )
    )
    task = image.make_task(config, image.load_data(config), Devices(limit=1))
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    params = classifier.start(task, trial).params
    tx = task.optimizer(trial)
    grads = jax.tree.map(
        lambda x: x + jax.random.normal(jax.random.key(1), x.shape), params
    )
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)

    def norm(tree, name):
        # Only the kernels count where vectors are free.
        leaves = jax.tree.leaves(tree[name])
        if constrain == "matrices" and name not in free:
            leaves = [leaf for leaf in leaves if leaf.ndim > 1]
        return float(optax.tree.norm(leaves))

    after = jax.tree.map(jnp.add, params, updates)
    kept = {
        name
        for name in params
        if abs(norm(after, name) / norm(params, name) - 1) < 1e-5
    }
    assert kept == params.keys() - free


def test_a_plateau_of_the_accuracy_switches_once_it_is_high(files):
    config = image_options.resolve(
        image_options.Config(
            data_dir=files,
            batch_size=16,
            optimizer="sgd-lawn",
            switch="accuracy-plateau",
            switch_threshold=0.7,
        )
    )
    task = image.make_task(config, image.load_data(config), Devices(limit=1))
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    tx, params = task.optimizer(trial), {"head": jnp.array([3.0, 4.0])}
    update = jax.jit(tx.update)

    def switched_at(accuracies):
        state = tx.init(params)
        for value in accuracies:
            _, state = update(params, state, params, switch_value=value)
        return hyperparameters.switched_at(config, state)

    low, rising = [0.5] * 30, [0.05 * i for i in range(20)]  # 0.15 in an epoch.
    assert switched_at(low) == switched_at(rising) == -1
    assert 20 < switched_at(rising + [0.95] * 20) < 32


WRONG = {
    "--switch accuracy-plateau --switch-threshold 3": "of an accuracy must be above 0",
    "--constrain matrices --optimizer adamw": "--constrain needs a -lawn optimizer",
    "--batch-size 61": "--batch-size 61 is more than the 60 training images",
    "--batch-size 15 --micro-batch 4": "does not divide into 4 parts on each of 1",
    "--optimizer adamm": "no optimizer 'adamm'",
    "--loss focal --label-smoothing 0.1": "goes with --loss cross-entropy",
    "--split-seed -1": "--split-seed must be",
    "--images 0": "--images must be",
    "--images 15": "--batch-size 16 is more than the 15 training images",
    "--epochs 5 --warmup-epochs 3 --free-epochs 5": "fewer than the 8 of the free",
    "--dataset cifar100": "cifar-100",
    "--data-dir nowhere": "nowhere",
}


def test_wrong_options_are_one_line_and_leave_no_trace(files, tmp_path, capsys):
    for options, message in WRONG.items():
        out = tmp_path / "run"
        arguments = ["image", f"--data-dir={files}", f"--out={out}", "--devices=1"]
        arguments += ["--batch-size=16"] * ("--batch" not in options)
        assert main([*arguments, *options.split()]) == 2, options
        output, error = capsys.readouterr()
        assert output == "" and error.startswith("error: ") and message in error, error
        assert error.count("\n") == 1
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--devices 1 --optimizer sgd-lawn --loss focal --micro-batch 4"
        " --dtype bfloat16",
        "--devices 1 --optimizer lamb --label-smoothing 0.05 --no-augment"
        " --clip-norm None",
        "--devices 1 --optimizer adamw-bounded --weight-decay 0.1 --validation",
        "--devices 8 --parallel jit",
        "--devices 8 --parallel pmap",
    ],
)
def test_other_options_train(options, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image, "HELD_OUT", 7)
    command = [*BASE.split(), "--epochs=2", "--free-epochs=0", *options.split()]
    assert main([*command, f"--data-dir={files}", f"--out={tmp_path / 'run'}"]) == 0
    output = capsys.readouterr().out
    count = 8 if "--devices 8" in options else 1
    assert f"(3 steps per epoch on {count} x" in output and "after 2 epochs" in output
    assert all(math.isfinite(x) for row in rows(tmp_path / "run") for x in row.values())
