"""Sweeps of recommenders: trials, the choice among them, and the final runs."""

import json

import pytest

from tests.support import tiny_recommenders as tiny
from tests.support.asserts import close
from train import loop, sweep
from train import trials as trial_runs
from train.__main__ import main
from train.devices import Devices
from train.errors import InputError
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options
from train.runs import folder as runs

# Trials of 2 of 6 epochs, at 8 steps each: a third of all phases but the free one.
OPTIONS = "sweep recsys --quiet --batch-size 500 --candidate-draws 2 --epochs 6"
OPTIONS += " --warmup-epochs 1.5 --trial-epochs 2 --eval-every 1 --seeds 0"
OPTIONS += " --checkpoint-minutes 0"
SWEEP = f"{OPTIONS} --optimizers adam-lawn --rates 0.002 0.02 1e30 --free 0.75 1.5"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.write_ratings(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def call(files):
    def call(options, out):
        return main([*options.split(), f"--data-dir={files}", f"--out={out}"])

    return call


@pytest.fixture(scope="module")
def folder(call, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "run"
    assert call(SWEEP, out) == 0
    return out


def trials(folder):
    lines = (folder / "trials.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def read(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_trial_has_its_row_and_the_best_is_trained_in_full(folder):
    found = trials(folder)
    assert [(row["learning_rate"], row["free_epochs"]) for row in found] == [
        (rate, free) for rate in (0.002, 0.02, 1e30) for free in (0.75, 1.5)
    ]
    for row in found[:4]:
        assert row["optimizer"] == "adam-lawn" and row["batch_size"] == 500
        assert row["outcome"] == "finished" and row["seed"] == 0
        assert 0 <= row["hr"] <= 1 and 0 <= row["ndcg"] <= 1 and 0 <= row["auc"] <= 1
        assert row["hr"] <= row["best"]["hr"] <= 1 and row["best"]["epoch"] in (1, 2)
    for row in found[4:]:
        assert row["outcome"].startswith("diverged at step ") and row["best"] is None
    best = max(found[:4], key=lambda row: row["hr"])
    assert read(folder / "summary.json")["best"]["adam-lawn"] == {
        "learning_rate": best["learning_rate"],
        "free_epochs": best["free_epochs"],
    }
    final = folder / "final" / "adam-lawn-seed0"
    config = read(final / "config.json")["config"]
    expected = {
        **{"optimizer": "adam-lawn", "seed": 0, "epochs": 6, "warmup_epochs": 1.5},
        **{"learning_rate": best["learning_rate"], "free_epochs": best["free_epochs"]},
        **{"validation": False, "batch_size": 500, "candidate_draws": 2},
    }
    assert expected.items() <= config.items()
    summary = read(final / "summary.json")
    assert summary["outcome"] == "finished" and summary["last"]["epoch"] == 6
    assert summary["switched_at"] == 8 * best["free_epochs"]
    assert [path.name for path in (folder / "final").iterdir()] == [final.name]


@pytest.mark.slow
def test_table_says_how_was_chosen(folder):
    text = (folder / "table.md").read_text()
    assert "2 epochs, all phases but the free one shortened from 6" in text
    assert "second-latest (validation) item" in text
    lines = [line for line in text.splitlines() if line.startswith("| adam-lawn")]
    assert len(lines) == 6 and sum("| best |" in line for line in lines) == 1
    (marked,) = (line for line in lines if "| best |" in line)
    top = max(trials(folder)[:4], key=lambda row: row["hr"])
    assert f"rate {top['learning_rate']:g}, free {top['free_epochs']:g}" in marked
    assert f"| {100 * top['hr']:.2f} " in marked
    assert lines[4].count("diverged at step") == 1


@pytest.mark.slow
def test_a_trial_equals_a_run_with_the_same_options(folder, files):
    # The second.
    config = recsys_options.resolve(
        recsys_options.Config(
            data_dir=files,
            optimizer="adam-lawn",
            batch_size=500,
            candidate_draws=2,
            epochs=2,
            warmup_epochs=0.5,
            free_epochs=1.5,
            learning_rate=0.002,
            eval_every=1,
            validation=True,
            quiet=True,
            out=folder.parent / "single",
        )
    )
    loop.execute(recsys.EXPERIMENT, config, Devices(limit=1), recsys.load_data(config))
    summary = read(folder.parent / "single" / "summary.json")
    last, trial = summary["last"], trials(folder)[1]
    assert trial["best"]["epoch"] == summary["best"]["epoch"]
    close(trial["best"]["hr"], summary["best"]["hr"], 1e-6)
    close(trial["hr"], last["hr"], 1e-6)
    close([trial["ndcg"], trial["auc"]], [last["ndcg"], last["auc"]], 1e-4)


@pytest.mark.slow
def test_interrupted_sweep_goes_on_and_at_once_changes_nothing(
    folder, call, tmp_path, monkeypatch
):
    def interrupt(*_, **options):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:  # After the last checkpoint of the trials.
        patch.setattr(runs.Run, "finish", interrupt)
        assert call(f"{SWEEP} --at-once 4", out) == 130
    assert not (out / "trials.jsonl").exists()
    with monkeypatch.context() as patch:  # Before the final runs.
        patch.setattr(sweep, "finals", interrupt)
        assert call(f"{SWEEP} --at-once 4", out) == 130
    for one, other in zip(trials(out), trials(folder), strict=True):
        assert one.keys() == other.keys()
        assert one["outcome"] == other["outcome"]
        if one["outcome"] == "finished":
            close(one["hr"], other["hr"], 0, atol=1 / 30 + 1e-6)
            close([one["ndcg"], one["auc"]], [other["ndcg"], other["auc"]], 0.02)


@pytest.mark.slow
def test_finished_sweep_trains_nothing_again(folder, call, monkeypatch, capsys):
    monkeypatch.setattr(recsys.programs, "advance", lambda *_: 1 / 0)
    before = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "summary.json"
    }
    assert call(SWEEP, folder) == 0
    assert "| best |" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())


def test_protocol_of_the_papers_chooses_by_the_test_item():
    def chosen(**options):
        config = recsys_options.SweepConfig(epochs=300, trial_epochs=100, **options)
        member = {"learning_rate": 0.1, "free_epochs": 60.0, "seed": 4}
        trial = sweep.trial_config(recsys.EXPERIMENT, config, "adam-lawn", member)
        assert (trial.learning_rate, trial.seed) == (0.1, 4)
        return trial.validation

    assert chosen() is True
    assert chosen(protocol="papers") is False
    text = sweep.table(
        recsys.EXPERIMENT,
        recsys_options.SweepConfig(optimizers=("sgd",), protocol="papers"),
        [],
    )
    assert "latest (test) item" in text


def test_the_free_phase_of_a_short_trial_is_whole_unless_it_is_shortened_too():
    def trial(free, **options):
        config = recsys_options.SweepConfig(epochs=300, trial_epochs=100, **options)
        member = {"free_epochs": free}
        found = sweep.trial_config(recsys.EXPERIMENT, config, "adam-lawn", member)
        assert (found.epochs, found.warmup_epochs) == (100, 10)
        return found.free_epochs, sweep.table(recsys.EXPERIMENT, config, [])

    free, text = trial(60.0)
    assert free == 60
    assert "100 epochs, all phases but the free one shortened from 300. " in text
    free, text = trial(60.0, trial_free="shortened")
    assert free == 20
    assert "100 epochs, all phases shortened from 300 (the free epochs" in text
    with pytest.raises(InputError, match="100 is less than the 105 of a whole"):
        trial(95.0)


def row(rate, hr, seed=0, outcome="finished", **others):
    shown = {"learning_rate": rate, "weight_decay": 0.0, "seed": seed, "hr": hr}
    return {"optimizer": "sgd", "outcome": outcome} | shown | others


def test_the_best_is_the_highest_mean_of_what_finished():
    assert sweep.best([row(1, 0.2), row(2, 0.4), row(3, 0.3)], "sgd", "hr") == {
        "learning_rate": 2,
        "weight_decay": 0.0,
    }
    several = [row(1, 0.2), row(1, 0.5, 1), row(2, 0.4), row(2, 0.4, 1)]
    assert sweep.best(several, "sgd", "hr")["learning_rate"] == 2
    # One seed that diverged rules a trial out; NaN is never the best.
    diverged = [row(1, 0.9), row(1, 0.9, 1, "diverged at step 3"), row(2, 0.1)]
    assert sweep.best(diverged, "sgd", "hr")["learning_rate"] == 2
    assert (
        sweep.best([row(1, 0.3), row(2, 0.3)], "sgd", "hr")["learning_rate"] == 1
    )  # The first.
    assert sweep.best([row(1, None, outcome="diverged at step 3")], "sgd", "hr") is None


def test_no_final_run_where_all_trials_diverged(tmp_path):
    lost = [row(1, None, outcome="diverged at step 3")]
    text = sweep.finals(
        recsys.EXPERIMENT,
        recsys_options.SweepConfig(optimizers=("sgd",), seeds=(0,)),
        lost,
        tmp_path,
        Devices(limit=1),
    )
    assert text == "sgd: every trial diverged, so there is no final run"
    assert not list(tmp_path.iterdir())


def values(members, name):
    return sorted({member[name] for member in members})


def test_grids():
    config = recsys_options.SweepConfig()
    sizes = {
        name: len(sweep.grid(recsys.EXPERIMENT, config, name))
        for name in config.optimizers
    }
    assert set(sizes.values()) == {9}
    papers = recsys_options.SweepConfig(grid="papers", trial_seeds=(0, 1))
    rates = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2]
    sgd_rates = [1e-2, 5e-2, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.75, 5.0]
    decays, free = [0.0, 1e-4, 1e-3, 1e-2, 1e-1], [0.1, 1.0, 5.0, 20.0, 50.0, 100.0]
    for name in ("adamw", "lamb", "lamb-plus", "sgd", "adamw-bounded"):
        members = sweep.grid(recsys.EXPERIMENT, papers, name)
        mine = sgd_rates if name == "sgd" else rates
        assert values(members, "learning_rate") == mine
        assert values(members, "weight_decay") == decays
        assert len(members) == 2 * len(mine) * len(decays)
        assert values(members, "seed") == [0, 1]
    for name in ("adam-lawn", "adamw-lawn", "lamb-lawn", "lamb-plus-lawn", "sgd-lawn"):
        members = sweep.grid(recsys.EXPERIMENT, papers, name)
        mine = sgd_rates if name == "sgd-lawn" else rates
        assert values(members, "learning_rate") == mine
        assert values(members, "free_epochs") == free
        assert len(members) == 2 * len(mine) * len(free)
        assert "weight_decay" not in members[0]
    assert values(sweep.grid(recsys.EXPERIMENT, papers, "adam"), "weight_decay") == [
        0.0
    ]
    own = recsys_options.SweepConfig(
        grid="papers", rates=(0.3,), decays=(0.5,), free=(7.0, 8.0)
    )
    assert sweep.grid(recsys.EXPERIMENT, own, "sgd") == [
        {"learning_rate": 0.3, "weight_decay": 0.5, "seed": 0}
    ]
    assert values(sweep.grid(recsys.EXPERIMENT, own, "lamb-lawn"), "free_epochs") == [
        7.0,
        8.0,
    ]


