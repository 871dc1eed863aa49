"""Runs of language models through the command line, on made-up text."""

import json
import math

import jax
import numpy as np
import pytest

from tests.support import interruptions as killed
from tests.support import tiny_texts as tiny
from tests.support.asserts import close
from tests.support.two_processes import one_and_two
from train import evaluate
from train.__main__ import main
from train.language import experiment

SIZES = "--quiet --width 8 --depth 1 --heads 2 --block 8 --batch-size 8"
SIZES += " --eval-bytes 160 --sample-bytes 6 --warmup-steps 1 --checkpoint-minutes 0"
WHOLE = f"language {SIZES} --optimizer adam-lawn --free-steps 2 --steps 7"
WHOLE += " --eval-every 2 --learning-rate 0.01 --devices 1"
KEYS = {
    *("epoch", "step", "loss", "test_loss", "bits_per_byte", "accuracy"),
    *("margin_p10", "margin_p50", "margin_p90", "learning_rate", "constrained"),
    *("logit_scale", "norm/embedding", "norm/head", "norm/final_norm"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.write_files(tmp_path_factory.mktemp("data") / "text")


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


def read(path):
    return json.loads(path.read_text())


def test_folder_of_a_run(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        *("checkpoints", "config.json", "curves.png", "events.out.tfevents.0.run"),
        *("losses.json", "metrics.jsonl", "sample.json", "summary.json"),
    ]
    found = rows(whole)
    assert [row["step"] for row in found] == [2, 4, 6, 7]
    assert [row["constrained"] for row in found] == [0, 1, 1, 1]
    for row in found:
        assert KEYS <= set(row)
        assert all(math.isfinite(value) for value in row.values())
        close(row["bits_per_byte"] * math.log(2), row["test_loss"], 1e-5)
    # Three phases: two free steps, one to warm up, four down to 0.
    expected = [0.01, 0.01, 0.005, 0.0025]
    close([row["learning_rate"] for row in found], expected, 1e-5)
    norms = [[row[f"norm/block_0/mlp/{x}"] for row in found] for x in ("up", "down")]
    for up in norms:  # Hidden matrices keep theirs, the head does not.
        close(up, up[0], 1e-5)
    assert abs(found[-1]["norm/head"] - found[0]["norm/head"]) > 1e-4
    config = read(whole / "config.json")["config"]
    assert config["experiment"] == "language" and config["dataset"] == "files"
    assert len(config["text_sha256"]) == 64
    losses = read(whole / "losses.json")
    assert losses["pieces"] == len(losses["loss"]) == 20
    close(np.mean(losses["loss"]), found[-1]["test_loss"], 0, atol=1e-4)
    assert losses["sha256"] == config["text_sha256"]
    # Bytes that are not UTF-8 may be one replacement together.
    assert 0 < len(read(whole / "sample.json")["text"]) <= 6
    result = read(whole / "summary.json")
    assert (result["outcome"], result["switched_at"]) == ("finished", 2)
    best = min(found, key=lambda row: row["test_loss"])
    names = ("epoch", "test_loss")
    assert result["best"] == {name: best[name] for name in names}


def test_finished_run_is_shown_again(whole, run, files, capsys):
    assert run(WHOLE, whole) == 0
    output = capsys.readouterr().out
    assert "Transformer of width 8, depth 1, 2 heads" in output
    assert "adam-lawn (rate 0.01) for hidden; adam (rate 0.05) for head" in output
    assert "| step | loss" in output and "bits per held-out byte after 7" in output
    assert "A sample:" in output
    assert run(f"{WHOLE} --seed 1", whole) == 2
    assert "(seed differ)" in capsys.readouterr().err


def test_another_text_is_refused(whole, tmp_path, capsys):
    other = tiny.write_files(tmp_path / "text", length=200)
    command = [*WHOLE.split(), f"--data-dir={other}", f"--out={whole}"]
    assert main(command) == 2
    assert "(text_sha256 differ)" in capsys.readouterr().err
    assert main(["evaluate", str(whole), "--data-dir", str(other)]) == 2
    assert "is another text than that of the run" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_gives_the_metrics_of_the_run(whole, files, capsys):
    assert main(["evaluate", str(whole), "--data-dir", str(files)]) == 0
    output, last = capsys.readouterr().out, rows(whole)[-1]
    assert f"loss {last['test_loss']:.4f} (standard error" in output
    assert "adam-lawn on files after 7 steps, held-out text" in output
    loaded = evaluate.load(whole, files)
    tokens = np.frombuffer(b"the norm", np.uint8).astype(np.int32)
    logits = loaded.programs.model.apply(loaded.variables, tokens)
    assert logits.shape == (8, 256)


def test_report_and_its_packed_file(whole, tmp_path, capsys):
    packed = tmp_path / "language.jsonl"
    assert main(["report", str(whole), "--pack", str(packed)]) == 0
    texts = []
    for source in (whole, packed):
        out = tmp_path / source.stem
        assert main(["report", str(source), "--out", str(out)]) == 0
        texts.append((out / "table.md").read_text())
    assert texts[0] == texts[1]
    last = rows(whole)[-1]["test_loss"]
    assert "# Language models" in texts[0] and f"| {last:.4f} " in texts[0]
    assert "held-out loss, last step" in texts[0] and "%, last" not in texts[0]
    assert "## Figures" not in texts[0]


@pytest.mark.slow
def test_killed_run_ends_in_the_same_bits(whole, run, files, tmp_path):
    out = tmp_path / "run"
    command = [*WHOLE.split(), f"--data-dir={files}", f"--out={out}"]
    # Before the checkpoint of a row; after the last one, before the summary.
    for name, number in (("save", 2), ("finish", 1)):
        killed.run_until(name, number, command)
        assert not (out / "summary.json").exists()
    assert run(WHOLE, out) == 0
    for name in ("metrics.jsonl", "losses.json", "sample.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    first, second = (killed.checkpoint(folder, 7) for folder in (out, whole))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.slow
def test_sweep_chooses_the_lowest_loss_on_the_validation_text(run, tmp_path, capsys):
    folder = tmp_path / "sweep"
    options = f"sweep language {SIZES} --steps 6 --optimizers adamh --seeds 0"
    assert run(f"{options} --rates 1e-5 0.1 1e30 --eval-every 6", folder) == 0
    lines = (folder / "trials.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    assert [row["learning_rate"] for row in trials] == [1e-5, 0.1, 1e30]
    found = [row["test_loss"] for row in trials if row["outcome"] == "finished"]
    best = trials[int(np.argmin(found))]
    chosen = read(folder / "summary.json")["best"]["adamh"]
    assert chosen["learning_rate"] == best["learning_rate"]
    final = read(folder / "final" / "adamh-seed0" / "config.json")["config"]
    assert final["learning_rate"] == best["learning_rate"]
    assert final["validation"] is False and final["dataset"] == "files"
    kept = read(folder / "config.json")["config"]
    assert kept["dataset"] == "files" and kept["text_sha256"] == final["text_sha256"]
    table = (folder / "table.md").read_text()
    assert f"| {best['test_loss']:.4f} " in table and "in nats per byte" in table
    assert "Trials on files, batch 8, preset default, width 8" in table
    assert ": 6 steps. Held-out loss after the last step" in table
    printed = capsys.readouterr().out
    assert "adamh: 3 trials of 6 steps, 1 at once\n" in printed
    assert "epoch" not in printed


@pytest.mark.slow
def test_switch_by_margin_with_scaled_logits(run, tmp_path):
    options = f"language {SIZES} --steps 6 --eval-every 1 --optimizer sgd-lawn"
    options += " --switch mean-margin --switch-threshold -9 --switch-steps 1"
    options += " --alpha 0.5 --label-smoothing 0.1 --scanned --dtype bfloat16"
    assert run(options, tmp_path / "run") == 0
    found = rows(tmp_path / "run")
    assert [row["constrained"] for row in found] == [0, 1, 1, 1, 1, 1]
    assert found[-1]["logit_scale"] == 0.5
    assert "norm/blocks/mlp/up" in found[0]


def test_the_default_text_is_long_enough_for_the_default_run():
    config = experiment.resolve(experiment.Config())
    assert (config.dataset, config.optimizer) == ("python", "adamh")
    text = experiment.load_data(config)
    data = experiment.on_device(config, text)
    assert data.windows.shape == (512, 129) and data.prompt[-1] == 0


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(files, tmp_path):
    command = WHOLE.replace(" --devices 1", " --parallel pmap")
    first, second = one_and_two([*command.split(), f"--data-dir={files}"], tmp_path)
    assert [row["constrained"] for row in second] == [0, 1, 1, 1]
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            # Some byte's highest logit may change.
            loose = {"accuracy": 0.02}.get(name, 1e-4)
            close(two[name], one[name], rtol=1e-4, atol=loose)
    samples = [read(tmp_path / name / "sample.json") for name in ("one", "two")]
    assert len(samples[0]["text"]) > 0 and samples[0] == samples[1]
