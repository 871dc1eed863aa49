"""The benchmark of optimizer steps, at its smallest size."""

import multiprocessing
import threading

import jax
import numpy as np
import pytest

import lawn_optax as lawn
import models
from benchmarks import arms, environment, parameters, step_overhead


@pytest.mark.parametrize(
    "tree, leaves, elements",
    [
        # The published sizes of torchvision's networks; VGG-19 with one dense layer of
        # 512 x 10 + 10 and without the 5,504 biases of its convolutions.
        ("resnet50", 161, 25_557_032),
        ("vgg19", 50, 143_678_248 - 123_642_856 + 5_130 - 5_504),
        ("ncf", 8, (6040 + 3706) * 128 + 257 * 128 + 129 * 64 + 65),
        # 50,257 tokens, 1,024 positions; 12 blocks with 12 w^2 and two norms.
        ("gpt2", 99, 768 * (50_257 + 1_024) + 12 * (12 * 768**2 + 2 * 768) + 768),
        ("large", 4, 100_000_000),
    ],
)
def test_trees_have_the_published_sizes(tree, leaves, elements):
    assert parameters.count(tree) == (leaves, elements)


def test_growing_trees_have_the_sizes_that_they_are_named_for():
    for tree in parameters.GROWTH:
        kind, number = tree.split("-")
        leaves, elements = parameters.count(tree)
        assert leaves == {"leaves": float(number), "size": 4, "columns": 1}[kind]
        assert elements == (float(number) if kind == "size" else 1e6)
        if kind == "columns":
            init = lawn.adam(0.1, groups="neuron").init
            state = jax.eval_shape(init, parameters.shapes(tree))
            assert state.norms.shape == (int(number),)


def test_a_start_has_scales_of_one_and_biases_of_zero(monkeypatch):
    small = parameters.variables(models.CNN(), parameters.images(32), train=False)
    monkeypatch.setitem(parameters.TREES, "small", small)
    start = parameters.make_tree("small", 0, start=True)
    grads = parameters.make_tree("small", 1, start=False)
    for path, leaf in jax.tree.leaves_with_path(start):
        kind = path[-1].key
        if kind == "kernel":
            assert 0.04 < np.std(leaf) < 0.06
        else:
            assert np.all(np.asarray(leaf) == (kind == "scale"))
    assert all(np.std(leaf) > 0.01 for leaf in jax.tree.leaves(grads))


def send_environment(pipe):
    """That of the benchmark copies 100 GB."""
    bandwidth = environment.copy_bandwidth(1_000_000, iterations=2)
    pipe.send(environment.describe() | {"copy_gb_per_s": bandwidth})


def start(target, *arguments, start=step_overhead.start):
    """Only the arms need processes of their own."""
    if target is not send_environment:
        return start(target, *arguments)
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=target, args=(there,))
    thread.start()
    return thread, here


@pytest.mark.slow
def test_main_adds_a_row_and_keeps_those_of_other_cases(
    tmp_path, short_samples, monkeypatch
):
    monkeypatch.setattr(step_overhead, "send_environment", send_environment)
    monkeypatch.setattr(step_overhead, "start", start)
    out = tmp_path / "results" / "steps.jsonl"
    before = next(r for r in arms.read(step_overhead.TABLE.file) if r["case"] == "lamb")
    step_overhead.TABLE.add(out, before)
    options = ["--trees", "ncf", "--cases", "sgd", "--starts", "2", "--rounds", "1"]
    step_overhead.main([*options, "--iterations", "9", "--out", str(out)])
    rows = arms.read(out)
    row = next(row for row in rows if row["case"] == "sgd")
    assert len(rows) == 2 and before in rows
    assert row["leaves"] == 8 and row["parameters"] == 1_288_705
    assert all(len(row["ms"][role]) == 2 for role in step_overhead.ROLES)
    assert min(row["ms"]["lawn"]) > 0 and row["copy_gb_per_s"] > 0
    assert row["passes"] == {"base": 5, "lawn": 9, "lamb": 10}
    table = out.with_suffix(".md").read_text()
    assert table == step_overhead.TABLE.text(rows)
    assert "| ncf | lawn.sgd / optax.sgd | " in table


def test_too_few_iterations_are_refused(capsys):
    with pytest.raises(SystemExit):
        step_overhead.main(["--iterations", "8"])
    assert "--iterations must be above 8" in capsys.readouterr().err
