"""Programs compiled for a GPU: what they count, and that they do not get worse."""

import os
from collections import Counter
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest

import lawn_optax as lawn
from benchmarks import arms
from benchmarks.compiled import alternatives, h200, optimizers, programs, training

reason = h200.why_not()
needs_plugin = pytest.mark.skipif(reason is not None, reason=reason or "")

PROGRAM = """HloModule jit_step

%loop_body (p: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %p = (s32[], f32[1000]{0}) parameter(0)
  %x = f32[1000]{0} get-tuple-element(%p), index=1
  %y = f32[1000]{0} fusion(%x), kind=kLoop, calls=%fused
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], f32[1000]{0}) tuple(%i, %y)
}

ENTRY %main (a: f32[100000], b: bf16[100000], c: pred[]) -> f32[100000] {
  %a = f32[100000]{0} parameter(0), metadata={op_name="a"}
  %b = bf16[100000]{0} parameter(1)
  %c = pred[] parameter(2)
  %both = (f32[100000]{0}, f32[]) fusion(%a, %b, /*index=2*/%c), kind=kLoop, calls=%f
  %s = f32[] get-tuple-element(%both), index=1
  %start = f32[] all-reduce-start(%s), replica_groups={}, to_apply=%add
  %done = f32[] all-reduce-done(%start)
  %w = (s32[], f32[1000]{0}) while(%init), condition=%c, body=%loop_body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[100000]{0} get-tuple-element(%both), index=0
}
"""


def test_counts_of_a_program_by_hand():
    found = h200.count(PROGRAM)
    assert (found.kernels, found.small) == (1 + 1 + 5, 1 + 5)
    fusion = 4 * 100_000 + 4 + 4 * 100_000 + 2 * 100_000 + 1
    assert found.bytes_moved == fusion + 8 + 5 * 8_000
    assert found.collectives == {"all-reduce": 1} and found.collective_bytes == 4


@pytest.mark.parametrize("module", [alternatives, optimizers, training])
def test_without_the_plugin_main_says_what_to_install(module, tmp_path, monkeypatch):
    monkeypatch.setattr(h200, "PLUGIN", "no-such-plugin")
    with pytest.raises(SystemExit, match=r"pip install '\.\[bench\]'"):
        module.main(["--out", str(tmp_path / "rows.jsonl")])
    assert not list(tmp_path.iterdir())


def layers(count, *shape):
    """Layers with a kernel and a bias."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return {
        f"l{i}": {"kernel": of(*shape), "bias": of(shape[-1])} for i in range(count)
    }


def convolutions(count):
    """Small kernels with the scales and biases of norm layers, as in image models."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    one = {"conv": {"kernel": of(3, 3, 64, 64)}}
    one |= {"norm": {"scale": of(64), "bias": of(64)}}
    return {f"block{i}": one for i in range(count)}


# Most passes, temporaries in sizes of the parameters, and kernels per leaf of a step:
# what they were when this was written. A change may lower them, here too.
MOST = {
    "optax.adam": (7.1, 0.01, 1.0),
    "lawn.sgd": (11.1, 0.01, 5.0),
    "lawn.adam": (14.1, 1.01, 6.0),
    "lawn.wrap(adam)": (14.1, 1.01, 6.0),
    "lawn.lamb": (14.1, 1.01, 6.0),
    "lawn.adam, bf16 m": (13.1, 1.01, 6.0),
    "lawn.adam, neurons": (18.1, 0.9, 3.2),
}
MOST_OF_CONVOLUTIONS = {
    "lawn.sgd": (11.1, 0.03, 3.5),
    "lawn.adam": (14.1, 1.02, 3.5),
    "lawn.lamb": (14.1, 1.02, 3.5),
}


def check(tree, program, most):
    size, leaves = optimizers.size(tree), len(jax.tree.leaves(tree))
    passes, temporaries, kernels = most
    assert program.count.bytes_moved <= passes * size
    assert program.temporary_bytes <= temporaries * size
    assert program.count.kernels <= kernels * leaves + 10


