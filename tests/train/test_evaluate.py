"""Finished runs, loaded and evaluated again."""

import shutil

import numpy as np
import pytest
import recsys_runs as tiny
from runs import close

from train import evaluate
from train.__main__ import main

OPTIONS = "recsys --quiet --optimizer adam-lawn --batch-size 500 --candidate-draws 2"
OPTIONS += " --epochs 3 --warmup-epochs 1 --free-epochs 1 --learning-rate 0.01"
OPTIONS += " --alpha 0.5 --devices 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory, compilation_cache):
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


def test_other_candidates_rank_the_same_weights(folder, data, capsys):
    options = ["--candidate-draws=3", "--candidate-seed=5"]
    assert main(["evaluate", str(folder), f"--data-dir={data}", *options]) == 0
    found = capsys.readouterr().out
    run = evaluate.load(folder, data, 3, 5)
    assert run.candidates.shape == (3, 30, 100) and run.epoch == 3
    users = np.broadcast_to(np.arange(30)[:, None], (30, 100))
    scores = np.stack([tiny.logits(run.state.params, users, x) for x in run.candidates])
    place = (scores[:, :, 1:] > scores[:, :, :1]).sum(-1)
    hits = (place < 10).mean(0)
    error = hits.std(ddof=1) / 30**0.5
    assert f"HR@10 {100 * hits.mean():.2f} % (standard error over" in found
    assert f"30 users {100 * error:.2f})" in found
    assert "among 99 others, 3 draws" in found
    model = run.task.model.apply({"params": run.state.params}, users, run.candidates[0])
    close(model, scores[0], 1e-5, atol=1e-6)


def test_what_cannot_be_loaded(folder, data, tmp_path, capsys):
    def error(path, *options):
        assert main(["evaluate", str(path), f"--data-dir={data}", *options]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "holds no run of recsys" in error(tmp_path)
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
