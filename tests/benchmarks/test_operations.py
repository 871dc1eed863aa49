"""The benchmark of single operations: its JAX arm, and PyTorch's where there is one."""

import jax
import numpy as np
import pytest

import models
from benchmarks import arms
from benchmarks.throughput import operations, operations_jax


@pytest.mark.slow
def test_the_jax_arm_alone_writes_rows_and_a_table(tmp_path, short_samples):
    out = tmp_path / "operations.jsonl"
    operations.main(["--jax-only", "--batch-size=2", "--rounds=2", f"--out={out}"])
    rows = arms.read(out)
    assert [row["operation"] for row in rows] == [*made(), "sum"]
    times = [row["milliseconds"]["jax"] for row in rows]
    assert np.shape(times) == (len(rows), 2) and np.min(times) > 0
    np.testing.assert_allclose(np.sum(times[:-1], axis=0), times[-1], atol=1e-3)
    lines = out.with_suffix(".md").read_text().splitlines()
    assert lines[-1].startswith("| sum | 2 | ") and lines[-1].endswith(" | – | – | 2 |")


def made():
    return operations_jax.operations(2, operations.layers())


def test_the_layers_are_those_of_the_small_network():
    images = jax.ShapeDtypeStruct((1, operations.SIDE, operations.SIDE, 3), "float32")
    init = lambda x: models.CNN().init(jax.random.key(0), x, train=False)  # noqa: E731
    params = jax.eval_shape(init, images)["params"]
    found = made()
    for number, (_, inputs, outputs, _) in enumerate(operations.layers(), 1):
        kernel = params[f"conv{number}"]["kernel"].shape
        assert kernel == (3, 3, inputs, outputs)
        function, *arguments = found[f"conv{number}, gradient of the kernel"]
        (gradient,) = jax.eval_shape(function, *arguments)
        assert gradient.shape == kernel
    # 32 pixels, halved by each layer but the last.
    function, *arguments = found["conv4, forward"]
    assert jax.eval_shape(function, *arguments).shape == (2, 4, 4, 64)


def test_ratios_are_times_of_jax_by_times_of_pytorch():
    row = {"milliseconds": {"jax": [2.0, 3.0], "pytorch": [1.0, 6.0]}}
    assert operations.ratios(row) == [2.0, 0.5]


def test_pytorch_has_the_same_operations(monkeypatch):
    torch = pytest.importorskip("torch")
    import sys

    from benchmarks.throughput import images_pytorch

    monkeypatch.setitem(sys.modules, "images_pytorch", images_pytorch)
    from benchmarks.throughput import operations_pytorch

    theirs = operations_pytorch.operations(2, operations.layers(), "cpu")
    ours = made()
    assert list(theirs) == list(ours)
    for name, (function, *arguments) in ours.items():
        if "conv" not in name:
            continue
        shapes = [
            x.shape for x in jax.tree.leaves(jax.eval_shape(function, *arguments))
        ]
        found = theirs[name]()
        found = (
            [found] if torch.is_tensor(found) else [x for x in found if x is not None]
        )
        assert sorted(map(np.prod, shapes)) == sorted(x.numel() for x in found)
