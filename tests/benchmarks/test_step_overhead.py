"""The benchmark of optimizer steps, at its smallest size."""

import jax
import numpy as np
import pytest

from benchmarks import arms, parameters, step_overhead


@pytest.mark.parametrize(
    "tree, leaves, elements",
    [
        # The published sizes of torchvision's networks; VGG-19 with one dense layer of
        # 512 x 10 + 10 and without the 5,504 biases of its convolutions.
        ("resnet50", 161, 25_557_032),
        ("vgg19", 50, 143_678_248 - 123_642_856 + 5_130 - 5_504),
        ("ncf", 8, (6040 + 3706) * 128 + 257 * 128 + 129 * 64 + 65),
        ("large", 4, 100_000_000),
    ],
)
def test_trees_have_the_published_sizes(tree, leaves, elements):
    assert parameters.count(tree) == (leaves, elements)


def test_a_start_has_scales_of_one_and_biases_of_zero():
    start = parameters.make_tree("vgg19", 0, start=True)
    grads = parameters.make_tree("vgg19", 1, start=False)
    for path, leaf in jax.tree.leaves_with_path(start):
        kind = path[-1].key
        if kind == "kernel":
            assert 0.04 < np.std(leaf) < 0.06
        else:
            assert np.all(np.asarray(leaf) == (kind == "scale"))
    assert all(np.std(leaf) > 0.01 for leaf in jax.tree.leaves(grads))


def test_main_writes_rows_and_keeps_those_of_other_cases(tmp_path):
    out = tmp_path / "results" / "steps.jsonl"
    options = ["--trees", "ncf", "--rounds", "2", "--iterations", "9", "--out"]
    for cases in (["noise", "sgd"], ["sgd"]):
        step_overhead.main([*options, str(out), "--cases", *cases])
    rows = arms.read(out)
    assert [row["case"] for row in rows] == ["noise", "sgd"]
    for row in rows:
        assert row["leaves"] == 8 and row["parameters"] == 1_288_705
        assert all(len(row["ms"][role]) == 2 for role in step_overhead.ROLES)
        assert min(row["ms"]["lawn"]) > 0 and row["copy_gb_per_s"] > 0
        assert row["processor"]["cores"] >= 1
    assert rows[1]["passes"] == {"base": 5, "lawn": 9, "lamb": 10}
    table = out.with_suffix(".md").read_text()
    assert table == step_overhead.TABLE.text(rows)
    assert "| ncf | lawn.sgd / optax.sgd | " in table


def test_too_few_iterations_are_refused(capsys):
    with pytest.raises(SystemExit):
        step_overhead.main(["--iterations", "8"])
    assert "--iterations must be above 8" in capsys.readouterr().err
