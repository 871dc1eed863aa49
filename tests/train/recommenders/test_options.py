"""Options of recommender runs: what is refused, and what is left to the papers."""

import pytest

from tests.support import tiny_recommenders as tiny
from train.__main__ import main
from train.recommenders import options as recsys_options

BASE = "recsys --quiet --optimizer sgd --epochs 2 --warmup-epochs 1"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.write_ratings(tmp_path_factory.mktemp("data"))


WRONG = {
    "--optimizer adamm": "no optimizer 'adamm'; choose from: sgd, adam, adamw,",
    "--batch-size 0": "--batch-size must be finite and at least 1; got 0",
    "--batch-size 3000000000": "--batch-size must be below 2^31",
    "--epochs 0": "--epochs must be finite and at least 1",
    "--eval-every 0": "--eval-every must be",
    "--micro-batch 0": "--micro-batch must be",
    "--devices 0": "--devices must be",
    "--processes 0": "--processes must be",
    "--warmup-epochs -1": "--warmup-epochs must be",
    "--free-epochs nan": "--free-epochs must be",
    "--weight-decay -0.1": "--weight-decay must be",
    "--gamma -1": "--gamma must be",
    "--flood inf": "--flood must be",
    "--candidate-draws -1": "--candidate-draws must be",
    "--checkpoint-minutes nan": "--checkpoint-minutes must be",
    "--seed -1": "--seed must be",
    "--seed 4294967296": "--seed must be below 2^32",
    "--candidate-seed 4294967296": "--candidate-seed must be below 2^32",
    "--learning-rate 0": "--learning-rate must be finite and above 0; got 0.0",
    "--learning-rate nan": "--learning-rate must be",
    "--clip-norm 0": "--clip-norm must be",
    "--alpha 0": "--alpha must be",
    "--label-smoothing 1.1": "--label-smoothing must be at most 1; got 1.1",
    "--label-smoothing -0.1": "--label-smoothing must be",
    "--optimizer adam --weight-decay 0.1": "adam takes no --weight-decay",
    "--optimizer adam-bounded --weight-decay 0.1": "adam-bounded takes no",
    "--epochs 79 --free-epochs 50 --warmup-epochs 30": "--epochs 79 are fewer than the"
    " 80 of the free phase",
    "--optimizer adam --epochs 29 --warmup-epochs 30": "--epochs 29 are fewer than the",
    "--schedule two-phase --epochs 30 --free-epochs 31": "--epochs 30 are fewer than",
    "--optimizer adam --switch mean-margin": "needs a -lawn optimizer",
    "--switch mean-margin --schedule three-phase": "needs --schedule two-phase",
    "--optimizer adam --alpha 0.5": "--alpha needs a -lawn optimizer",
    "--optimizer adamw --constrain tower": "--constrain needs a -lawn optimizer",
    "--loss focal --label-smoothing 0.1": "--label-smoothing goes with --loss bce",
    "--parallel pmap --shard-state": "--shard-state goes with --parallel jit",
    "--process 1": "--process must be 0 to 0",
    "--processes 2": "several --processes need --coordinator HOST:PORT",
    "--coordinator 127.0.0.1:1": "and one needs none",
    "--epochs 1000000000": "--epochs must be below 2^20",
    "--warmup-epochs 1e12": "--warmup-epochs must be below 2^20",
    "--schedule two-phase --free-epochs 1e12": "--free-epochs must be below 2^20",
    "--epochs 1000000 --batch-size 1": "1000000 epochs of",
    "--candidate-draws 100000000": "100,000,000 draws of candidates need",
    "--processes 2 --coordinator=": "nothing is given after --coordinator",
    "--processes 2 --coordinator localhost": "with a port of 1 to 65535; got 'localhos",
    "--processes 2 --coordinator localhost:": "--coordinator must be HOST:PORT",
    "--processes 2 --coordinator :80": "--coordinator must be HOST:PORT",
    "--processes 2 --coordinator localhost:65536": "--coordinator must be HOST:PORT",
    "--processes 2 --coordinator localhost:-1": "--coordinator must be HOST:PORT",
    "--processes 2 --coordinator 192.0.2.1:80": "process 0 of 2 could not join at",
    "--candidate-draws 0": "ml-100k has no candidates of its own",
    "--dataset ml-1m": "lacks ratings.dat",
    "--data-dir nowhere": "--data-dir nowhere is not a folder",
    "--tower 5-layer": "5-layer",
}


def test_wrong_options_are_one_line_and_leave_no_trace(files, tmp_path, capsys):
    for options, message in WRONG.items():
        out = tmp_path / "run"
        arguments = ["recsys", f"--data-dir={files}", f"--out={out}", *options.split()]
        assert main(arguments) == 2, options
        output, error = capsys.readouterr()
        assert output == "" and error.startswith("error: ") and message in error
        assert error.count("\n") == 1
        assert not out.exists()


def test_the_least_epochs_and_the_forms_with_decay_are_accepted():
    for options in (
        {"epochs": 80, "free_epochs": 50.0, "warmup_epochs": 30.0},
        {"epochs": 30, "schedule": "two-phase", "warmup_epochs": 30.0},
        {"optimizer": "adamw", "epochs": 30, "weight_decay": 0.1},
        {"weight_decay": 0.1},
        {"label_smoothing": 1.0},
    ):
        recsys_options.resolve(recsys_options.Config(**options))


def test_defaults_are_those_of_the_papers():
    def resolved(**options):
        settings = recsys_options.resolve(recsys_options.Config(**options))
        return settings.epochs, settings.schedule, settings.warmup_epochs

    assert resolved() == (300, "three-phase", 30)
    assert resolved(preset="arxiv-500") == (500, "three-phase", 30)
    assert resolved(preset="submission") == (300, "two-phase", 30)
    assert resolved(preset="submission", epochs=90) == (90, "two-phase", 9)
    assert resolved(switch="mean-margin") == (300, "two-phase", 30)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_file_is_named_and_nothing_is_written(damage, files, tmp_path, capsys):
    content = (files / "u.data").read_text()
    lines = content.splitlines(keepends=True)
    lines[41] = {"cut": "3\t17\n", "text": "a\tb\tc\td\n"}.get(damage, "")
    (tmp_path / "u.data").write_text("" if damage == "empty" else "".join(lines))
    command = [*BASE.split(), f"--data-dir={tmp_path}", f"--out={tmp_path / 'run'}"]
    assert main(command) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.count("\n") == 1 and "u.data" in error
    assert damage == "empty" or "42" in error
    assert not (tmp_path / "run").exists()
