"""A user who shortens a run and says nothing of the rest gets a run that fits."""

import re
import shlex
from pathlib import Path

import pytest

from tests.support import image_files as images
from tests.support.rating_files import refused
from train import hyperparameters, sweep, trials
from train.__main__ import main, parse
from train.images import experiment as image
from train.images import options as image_options
from train.recommenders import experiment as recsys
from train.recommenders import options as recsys_options

ROOT = Path(__file__).parents[2]


def recommender(**options):
    return recsys_options.resolve(recsys_options.Config(**options))


def classifier(**options):
    return image_options.resolve(image_options.Config(**options))


@pytest.mark.parametrize(
    "resolve, options, expected",
    [
        (recommender, {"epochs": 30}, (5, 3)),
        (recommender, {"epochs": 30, "preset": "arxiv-500"}, (3, 1.8)),
        (recommender, {"epochs": 30, "free_epochs": 7.0}, (7, 3)),
        (recommender, {"epochs": 30, "warmup_epochs": 9.0}, (5, 9)),
        (recommender, {"epochs": 600}, (50, 30)),
        (recommender, {}, (50, 30)),
        (classifier, {"epochs": 5}, (0.8333, 0.5)),
        (classifier, {"epochs": 30, "preset": "arxiv"}, (0.5, 2)),
        (
            classifier,
            {"epochs": 9, "preset": "arxiv", "dataset": "imagenet"},
            (0.5, 0.5),
        ),
    ],
)
def test_free_phase_and_warm_up_shrink_with_the_epochs(resolve, options, expected):
    settings = resolve(**options)
    assert (settings.free_epochs, settings.warmup_epochs) == expected
    named = {
        "free phase": "free_epochs" not in options and settings.epochs < 90,
        "warm-up": "warmup_epochs" not in options and settings.epochs < 90,
    }
    assert {name: name in settings.shortened for name in named} == named
    assert bool(settings.shortened) == any(named.values())


def test_the_line_says_what_was_scaled():
    assert recommender(epochs=30).shortened == (
        "Shortened from 300 epochs, with free phase (5 epochs) and warm-up (3 epochs)"
        " alike; --free-epochs and --warmup-epochs would set other values."
    )
    line = recommender(epochs=30, optimizer="adamw").shortened
    assert "warm-up (3 epochs)" in line and "free" not in line
    assert "free" not in recommender(epochs=30, switch="mean-margin").shortened


def test_the_batch_shrinks_with_the_images():
    sizes = {None: 4000, 2000: 160, 50_000: 4000, 10**6: 4000, 300: 24, 60: 4, 5: 1}
    assert {n: classifier(images=n).batch_size for n in sizes} == sizes
    assert classifier(images=2000, batch_size=64).batch_size == 64
    assert "batch of 160 goes with 2,000 images" in classifier(images=2000).shortened
    # The values for small batches.
    settings = classifier(images=2000, dataset="imagenet", optimizer="adamw")
    assert settings.learning_rate == 1.25e-3
    refused(lambda: classifier(batch_size=0), "--batch-size must be finite and at")
    refused(lambda: recommender(epochs=-3), "--epochs must be finite and at least 1")


def test_what_is_recorded_is_a_run_of_its_own():
    """Options read from a ``config.json`` give the same run."""
    settings = recommender(epochs=30)
    again = recommender(
        epochs=30, free_epochs=settings.free_epochs, warmup_epochs=3.0, preset="arxiv"
    )
    assert again.shortened == "" and again.free_epochs == settings.free_epochs


