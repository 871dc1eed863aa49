"""Runs of recommenders through the command line, on made-up ratings."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from lawn_optax import schedules
from tests.support import events
from tests.support import interruptions as killed
from tests.support import rating_files as ratings
from tests.support import tiny_recommenders as tiny
from tests.support.asserts import close
from tests.support.training import norms
from train import hyperparameters, optimizers
from train.__main__ import main
from train.devices import Devices
from train.recommenders import experiment as recommender
from train.recommenders import options as recsys_options

ROOT = Path(__file__).parents[3]
# Eight steps of 500 samples an epoch, the last a part batch.
BASE = "recsys --quiet --batch-size 500 --candidate-draws 2 --warmup-epochs 1"
WHOLE = f"{BASE} --optimizer adam-lawn --free-epochs 2 --epochs 7 --eval-every 2"
WHOLE += " --learning-rate 0.01 --checkpoint-minutes 0 --devices 1"
KEYS = {
    *("epoch", "step", "loss", "hr", "ndcg", "auc", "train_hr", "learning_rate"),
    *("margin_p10", "margin_p50", "margin_p90", "test_margin_p50"),
    *("constrained", "logit_scale", "norm/user_embedding", "norm/item_embedding"),
    *("norm/dense_0", "norm/dense_1", "norm/dense_2"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.write_ratings(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(files):
    def call(options, out):
        return main([*options.split(), f"--data-dir={files}", f"--out={out}"])

    return call


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(WHOLE, folder) == 0
    return folder


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_folder_of_a_run(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        *("checkpoints", "config.json", "curves.png", "events.out.tfevents.0.run"),
        *("hits.json", "metrics.jsonl", "summary.json"),
    ]
    found = rows(whole)
    assert [row["epoch"] for row in found] == [2, 4, 6, 7]
    assert [row["step"] for row in found] == [16, 32, 48, 56]
    # The sixteenth update was the last free one.
    assert [row["constrained"] for row in found] == [0, 1, 1, 1]
    for row in found:
        assert set(row) == KEYS
        assert all(math.isfinite(value) for value in row.values())
        for name in ("hr", "ndcg", "auc", "train_hr"):
            assert 0 <= row[name] <= 1
    assert found[-1]["loss"] < 0.9 * found[0]["loss"]
    assert found[-1]["train_hr"] > 0.2 and found[-1]["auc"] > 0.55
    assert found[0]["norm/dense_0"] == pytest.approx(found[-1]["norm/dense_0"], 1e-5)
    # Three phases: the rate of the last update of each row.
    expected = [0.01, 0.01 * 25 / 32, 0.01 * 9 / 32, 0.01 / 32]
    close([row["learning_rate"] for row in found], expected, 1e-5)
    text = json.loads((whole / "config.json").read_text())
    assert text["config"]["experiment"] == "recsys"
    assert text["config"]["schedule"] == "three-phase"
    assert text["config"]["free_epochs"] == 2
    result = summary(whole)
    assert (result["outcome"], result["switched_at"]) == ("finished", 16)
    assert result["last"] == found[-1]
    best = max(found, key=lambda row: row["hr"])
    assert result["best"] == {"epoch": best["epoch"], "hr": best["hr"]}
    hits = json.loads((whole / "hits.json").read_text())
    assert hits["draws"] == 2 and len(hits["hr"]) == 30
    close(np.mean(hits["hr"]), found[-1]["hr"], 0, atol=1e-4)


def test_finished_run_is_shown_again(whole, run, capsys):
    before = (whole / "metrics.jsonl").read_bytes(), summary(whole)
    assert run(WHOLE, whole) == 0
    output = capsys.readouterr().out
    assert "| users        | 30   | 943" in output
    assert "| interactions | 750  | about 100,000" in output
    assert (
        "tower 3-layer, initial weights small, adam-lawn, batch 500 (8 steps" in output
    )
    assert "switch after 2 epochs (step 16)" in output
    last = before[1]["last"]
    assert f"HR@10 {100 * last['hr']:.2f} %, NDCG@10 {last['ndcg']:.4f}" in output
    assert ((whole / "metrics.jsonl").read_bytes(), summary(whole)) == before
    assert run(f"{WHOLE} --seed 1", whole) == 2
    assert "(seed differ)" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_run_ends_in_the_same_bits(whole, run, files, tmp_path):
    out = tmp_path / "run"
    command = [*WHOLE.split(), f"--data-dir={files}", f"--out={out}"]
    # Before the checkpoint of a row; after the last one, before the summary.
    for name, number, epoch in (("save", 2, 2), ("finish", 1, 7)):
        killed.run_until(name, number, command)
        assert str(epoch) in {x.name for x in (out / "checkpoints").iterdir()}
        assert not (out / "summary.json").exists()
    assert run(WHOLE, out) == 0
    for name in ("metrics.jsonl", "hits.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert events.without_times(out) == events.without_times(whole)
    first, second = summary(whole), summary(out)
    for name in ("outcome", "switched_at", "last", "best"):
        assert first[name] == second[name]
    assert_same_end(out, whole)


def assert_same_end(first, second):
    """The last checkpoints hold the same bits."""

    def state(folder):
        path = folder.resolve() / "checkpoints" / "7" / "state"
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path)

    jax.tree.map(np.testing.assert_array_equal, state(first), state(second))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.slow
def test_killed_at_any_moment_a_run_goes_on(whole, run, files, tmp_path):
    out = tmp_path / "run"
    command = [*WHOLE.split(), f"--data-dir={files}", f"--out={out}"]
    process = subprocess.Popen(
        [sys.executable, "-c", killed.PROGRAM, *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    while not list(out.glob("checkpoints/2")) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.11)
    process.kill()
    assert process.wait() in (-9, 0)
    assert run(WHOLE, out) == 0
    assert (out / "metrics.jsonl").read_bytes() == (
        whole / "metrics.jsonl"
    ).read_bytes()
    assert_same_end(out, whole)


# ------------------------------------------------------------------- options


@pytest.mark.slow
def test_switch_by_margin_alpha_and_the_other_tower(run, tmp_path, capsys):
    options = f"{BASE} --epochs 3 --eval-every 1 --tower 4-layer --init torch"
    options += " --optimizer sgd-lawn --learning-rate 0.5 --switch median-margin"
    options += " --switch-threshold 0.05 --alpha 0.5 --label-smoothing 0.05 --devices 1"
    assert run(options, tmp_path / "run") == 0
    output = capsys.readouterr().out
    assert "switch at 0.05 (median-margin)" in output and "two-phase" in output
    switched_at = summary(tmp_path / "run")["switched_at"]
    assert 0 < switched_at < 24
    for row in rows(tmp_path / "run"):
        assert row["constrained"] == int(row["step"] > switched_at)
        # That of the next update.
        assert row["logit_scale"] == (0.5 if row["step"] >= switched_at else 1)
    assert "norm/dense_3" in row


@pytest.mark.slow
def test_validation_focal_flood_and_a_batch_larger_than_the_epoch(
    run, tmp_path, capsys
):
    options = f"{BASE} --epochs 2 --batch-size 100000 --validation --loss focal"
    options += " --flood 0.1 --clip-norm 1 --optimizer adam-bounded"
    assert run(options, tmp_path / "run") == 0
    output = capsys.readouterr().out
    # One interaction fewer for each user: 23 x 30 x 5 samples, on eight devices.
    assert "batch 3,450 (1 steps per epoch on 8 x" in output
    assert "validation (second-latest) item among 2 draws" in output
    (row,) = rows(tmp_path / "run")
    assert row["step"] == 2
    assert row["loss"] < 0.5  # Below the cross entropy of no opinion.
    assert config_of(tmp_path / "run")["validation"] is True


@pytest.mark.slow
def test_diverging_run_with_candidates_of_the_files(tmp_path, capsys):
    data = ratings.write_split(tmp_path / "d", "ml-1m-ncf", *ratings.some_split(0))
    options = f"{BASE} --dataset ml-1m-ncf --candidate-draws 0 --optimizer sgd"
    options += " --learning-rate 1e30 --epochs 9 --eval-every 1 --devices 1"
    folder = tmp_path / "run"
    assert main([*options.split(), f"--data-dir={data}", f"--out={folder}"]) == 3
    result = summary(folder)
    step = int(result["outcome"].removeprefix("diverged at step "))
    assert 1 < step <= result["last"]["step"] < 9
    assert result["last"]["loss"] is None
    output = capsys.readouterr().out
    assert "among the 99 other items of the files" in output
    assert f"The run diverged at step {step}." in output
    assert json.loads((folder / "hits.json").read_text())["draws"] == 1
    # The same where the run is there already. It has no weights.
    assert main([*options.split(), f"--data-dir={data}", f"--out={folder}"]) == 3
    assert main(["evaluate", str(folder), f"--data-dir={data}"]) == 2
    error = capsys.readouterr().err
    assert f"(diverged at step {step}) has no checkpoint of trained weights" in error


@pytest.mark.parametrize(
    "constrain, free",
    [
        ("tower", {"user_embedding", "item_embedding"}),
        ("all-but-head", {"dense_3"}),
    ],
)
def test_what_is_constrained(constrain, free):
    config = recsys_options.resolve(
        recsys_options.Config(
            optimizer="sgd-lawn", free_epochs=0, tower="4-layer", constrain=constrain
        )
    )
    task = recommender.make_task(config, tiny.interactions(), Devices(limit=1))
    trial = hyperparameters.make_trial(config, task.steps_per_epoch)
    layers = [f"dense_{i}" for i in range(4)] + ["user_embedding", "item_embedding"]
    params = {name: {"kernel": jnp.arange(1.0, 4)} for name in layers}
    tx = task.optimizer(trial)
    grads = jax.tree.map(lambda w: w**2, params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    before, after = norms(params), norms(optax.apply_updates(params, updates))
    changed = {
        name
        for name, ratio in zip(params, after / before, strict=True)
        if abs(ratio - 1) > 1e-6
    }
    assert changed == free


@pytest.mark.parametrize(
    "phases, steps, switch_step",
    [
        ((2, 1.5, 0.5), 7, 10),  # 10.5 and 3.5 updates, of 14.
        ((2, 1.5, 0.5), 8, 12),
        ((3, 1.5, 0.5), 7, 11),
    ],
)
def test_phases_that_are_both_rounded_up_fit_into_the_run(phases, steps, switch_step):
    epochs, free, warmup = phases
    config = recsys_options.resolve(
        recsys_options.Config(epochs=epochs, free_epochs=free, warmup_epochs=warmup)
    )
    trial = hyperparameters.make_trial(config, steps)
    assert trial["switch_step"] == switch_step
    rate = hyperparameters.learning_rate(config, steps, trial)
    warm_end = switch_step + schedules.epochs_to_steps(warmup, steps)
    close(rate(warm_end - 1), config.learning_rate, 1e-6)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_every_optimizer_runs(name):
    config = recsys_options.resolve(
        recsys_options.Config(
            optimizer=name, epochs=4, free_epochs=2.0, warmup_epochs=1
        )
    )
    trial = hyperparameters.make_trial(config, 1)
    tx = optax.with_extra_args_support(hyperparameters.make_optimizer(config, 1, trial))
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "dense_0": {"bias": draw(3), "kernel": draw(4, 3)},
        "table": {"embedding": draw(6, 4)},
    }
    grads = jax.tree.map(lambda w: w + draw(*w.shape), params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, seen = tx.init(params), [norms(params)]
    for _ in range(4):
        params, state = step(params, state)
        seen.append(norms(params))
    assert np.isfinite(seen).all()
    if name.endswith("-lawn"):
        assert (np.abs(seen[1] - seen[2]) > 0).any()
        close(seen[3], seen[2], 1e-5)
        close(seen[4], seen[2], 1e-5)