def test_the_grids_of_the_papers_table_2():
    # arXiv, Appendix D.5: rates for each method, flood levels, label smoothing of 0.05;
    # for weight decay and LAWN as many values as flood levels, of Table 8.
    decays, free = [0.001, 0.01, 0.1], [5.0, 20.0, 50.0]
    sizes = {}
    for grid in ("papers-remedies", "papers-flooding"):
        config = recsys_options.SweepConfig(grid=grid, dataset="ml-1m-ncf")
        for name in ("adam", "adam-bounded", "adamw", "adam-lawn"):
            members = sweep.grid(recsys.EXPERIMENT, config, name)
            sizes[grid, name] = len(members)
            assert values(members, "learning_rate") == [0.001, 0.005, 0.01]
            if grid == "papers-flooding":
                assert values(members, "flood") == [0.2, 0.3, 0.4]
            else:
                assert "flood" not in members[0]
            if name == "adamw":
                assert values(members, "weight_decay") == decays
            if name == "adam-lawn":
                assert values(members, "free_epochs") == free
    assert list(sizes.values()) == [3, 3, 9, 9, 9, 9, 27, 27]
    own = recsys_options.SweepConfig(grid="papers-flooding", floods=(0.1,))
    members = sweep.grid(recsys.EXPERIMENT, own, "adam")
    assert values(members, "flood") == [0.1] and len(members) == 3
    for name in ("lamb", "sgd-lawn"):
        with pytest.raises(InputError, match="papers-flooding is for Adam and its for"):
            sweep.grid(recsys.EXPERIMENT, own, name)


