"""The NCF benchmark: its data, its JAX arm, and the PyTorch arm where there is one."""

import sys

import numpy as np
import pytest

from benchmarks import arms
from benchmarks.throughput import ncf as ncf_throughput

SIZES = (60, 50, 700)


def benchmark(*arguments):
    ncf_throughput.main(list(map(str, arguments)))


@pytest.mark.parametrize("sizes", [SIZES, (300, 200, 12_000), (5, 40, 100)])
def test_synthetic_interactions_are_distinct_and_skewed(sizes):
    users, items, positives = sizes
    train = ncf_throughput.synthetic(*sizes)
    assert train.shape == (positives, 2) and train.dtype == np.int32
    assert len(np.unique(train, axis=0)) == positives
    assert np.all(np.diff(train[:, 0]) >= 0)  # each user's together
    counts = np.bincount(train[:, 0], minlength=users)
    assert counts.min() >= min(19, positives // users)
    assert counts.max() <= items // 2 and train[:, 1].max() < items
    if users == 300:
        assert counts.mean() > 1.1 * np.median(counts)
        popular = np.sort(np.bincount(train[:, 1], minlength=items))[::-1]
        assert popular[:20].mean() > 5 * popular[-100:].mean()
    assert np.array_equal(train, ncf_throughput.synthetic(*sizes))


@pytest.mark.slow
def test_the_jax_arm_alone_writes_a_row_and_a_table(tmp_path, short_samples):
    out = tmp_path / "results" / "ncf.jsonl"
    options = ("--jax-only", "--sizes", *SIZES, "--rounds", 2, "--out", out)
    benchmark(*options, "--batch-sizes", 512)
    (row,) = arms.read(out)
    assert row["samples_per_epoch"] == 5 * SIZES[2] and row["batch_size"] == 512
    rates = row["samples_per_second"]["jax"]
    assert len(rates) == 2 and min(rates) > 0 and "ratio" not in row
    # It has learned something in an epoch, and that from the ignorance of a start.
    assert 0.3 < row["first_epoch_loss"]["jax"] < np.log(2)
    assert row["compile_seconds"] > 0 and row["tower"] == "3-layer"
    lines = out.with_suffix(".md").read_text().splitlines()
    assert lines[-1].startswith(f"| synthetic {SIZES[0]} x {SIZES[1]} | 512 | ")


@pytest.mark.parametrize("python", [sys.executable, "no-such-python"])
def test_an_interpreter_without_torch_is_refused_at_once(python, tmp_path, capsys):
    if arms.has_torch(python):
        pytest.skip("this environment has PyTorch")
    with pytest.raises(SystemExit, match="2"):
        benchmark("--torch-python", python, "--out", tmp_path / "ncf.jsonl")
    error = capsys.readouterr().err
    assert f"{python} has no PyTorch; give --torch-python" in error
    assert not list(tmp_path.iterdir())


def test_missing_data_is_refused_in_one_line(tmp_path):
    options = ("--jax-only", "--data-dir", tmp_path, "--out", tmp_path / "n.jsonl")
    with pytest.raises(SystemExit, match="2"):
        benchmark(*options)
    assert not list(tmp_path.iterdir())


def test_pytorch_draws_what_an_epoch_needs():
    torch = pytest.importorskip("torch")
    from benchmarks.throughput import ncf_pytorch

    train = ncf_throughput.synthetic(*SIZES)
    epochs = ncf_pytorch.Epochs(train, *SIZES[:2], "cpu")
    torch.manual_seed(0)
    users, items, order = (x.numpy() for x in epochs.draw())
    assert np.array_equal(np.sort(order), np.arange(5 * len(train)))
    positive = epochs.labels.numpy() == 1
    drawn = np.stack([users, items], axis=1)
    assert np.array_equal(drawn[positive], train)
    assert np.array_equal(np.bincount(users), 5 * np.bincount(train[:, 0]))
    known = {tuple(pair) for pair in train.tolist()}
    assert not known & {tuple(pair) for pair in drawn[~positive].tolist()}


def test_both_arms_train_alike(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "ncf.jsonl"
    sizes = ("--sizes", 200, 150, 6000)
    benchmark(*sizes, "--batch-sizes", 256, "--rounds", 1, "--out", out)
    (row,) = arms.read(out)
    losses = row["first_epoch_loss"]
    assert abs(losses["jax"] - losses["pytorch"]) < 0.03
    assert len(row["ratio"]) == 3 and min(row["ratio"]) > 0
