"""The main job, through its real entry with a shrunk configuration."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import lawn_optax as lawn
from lawn_optax import metrics, schedules
from models import MLP
from tests.support import events
from tests.support import interruptions as killed
from train.__main__ import main
from train.digits import experiment as digits
from train.rules import neutral_names
from train.runs import records

# Four steps; switches after steps 0 and 2, the second warm-up is one step.
SMALL = "digits --epochs 2 --seeds 2 --trials 2 --hidden 8 --eval-every 1 --quiet"
SMALL += " --warmup 0.25 --free 0 0.5 --learning-rates 0.01 0.01"
SMALL += " --checkpoint-minutes 0"
FILES = [
    "checkpoints",
    "config.json",
    "curves.png",
    "events.out.tfevents.0.run",
    "metrics.jsonl",
    "summary.json",
    "table.md",
]


def run(command, **options):
    return main([*command.split(), *(f"--{k}={v}" for k, v in options.items())])


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "parent" / "run"
    assert run(f"{SMALL} --optimizers adam adam-lawn", out=out) == 0
    return out


def test_run_folder_holds_its_files_and_nothing_private(folder):
    assert names(folder) == FILES
    assert names(folder.parent) == ["run"]  # No temporary folder is left.
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["batch_size"] == 449
    assert config["versions"]["jax"] == jax.__version__
    assert config["device"]["platform"] == jax.default_backend()
    for path in folder.glob("*.*[!g]"):
        assert str(folder.parent).encode() not in path.read_bytes()


def test_every_member_has_its_rows_and_every_optimizer_its_line(folder):
    members = [
        (r["optimizer"], r["trial"], r["seed"], r["epoch"]) for r in rows(folder)
    ]
    assert sorted(members) == [
        (optimizer, trial, seed, epoch)
        for optimizer in ("adam", "adam-lawn")
        for trial in (0, 1)
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    ]
    assert [epoch for *_, epoch in members] == [0] * 8 + [1] * 8 + [2] * 8
    table = (folder / "table.md").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    for name, values in summary.items():
        best = values["best_trial"]
        last = [
            r["test_accuracy"]
            for r in rows(folder)
            if (r["optimizer"], r["trial"], r["epoch"]) == (name, best, 2)
        ]
        cell = f"{100 * np.mean(last):.2f} ± {100 * np.std(last, ddof=1):.2f}"
        assert any(
            line.startswith(f"| {name} ") and cell in line
            for line in table.splitlines()
        )


def test_a_member_of_the_grid_equals_a_plain_loop(folder):
    config = digits.Config(hidden=(8,))
    images, labels = digits.load_data(config.split_seed)["train"]
    seed, switch = 1, 2
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    params = jax.tree.map(lambda x: x[seed], digits.init_params((8, 10), keys))
    tx = lawn.adam(schedules.three_phase(0.01, switch, 1, 4), switch_step=switch)
    state = tx.init(params)

    def logits_of(params, images):
        return MLP((8, 10)).apply(params, images)

    def loss_of(params, images, labels):
        chances = jax.nn.log_softmax(logits_of(params, images))
        return -chances[jnp.arange(len(labels)), labels].mean()

    @jax.jit
    def step(params, state, images, labels):
        grads = jax.grad(loss_of)(params, images, labels)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(keys[seed], epoch), 898)
        for rows_ in (order[:449], order[449:]):
            params, state = step(params, state, images[rows_], labels[rows_])
    logits = np.asarray(logits_of(params, images))
    norm = sum((np.float64(x) ** 2).sum() for x in jax.tree.leaves(params)) ** 0.5
    expected = {
        "loss": loss_of(params, images, labels),
        "train_accuracy": (logits.argmax(-1) == labels).mean(),
        "median_margin": np.median(metrics.multiclass_margin(logits, labels)),
        "weight_norm": norm,
    }
    member = {"optimizer": "adam-lawn", "trial": 1, "seed": seed, "epoch": 2}
    (row,) = [r for r in rows(folder) if member.items() <= r.items()]
    # Another order of float32 sums; one of 898 images may change sides.
    for name, value in expected.items():
        slack = 1.1 / 898 if name == "train_accuracy" else 1e-4
        np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=slack)


def test_norms_stop_at_the_switch_of_each_trial(folder):
    norms = {}
    for row in rows(folder):
        if row["seed"] == 0:
            member = norms.setdefault((row["optimizer"], row["trial"]), [])
            member.append([row["norm_dense_0"], row["norm_dense_1"]])
    for (optimizer, trial), values in norms.items():
        first, second = np.abs(np.diff(values, axis=0)).max(axis=1)
        held = 2e-6 * np.max(values)
        assert (first > held) == (optimizer == "adam" or trial == 1)
        assert (second > held) == (optimizer == "adam")


def test_finished_run_is_shown_again_and_keeps_all_files(folder, capsys):
    notes = folder / "notes.txt"
    notes.write_text("mine")
    before = {name: (folder / name).read_bytes() for name in FILES[1:] + [notes.name]}
    assert run(f"{SMALL} --optimizers adam adam-lawn", out=folder) == 0
    output = capsys.readouterr().out
    assert (folder / "table.md").read_text().strip().splitlines()[-1] in output
    assert before == {name: (folder / name).read_bytes() for name in before}
    notes.unlink()


@pytest.mark.slow
def test_killed_run_ends_in_the_same_bytes(folder, tmp_path, capsys):
    out = tmp_path / "run"
    command = [*SMALL.split(), "--optimizers", "adam", "adam-lawn", f"--out={out}"]
    # After the rows of epoch 1, before its checkpoint; before the one of epoch 2.
    for number, kept in ((1, []), (2, ["1"])):
        killed.run_until("save", number, command)
        assert not (out / "summary.json").exists()
        assert [x.name for x in (out / "checkpoints").iterdir()] == kept
    assert main(command) == 0
    assert "resuming from epoch 1" in capsys.readouterr().out
    name = "metrics.jsonl"
    assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert events.without_times(out) == events.without_times(folder)
    one, other = (summary_without_times(path) for path in (out, folder))
    assert one == other
    states = (killed.checkpoint(path, 2) for path in (out, folder))
    jax.tree.map(np.testing.assert_array_equal, *states)


def summary_without_times(folder):
    summary = json.loads((folder / "summary.json").read_text())
    for values in summary.values():
        del values["seconds"], values["compile_seconds"]
    return summary


def test_a_learning_rate_that_diverges_gives_a_row_and_the_others_go_on(
    tmp_path, capsys
):
    rates = "--learning-rates 1e-2 1e30 --optimizers adam"
    assert run(f"{SMALL} {rates}", out=tmp_path / "run") == 0
    output = capsys.readouterr().out
    # The first update makes the weights huge, the second meets the infinite loss.
    assert "| learning rate 1e+30 | diverged at step 2 (2 of 2 runs)" in output
    last = [r for r in rows(tmp_path / "run") if r["epoch"] == 2]
    assert [r["loss"] is None for r in last] == [False, False, True, True]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["adam"]
    assert summary["best_trial"] == 0
    assert summary["trials"][1]["diverged_step"] == [2, 2]


@pytest.mark.parametrize(
    "command, message",
    [
        ("digit", "unknown experiment 'digit'; choose from: digits"),
        (
            "digits --epoch 3",
            "Unrecognized options: --epoch, 3; see python -m train digits --help",
        ),
        ("digits --epochs many", "Error parsing --epochs: invalid literal"),
        (
            "digits --optimizers adam rmsprop",
            "no optimizer 'rmsprop'; choose from: sgd",
        ),
        ("digits --optimizers", "--optimizers needs different names"),
        ("digits --optimizers adam adam", "--optimizers needs different names"),
        ("digits --hidden 8 0", "--hidden widths must be at least 1"),
        ("digits --hidden 9000000", "this grid needs about"),
        ("digits --batch-size 899", "--batch-size must be at most 898; got 899"),
        ("digits --batch-size 0", "--batch-size must be finite and at least 1"),
        ("digits --trials 0", "--trials must be finite and at least 1; got 0"),
        ("digits --warmup nan", "--warmup must be finite and at least 0; got nan"),
        ("digits --free 0.1 0.1 0.2", "--free needs different values; got 0.1 0.1"),
        ("digits --epochs 0", "--epochs must be finite and at least 1; got 0"),
        ("digits --epochs 99999999999", "--epochs must be below 2^20"),
        ("digits --seeds 0", "--seeds must be finite and at least 1"),
        ("digits --eval-every 0", "--eval-every must be finite and at least 1"),
        ("digits --split-seed -1", "--split-seed must be finite and at least 0"),
        ("digits --learning-rates 0.1 0.01", "--learning-rates must be the lowest"),
        ("digits --learning-rates 0 0.01", "--learning-rates must be the lowest"),
        ("digits --learning-rates 0.1 nan", "--learning-rates must be the lowest"),
        ("digits --weight-decays -1", "--weight-decays must be finite"),
        ("digits --free 0.5 --warmup 0.6", "--warmup and --free are shares"),
        ("digits --free nan", "--free must be finite and at least 0; got nan"),
        ("digits --free 0.2 nan", "--free must be finite and at least 0; got nan"),
        ("digits --free -0.1", "--free must be finite and at least 0; got -0.1"),
        ("digits --trials 8", "--trials must be a positive multiple of the 3 values"),
        ("digits --weight-decays", "--trials must be a positive multiple of the 0"),
        ("digits --out notes.txt", "notes.txt is not a folder"),
        ("digits --out notes.txt/run", "notes.txt/run: Not a directory"),
        ("digits --out .", ". holds files but no run"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2(
    command, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert run(command) == 2
    output, error = capsys.readouterr()
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1 and error.endswith("\n")
    assert output == ""
    assert names(tmp_path) == ["notes.txt"]


def test_folder_of_another_configuration_is_refused_and_kept(folder, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    assert run(f"{SMALL} --optimizers adam --split-seed 1", out=out) == 2
    assert "(optimizers, split_seed differ)" in capsys.readouterr().err
    for name in FILES[1:]:
        assert (out / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_interrupted_run_goes_on(folder, tmp_path, capsys):
    out = tmp_path / "run"
    command = f"{SMALL} --optimizers adam adam-lawn"
    with killed.interrupted_at(2):
        assert run(command, out=out) == 130
    assert capsys.readouterr().err.startswith("interrupted: the same command")
    assert run(command, out=out) == 0
    assert (out / "metrics.jsonl").read_bytes() == (
        folder / "metrics.jsonl"
    ).read_bytes()


def test_default_folder_depends_on_the_options_alone():
    def default(**options):
        config = digits.Config(**options)
        names = neutral_names(config)
        return records.default_folder(records.run_config("digits", config, names))

    assert default().parts[:2] == ("runs", "digits")
    assert default() == default(quiet=True, checkpoint_minutes=1.0)
    assert default() != default(split_seed=1)


def test_splits_are_stratified_disjoint_and_follow_the_seed():
    data = digits.load_data(0)
    counts = {k: np.bincount(labels, minlength=10) for k, (_, labels) in data.items()}
    total = sum(counts.values())
    assert {k: v.sum() for k, v in counts.items()} == {
        "train": 898,
        "validation": 449,
        "test": 450,
    }
    for name, share in (("train", 0.5), ("validation", 0.25), ("test", 0.25)):
        assert np.abs(counts[name] - share * total).max() <= 1
    images = np.concatenate([np.asarray(images) for images, _ in data.values()])
    assert images.min() == 0 and images.max() == 1
    every, _ = load_digits(return_X_y=True)
    # No image is used twice: together the splits are the whole set.
    assert sorted(map(tuple, 16 * images)) == sorted(map(tuple, every))
    other = digits.load_data(1)
    assert not np.array_equal(data["train"][0], other["train"][0])


def test_free_phases_of_equal_steps_are_one_trial():
    short = digits.check(digits.Config(epochs=5, trials=6))
    trials = digits.grid(short, "adam-lawn")
    assert [trial["switch_step"] for trial in trials] == 2 * [0, 1, 2]
    shorter = digits.check(digits.Config(epochs=2, trials=6))
    trials = digits.grid(shorter, "adam-lawn")
    assert [trial["switch_step"] for trial in trials] == 3 * [0, 1]
    assert len({trial["learning_rate"] for trial in trials}) == 3


def test_help_without_arguments(capsys):
    assert main([]) == 0
    assert "digits" in capsys.readouterr().out