def test_flood_levels_are_tried_each_in_a_program_of_its_own(tmp_path, monkeypatch):
    def train(experiment, config, name, members, place, loaded, devices):
        found = [sweep.trial_config(experiment, config, name, m) for m in members]
        (flood,) = {trial.flood for trial in found}
        return [row(m["learning_rate"], flood, flood=flood) for m in members] + [place]

    monkeypatch.setattr(trial_runs, "_train_alike", train)
    config = recsys_options.SweepConfig(rates=(0.1, 0.2), floods=(0.2, 0.3), flood=9.0)
    members = sweep.grid(recsys.EXPERIMENT, config, "adam")
    assert len(members) == 4
    arguments = recsys.EXPERIMENT, config, "adam", members, tmp_path, None, None
    *first, one, third, fourth, other = sweep.train_together(*arguments)
    assert (one.name, other.name) == ("adam-flood-0.2", "adam-flood-0.3")
    best = sweep.best([*first, third, fourth], "sgd", "hr")
    assert best == {"learning_rate": 0.1, "weight_decay": 0.0, "flood": 0.3}
    assert sweep.describe(best) == "rate 0.1, decay 0, flood 0.3"


@pytest.mark.parametrize(
    "options, message",
    [
        ("--optimizers adam --floods -1", "--floods must be finite and at least 0"),
        ("--optimizers adam adam", "--optimizers needs different names"),
        ("--optimizers adam nadam", "no optimizer 'nadam'"),
        ("--optimizers adam --rates 0.1 -1", "--rates must be finite and above 0"),
        ("--optimizers adam --candidate-draws 0", "no candidates of its own"),
        ("--optimizers adam --data-dir nowhere", "nowhere is not a folder"),
        ("--optimizers adam --seeds -1", "--seeds must be finite and at least 0"),
        ("--optimizers adam --seeds 0 0", "--seeds needs different values; got 0 0"),
        ("--optimizers adam --rates 0.1 0.1", "--rates needs different values"),
        ("--optimizers adam --trial-epochs -1", "--trial-epochs must be finite and"),
        ("--optimizers adam --trial-epochs 7", "--trial-epochs 7 is more than the 6"),
        ("--optimizers adam --at-once 0", "--at-once must be finite and at least 1"),
    ],
)
def test_wrong_options_are_one_line_and_leave_no_trace(
    options, message, files, tmp_path, capsys
):
    out = tmp_path / "run"
    arguments = [*OPTIONS.split(), f"--data-dir={files}", f"--out={out}"]
    assert main([*arguments, *options.split()]) == 2
    output, error = capsys.readouterr()
    assert output == "" and message in error and error.count("\n") == 1
    assert not out.exists()
