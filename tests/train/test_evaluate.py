"""Finished runs, loaded and evaluated again."""

import json
import math
import shutil

import numpy as np
import optax
import pytest

from tests.support import image_files as images
from tests.support import tiny_recommenders as tiny
from tests.support.asserts import close
from train import evaluate
from train.__main__ import main

OPTIONS = "recsys --quiet --optimizer adam-lawn --batch-size 500 --candidate-draws 2"
OPTIONS += " --epochs 3 --warmup-epochs 1 --free-epochs 1 --learning-rate 0.01"
OPTIONS += " --alpha 0.5 --devices 1 --eval-every 2 --checkpoint-minutes 0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_ratings(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    assert main([*OPTIONS.split(), f"--data-dir={data}", f"--out={path}"]) == 0
    return path


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_metrics_are_those_of_the_last_evaluation(folder, data, capsys):
    before = contents(folder)
    assert (
        main(["recsys", *OPTIONS.split()[1:], f"--data-dir={data}", f"--out={folder}"])
        == 0
    )
    shown = next(x for x in capsys.readouterr().out.splitlines() if "HR@10" in x)
    hr, ndcg, auc = shown.split(" after ")[0].split(", ")
    assert main(["evaluate", str(folder), f"--data-dir={data}"]) == 0
    found = capsys.readouterr().out
    assert (
        "adam-lawn on ml-100k after 3 epochs: each user's test (latest) item" in found
    )
    assert f"{hr} (standard error over 30 users" in found
    assert f"{ndcg}, {auc}\n" in found
    assert contents(folder) == before


@pytest.mark.slow
def test_other_candidates_rank_the_same_weights(folder, data, capsys):
    options = ["--candidate-draws=3", "--candidate-seed=5"]
    assert main(["evaluate", str(folder), f"--data-dir={data}", *options]) == 0
    found = capsys.readouterr().out
    run = evaluate.load(folder, data, 3, 5)
    candidates = run.data[1]
    assert candidates.shape == (3, 30, 100) and run.epoch == 3
    users = np.broadcast_to(np.arange(30)[:, None], (30, 100))
    scores = np.stack([tiny.logits(run.state.params, users, x) for x in candidates])
    place = (scores[:, :, 1:] > scores[:, :, :1]).sum(-1)
    hits = (place < 10).mean(0)
    error = hits.std(ddof=1) / 30**0.5
    assert f"HR@10 {100 * hits.mean():.2f} % (standard error over" in found
    assert f"30 users {100 * error:.2f})" in found
    assert "among 99 others, 3 draws" in found
    found = run.programs.model.apply(run.variables, users, candidates[0])
    close(found, scores[0], 1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
def test_a_classifier_has_the_metrics_of_its_last_evaluation(
    dataset, small_photographs, tmp_path, capsys
):
    if dataset == "cifar10":
        tables = images.some_tables("cifar10", count=12)
        data = images.write_binary(tmp_path / "data", tables)
    else:
        data = images.write_folder(tmp_path / "data", train=6, val=3)
    out = tmp_path / "run"
    command = f"image --dataset {dataset} --batch-size 8 --epochs 1 --warmup-epochs 0"
    command += " --optimizer adam-lawn --free-epochs 0 --devices 1 --workers 0 --quiet"
    assert main([*command.split(), f"--data-dir={data}", f"--out={out}"]) == 0
    before, row = contents(out), json.loads((out / "metrics.jsonl").read_text())
    errors = json.loads((out / "errors.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(out), f"--data-dir={data}"]) == 0
    found = capsys.readouterr().out
    count, share = errors["images"], row["accuracy"]
    error = math.sqrt(share * (1 - share) / (count - 1))
    assert f"adam-lawn on {dataset} after 1 epochs: {count} test images\n" in found
    assert (
        f"accuracy {100 * share:.2f} % (standard error over images {100 * error:.2f}),"
        f" ECE {100 * row['ece']:.2f} % (15 bins), loss {row['test_loss']:.4f}\n"
    ) in found
    assert (
        f"without augmentation {100 * row['train_accuracy']:.2f} %, margins p10"
        in found
    )
    assert contents(out) == before
    if dataset == "cifar10":
        run = evaluate.load(out, data)
        test, mean = run.data.test, run.data.train.images.mean((0, 1, 2)) / 255
        inputs = (test.images / 255 - mean).astype("f4")
        logits = run.programs.model.apply(run.variables, inputs, train=False)
        wrong = np.flatnonzero(logits.argmax(-1) != test.labels)
        assert wrong.tolist() == errors["wrong"]
        kind = optax.softmax_cross_entropy_with_integer_labels
        close(kind(logits, test.labels).mean(), row["test_loss"], 1e-5)
    for option in ("--candidate-draws=2", "--candidate-seed=1"):
        assert main(["evaluate", str(out), f"--data-dir={data}", option]) == 2
        assert "are for runs of recsys" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, text",
    [
        ("summary.json", ""),
        ("summary.json", "{}"),
        ("summary.json", "null"),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"epoch": 3}\n'),
        ("metrics.jsonl", '{"epoch": 3, "hr": "high"}\n'),
    ],
)
def test_a_finished_run_whose_files_were_damaged(
    name, text, folder, data, tmp_path, capsys
):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    (out / name).write_text(text)
    assert main([*OPTIONS.split(), f"--data-dir={data}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out}") and error.count("\n") == 1


def test_a_lost_or_older_checkpoint_is_never_evaluated(folder, data, tmp_path, capsys):
    def error(path):
        assert main(["evaluate", str(path), f"--data-dir={data}"]) == 2
        output, text = capsys.readouterr()
        assert output == "" and text.count("\n") == 1
        return text

    lost, rows = tmp_path / "lost", tmp_path / "rows"
    for path in (lost, rows):
        shutil.copytree(folder, path)
    older, newest = sorted((lost / "checkpoints").iterdir())
    shutil.rmtree(newest)
    assert "has lost the checkpoint of its end, after 3 epochs" in error(lost)
    shutil.rmtree(older)
    assert "lost (finished) has no checkpoint of trained weights" in error(lost)
    lines = (rows / "metrics.jsonl").read_text().splitlines(keepends=True)
    (rows / "metrics.jsonl").write_text("".join(lines[1:]))
    assert "rows up to epoch 3 were lost or changed" in error(rows)


def test_what_cannot_be_loaded(folder, data, tmp_path, capsys):
    def error(path, *options):
        assert main(["evaluate", str(path), f"--data-dir={data}", *options]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "holds no run of recsys or image" in error(tmp_path)
    assert "--candidate-draws must be finite and at least 0" in error(
        folder, "--candidate-draws=-1"
    )
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("checkpoints"))
    assert "has no checkpoints" in error(bare)
    assert not (bare / "checkpoints").exists()
    shutil.copytree(folder / "checkpoints", bare / "checkpoints")
    (bare / "summary.json").unlink()
    assert f"{bare} is not finished" in error(bare)
    other = tiny.write_ratings(tmp_path / "other", seed=1)
    (other / "u.data").write_text(
        "".join(
            line
            for line in (other / "u.data").read_text().splitlines(keepends=True)
            if not line.startswith("30\t")
        )
    )
    text = error(folder, f"--data-dir={other}")
    assert "is of another state" in text