@pytest.mark.parametrize(
    "experiment, options, free",
    [
        (recsys.EXPERIMENT, {"epochs": 30}, (2, 5, 10)),
        (recsys.EXPERIMENT, {"epochs": 30, "free": (4.0,)}, (4,)),
        (image.EXPERIMENT, {"epochs": 3}, (0.1, 0.3, 0.9)),
        (image.EXPERIMENT, {"images": 2000}, (1, 3, 9)),
    ],
)
def test_a_sweeps_grid_shrinks_too(experiment, options, free):
    config = experiment.sweep.Options(**options)
    members = trials.grid(experiment, config, "adam-lawn")
    assert tuple(dict.fromkeys(x["free_epochs"] for x in members)) == free
    found = [trials.trial_config(experiment, config, "adam-lawn", x) for x in members]
    line = sweep.introduction(experiment, config, {"adam-lawn": found}, Path("out"))
    grid = "--free " in line
    assert grid == ("epochs" in options and "free" not in options)
    assert not grid or "instead of" in line


@pytest.mark.parametrize("trial_free, same", [("whole", True), ("shortened", False)])
def test_until_the_switch_a_short_trial_is_the_full_run(trial_free, same):
    """Its learning rates are the same, with the schedule of three phases."""
    config = recsys_options.SweepConfig(trial_epochs=120, trial_free=trial_free)
    member = {"learning_rate": 0.1, "free_epochs": 50.0}

    def free_rates(make):
        run = make(recsys.EXPERIMENT, config, "adam-lawn", **member)
        trial = hyperparameters.make_trial(run, 5)
        rate = hyperparameters.learning_rate(run, 5, trial)
        return [float(rate(step)) for step in range(trial["switch_step"])]

    def short(*args, **member):
        return trials.trial_config(*args, member)

    assert (free_rates(short) == free_rates(trials.make_config)) == same


def test_a_sweep_with_a_switch_by_margin_tries_no_free_epochs():
    options = {"epochs": 60, "trial_epochs": 30, "switch": "median-margin"}
    config = recsys_options.SweepConfig(**options)
    members = trials.grid(recsys.EXPERIMENT, config, "adam-lawn")
    assert [x["learning_rate"] for x in members] == [1e-3, 2e-3, 4e-3]
    assert not any("free_epochs" in member for member in members)
    found = [
        trials.trial_config(recsys.EXPERIMENT, config, "adam-lawn", member)
        for member in members
    ]
    assert {(run.epochs, run.switch) for run in found} == {(30, "median-margin")}
    line = sweep.introduction(recsys.EXPERIMENT, config, {"adam-lawn": found}, ROOT)
    assert "--free " not in line
    config = recsys_options.SweepConfig(**options, free=(2.0,))
    refused(
        lambda: trials.grid(recsys.EXPERIMENT, config, "adam-lawn"),
        "--free has no effect with --switch median-margin; leave it out",
    )


def test_a_refused_sweep_leaves_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(image, "HELD_OUT", 12)
    files = images.write_binary(tmp_path, images.some_tables("cifar10", count=12))
    out = tmp_path / "run"
    command = ["sweep", "image", f"--data-dir={files}", f"--out={out}"]
    assert main([*command, "--batch-size=4000"]) == 2
    error = capsys.readouterr().err
    assert "--batch-size 4000 is more than the 48 training images" in error
    assert not out.exists()


def commands(*pages):
    """The runs and sweeps that pages show, as a shell would split them."""
    for page in pages:
        for line in (ROOT / page).read_text().splitlines():
            found = re.search(
                r"python -m train ((?:sweep )?(?:recsys|image)\b.*)", line
            )
            inside = found and found[1].partition("`")[0]
            if inside and line.lstrip().startswith(("python", "XLA_FLAGS", "`python")):
                yield inside


GUIDES = list(commands("docs/guide/recommenders.md", "docs/guide/images.md"))


@pytest.mark.parametrize("line", GUIDES)
def test_the_commands_of_the_guides_are_accepted(line):
    words = shlex.split(line.replace("HOST:PORT", "10.0.0.1:1234"), comments=True)
    if "--help" in words:
        return
    call = parse(words)
    experiment, config = call.args
    if words[0] != "sweep":
        experiment.resolve(config)
        return
    for name in config.optimizers:
        for member in trials.grid(experiment, config, name):
            trials.trial_config(experiment, config, name, member)
