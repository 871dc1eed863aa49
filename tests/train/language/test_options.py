"""Options of language models: presets, defaults, and what is refused."""

import dataclasses

import pytest

from tests.support import tiny_texts as tiny
from tests.support.rating_files import refused
from train.__main__ import main
from train.errors import InputError
from train.language import experiment, options
from train.language.options import Config, resolve
from train.language.report import published


def test_the_preset_is_nanogpt_s_setting():
    found = resolve(Config(preset="nanogpt", text_sha256=""))
    expected = {
        **{"dataset": "tiny-shakespeare", "optimizer": "adamw", "epochs": 2_000},
        **{"depth": 4, "width": 128, "heads": 4, "block": 64, "batch_size": 12},
        **{"dropout": 0.0, "learning_rate": 1e-3, "schedule": "cosine", "b2": 0.99},
        **{"warmup_epochs": 100, "weight_decay": 0.1, "clip_norm": 1.0},
        **{"norm": "layer", "positions": "learned", "activation": "gelu"},
        **{"tied": True, "qk_norm": False, "init": "small"},
        **{"head": "method", "embeddings": "method", "vectors": "method"},
    }
    assert expected.items() <= dataclasses.asdict(found).items()


def test_the_preset_for_a_gpu_is_larger_and_on_the_default_text(tmp_path):
    found = resolve(Config(preset="full", text_sha256=""))
    expected = {"dataset": "python", "optimizer": "adamh", "width": 1024, "depth": 8}
    expected |= {"block": 1024, "batch_size": 32, "epochs": 300}
    assert expected.items() <= dataclasses.asdict(found).items()
    assert resolve(Config(preset="full", data_dir=tmp_path)).dataset == "files"


def test_published_losses_are_for_the_settings_of_the_presets():
    for name, loss in (("nanogpt", 1.88), ("nanolm", 1.4253)):
        found = dataclasses.asdict(resolve(Config(preset=name, text_sha256="")))
        assert published(found).value == loss
        for change in ({"validation": True}, {"depth": 5}, {"optimizer": "adamh"}):
            assert published(found | change) is None


def nanogpt(**changes):
    return Config(preset="nanogpt", text_sha256="", **changes)


def test_given_options_count_more_than_the_preset(tmp_path):
    found = resolve(nanogpt(tied=False, clip_norm=None, width=64))
    assert (found.tied, found.clip_norm, found.width) == (False, None, 64)
    # The rates of the preset are those of its optimizer.
    other = resolve(nanogpt(optimizer="muonh"))
    assert other.learning_rate == options.TUNED["muonh"][0]
    # A tied head is trained as the embeddings are.
    assert (other.head, other.embeddings) == ("method", "adam")
    assert resolve(Config(data_dir=tmp_path)).dataset == "files"
    short = resolve(nanogpt(epochs=200))
    assert short.warmup_epochs == 10
    assert short.shortened.startswith("Shortened from 2000 steps, with warm-up (10 st")


@pytest.mark.parametrize(
    "name, parts",
    [
        ("adamw", ("method", "method", "method")),
        ("muon", ("adam", "adam", "adam")),
        ("muon-lawn", ("adam", "adam", "adam")),
        ("muonh", ("adamh", "adam", "adam")),
    ],
)
def test_what_trains_the_other_parts_by_default(name, parts):
    found = tiny.settings(optimizer=name, free_epochs=2.0)
    assert (found.head, found.embeddings, found.vectors) == parts
    assert found.schedule == ("three-phase" if name == "muon-lawn" else "two-phase")
    assert (found.adamh_rate is None) == (name == "muonh")
    given = tiny.settings(optimizer=name, free_epochs=2.0, embeddings="adamh")
    assert given.embeddings == "adamh"


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({"optimizer": "lamb"}, ["no optimizer 'lamb'; choose from: sgd, adam"]),
        ({"optimizer": ""}, ["no optimizer ''; choose from: sgd, adam"]),
        ({"epochs": 1}, ["--steps 1 are fewer than the 2 of", "--warmup-steps"]),
        ({"epochs": 0}, ["--steps must be finite and at least 1; got 0"]),
        ({"width": 9}, ["--width 9 must be a multiple of --heads 2"]),
        ({"width": 6}, ["rotary needs heads of an even width"]),
        ({"dropout": 1.0}, ["--dropout must be below 1; got 1.0"]),
        ({"momentum": 1.0}, ["--momentum must be below 1; got 1.0"]),
        ({"b2": 1.0}, ["--b2 must be below 1; got 1.0"]),
        ({"batch_size": 10**9}, ["--batch-size must be below 2^20"]),
        ({"width": 2**40}, ["--width must be below 2^20"]),
        ({"depth": 10**20}, ["--depth must be below 2^10"]),
        ({"sample_bytes": 10**11}, ["--sample-bytes must be below 2^16"]),
        ({"epochs": 2**20}, ["--steps must be below 2^20"]),
        (
            {"optimizer": "adam-lawn", "schedule": "cosine", "free_epochs": 7.0},
            ["--steps 6 are fewer than the 7 of the free phase"],
        ),
        ({"weight_decay": 0.1}, ["adamh takes no --weight-decay"]),
        ({"tied": True, "head": "adam"}, ["--tied has no head of its own"]),
        ({"alpha": 0.5}, ["--alpha needs a -lawn optimizer"]),
    ],
)
def test_options_that_no_run_can_have(changes, messages):
    refused(lambda: tiny.settings(**changes), *messages)


def test_a_bad_command_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "memory", lambda: 2**35)
    (tmp_path / "input.txt").write_bytes(b"x" * 100)
    for words, message in (
        ("--data-dir=/none", "no folder /none"),
        (f"--data-dir={tmp_path}", "has 90 bytes, too few for --block 128"),
        ("--batch-size=9 --devices=8", "does not divide into 1 parts"),
        ("--width=1000000 --depth=4", "the model needs about 715,259.6 GiB"),
        ("--batch-size=1000000 --devices=1", "and 1,000,000 sequences"),
    ):
        assert main(["language", "--out", str(tmp_path / "run"), *words.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "run").exists()


def test_grids_have_three_rates_around_the_default():
    for name, (rate, decay, _) in options.TUNED.items():
        grid = options.grid(options.SweepConfig(), name)
        assert grid.rates == (rate / 2, rate, 2 * rate)
        assert grid.decays == ((0.0, 0.1, 0.3) if name == "adamw" else (decay,))
    given = options.SweepConfig(rates=(1.0,), decays=(0.5,), free=(3.0,))
    assert options.grid(given, "adam-lawn") == ((1.0,), (0.5,), (3.0,), (), ())
    assert options.grid(given, "muonh").decays == (0.0,)


def test_only_steps_of_a_fixed_angle_take_project():
    assert tiny.settings(optimizer="muonh", project=True).project
    with pytest.raises(InputError, match="--project needs sgdh, adamh or muonh"):
        tiny.settings(optimizer="adam-lawn", project=True)