@needs_plugin
@pytest.mark.parametrize("name", MOST)
def test_a_step_does_not_move_keep_or_launch_more(name):
    tree = layers(6, 1000, 1000)
    program = optimizers.compile_step(tree, optimizers.OPTIMIZERS[name]())
    check(tree, program, MOST[name])


@needs_plugin
@pytest.mark.parametrize("name", MOST_OF_CONVOLUTIONS)
def test_a_step_of_convolutions_does_not_move_keep_or_launch_more(name):
    tree = convolutions(6)
    program = optimizers.compile_step(tree, optimizers.OPTIMIZERS[name]())
    check(tree, program, MOST_OF_CONVOLUTIONS[name])


# The same for the alternatives. Six layers go into one launch.
MOST_OF_ALTERNATIVES = {
    "sgd: six products": (8.1, 0.01, 4.0),
    "sgd: Pallas, 32 leaves": (8.1, 0.01, 0.0),
    "adam: library, merged": (14.1, 1.01, 1.5),
    "adam: no guards": (14.1, 1.01, 6.0),
    "adam: Pallas, moments": (12.1, 0.01, 6.0),
    "adam: Pallas, 32 leaves": (12.1, 0.01, 0.0),
    "lamb: Pallas, 32 leaves": (12.1, 0.01, 0.0),
}


@needs_plugin
@pytest.mark.parametrize("name", MOST_OF_ALTERNATIVES)
def test_alternatives_do_not_move_keep_or_launch_more(name):
    tree = layers(6, 1000, 1000)
    program = alternatives.compile_step(tree, alternatives.ALTERNATIVES[name])
    check(tree, program, MOST_OF_ALTERNATIVES[name])


@needs_plugin
@pytest.mark.parametrize("count", [2, 6])
def test_a_sharded_step_has_three_sums_however_many_groups(count):
    mesh = jax.sharding.Mesh(h200.devices(8), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    split = lambda tree: jax.tree.map(lambda x: h200.shape_at(rows, x), tree)  # noqa: E731
    params = split(layers(count, 64, 64))
    tx = lawn.sgd(1e-3, momentum=None)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.eval_shape(tx.init, layers(count, 64, 64))
    state = jax.tree.map(lambda x: h200.shape_at(whole, x), state)
    found = h200.finish(jax.jit(step).lower(params, state, params)).count
    # <g,w> and <w,w>, then <u,u> and <u,w>, a number for each leaf. XLA joins them to
    # three sums.
    assert set(found.collectives) == {"all-reduce"}
    assert found.collectives["all-reduce"] <= 3
    assert found.collective_bytes <= 4 * 4 * 2 * count


def stub(*_, **__):
    count = h200.Count(40, 30, 12_000_000, Counter({"all-reduce": 2}), 32)
    return h200.Program(count, 100, 200_000, 2**30, "")


def test_main_of_optimizers_writes_rows_and_their_table(tmp_path, monkeypatch):
    monkeypatch.setattr(h200, "why_not", lambda: None)
    monkeypatch.setattr(optimizers, "compile_step", stub)
    out = tmp_path / "results" / "steps.jsonl"
    names = ["lawn.adam", "optax.sgd"]
    optimizers.main(["--trees", "ncf", "--optimizers", *names, "--out", str(out)])
    rows = arms.read(out)
    assert [row["optimizer"] for row in rows] == names[::-1]  # as in the table
    assert rows[0]["passes"] == round(12e6 / (4 * 1_288_705), 2)
    assert rows[0]["kernels_per_leaf"] == 40 / 8
    table = out.with_suffix(".md").read_text()
    assert table == optimizers.TABLE.text(rows)
    assert "| ncf | optax.sgd | 2.33 | 0.039 | 40 (30) | 5.00 |" in table


def test_main_of_alternatives_writes_the_librarys_own_beside_them(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(h200, "why_not", lambda: None)
    for module in (optimizers, alternatives):
        monkeypatch.setattr(module, "compile_step", stub)
    out = tmp_path / "steps.jsonl"
    names = ["sgd: six products", "lamb: Pallas, 32 leaves", "adam: no guards"]
    alternatives.main(["--trees", "ncf", "--alternatives", *names, "--out", str(out)])
    rows = arms.read(out)
    own = ["lawn.sgd", "lawn.adam", "lawn.lamb"]
    assert [row["optimizer"] for row in rows] == own + [names[0], names[2], names[1]]
    for row in rows:
        assert row["passes"] == round(12e6 / (4 * 1_288_705), 2)
    assert out.with_suffix(".md").read_text() == optimizers.TABLE.text(rows)
    assert capsys.readouterr().out.count("| ncf |") == 6


def test_main_of_training_writes_rows_and_their_table(tmp_path, monkeypatch):
    monkeypatch.setattr(h200, "why_not", lambda: None)
    monkeypatch.setattr(training, "compile_case", lambda *_: (stub(), 4))
    out = tmp_path / "results" / "training.jsonl"
    training.main(["--cases", "margins", "ncf", "cnn-8-jit", "--out", str(out)])
    rows = arms.read(out)
    assert [row["case"] for row in rows] == ["ncf", "cnn-8-jit", "margins"]
    assert rows[0]["lawn"]["kernels"] == 10
    table = out.with_suffix(".md").read_text()
    assert table == training.TABLE.text(rows)
    assert "| 10 (8) / 10 (8) | 0.003 / 0.003 | 1 / 1 | +0.0%, +0.0% |" in table
    assert "--full` (Figure 2) | sgd | 1 | 10 (8) | 0.003 | 1 | – | 0.5 all" in table


def test_no_row_is_lost_by_a_table_or_a_write_that_fails(tmp_path, monkeypatch):
    file, row = tmp_path / "rows.jsonl", {"compiled_for": "", "order": 0}
    table = training.TABLE._replace(cells=lambda row: row["no such key"])
    with pytest.raises(KeyError):
        table.add(file, row)
    assert arms.read(file) == [row]
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=OSError))
    with pytest.raises(OSError):
        table.add(file, row | {"order": 1})
    assert arms.read(file) == [row]


@needs_plugin
def test_main_of_optimizers_compiles(tmp_path):
    out = tmp_path / "steps.jsonl"
    optimizers.main(["--trees", "ncf", "--optimizers", "optax.sgd", "--out", str(out)])
    (row,) = arms.read(out)
    assert row["kernels"] == 8 and row["passes"] == 5.0  # one for each leaf; g t w, t w


NCF = {"sizes": (50, 40, 900), "batch_size": 500}
CIFAR = {"count": 64, "batch_size": 32}
PHOTOS = {"dataset": "imagenet", "model": "resnet18", "count": 8, "batch_size": 2}
SMALL = {"sizes": (50, 40, 900)}
TEXT = {"depth": 1, "width": 8, "heads": 1, "block": 8}


@needs_plugin
@pytest.mark.parametrize(
    "case",
    [
        training.Case("", programs.recommender, NCF),
        training.Case("", programs.recommender, NCF, together=2),
        training.Case("", programs.images, CIFAR, devices=2),
        training.Case("", programs.images, CIFAR, devices=2, shard_state=True),
        training.Case("", programs.images, CIFAR, devices=2, parallel="pmap"),
        training.Case("", programs.photographs, PHOTOS),
        training.Case("", programs.texts, TEXT),
        training.Case("", programs.flattened, SMALL),
        training.Case("", programs.flattened, SMALL | {"measured": True}),
        training.Case("", programs.equilibria, {"count": 256}),
        training.Case("", programs.growing_rates, {"count": 128}),
        training.Case("", programs.labelled, {"count": 64}),
        training.Case("", programs.disturbed, {"count": 64}),
    ],
)
def test_training_programs_compile(case):
    program, steps = training.compile_case(case, "adam-lawn")
    assert program.count.kernels / steps > 10
    assert 0 < program.peak_bytes < 2**31
    assert bool(program.count.collectives) == (case.devices > 1)
