"""Helpers that look at shapes: matrices, units, stacks; leaves without a norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._resolve import resolve
from tests.support.trees import dense, reasons, shape, sharing

# --- matrices and units ---------------------------------------------------------------


def test_only_matrices_judges_by_names_and_by_the_shapes_beside():
    params = {
        "query": {"kernel": shape(8, 2, 4), "bias": shape(2, 4)},
        "conv": {"weight": shape(4, 3, 3, 3), "bias": shape(4, 1, 1)},
        "conv_b": {"w": shape(4, 3, 3, 3), "b": shape(4, 1, 1)},
        "haiku": {"w": shape(8, 2, 4), "b": shape(2, 4)},
        "norm": {"scale": shape(6, 3)},
        "rms_norm": {"weight": shape(6, 3)},
        "affine": {"weight": shape(6, 3), "bias": shape(6, 3)},
        "lora": {"a": shape(8, 2), "b": shape(2, 8)},
        "unit": {"kernel": shape(8, 1), "bias": shape(1)},
        "ln_1": {"weight": shape(6, 3)},
        "normal": {"weight": shape(6, 3)},
        "table": shape(5, 4),
    }
    matrices = {"query/kernel", "conv/weight", "conv_b/w", "haiku/w", "lora/a",
                "lora/b", "unit/kernel", "normal/weight", "table"}  # fmt: skip
    found = sharing(params, groups.only_matrices("leaf"))
    assert {name for group in found for name in group} == matrices
    free = reasons(params, groups.only_matrices())
    assert all(why.startswith("not a matrix") for why in free.values())
    assert free["query/bias"] == "not a matrix: its name is bias"


def test_only_matrices_leaves_out_the_stacked_axis():
    block = {
        "dense": {"kernel": shape(6, 3, 4), "offsets": shape(6, 4)},
        "rms": {"weight": shape(6, 3)},
    }
    vectors = {"blocks/dense/offsets", "blocks/rms/weight"}
    params = {"blocks": block, "head": {"kernel": shape(3, 2)}}
    stacked = groups.stacked("blocks")
    for choice in (
        groups.only_matrices(),  # the stack is recognised
        groups.only_matrices(stacked),
        groups.stacked("blocks", base=groups.only_matrices()),
    ):
        assert set(reasons(params, choice)) == vectors
    assert sharing(params, groups.only_matrices(stacked)) == {
        ("blocks/dense/kernel",): (6,), ("head/kernel",): ()
    }  # fmt: skip


def test_only_matrices_frees_no_matrix_that_only_seems_to_be_stacked():
    params = {
        "embed": {"weight": shape(8, 16)},
        "mix": {"weight": shape(8, 4, 2), "proj": shape(8, 2)},
        "out": {"weight": shape(8, 5)},
    }
    assert reasons(params, groups.only_matrices()) == {}
    block = {"wq": shape(12, 8, 8), "wo": shape(12, 8, 8), "ln": shape(12, 8)}
    params = {"blocks": block, "wte": shape(100, 8)}  # All have 8 features in axis 1.
    assert "wte" not in reasons(params, groups.only_matrices())


def test_only_matrices_reports_what_is_doubtful():
    params = {
        "class_token": shape(1, 1, 8),
        "dense": {"weight": shape(8, 2, 4), "shift": shape(2, 4)},
    }
    report = lawn.describe(params, groups.only_matrices("leaf"))
    assert "free" not in report
    assert report.split("\n\n")[1].splitlines() == [
        "note: class_token: counted as a matrix, but only one of its axes is longer"
        " than 1.",
        "note: dense/shift: counted as a matrix, but it could be the bias of weight.",
    ]


def test_neuron_joins_the_bias_of_an_equinox_convolution():
    params = {
        "conv": {"weight": shape(4, 3, 3, 3), "bias": shape(4, 1, 1)},
        "last": {"weight": shape(1, 4, 3, 3), "bias": shape(1, 1, 1)},
        "query": {"weight": shape(4, 8), "bias": shape(4)},
    }
    assert sharing(params, groups.neuron(0)) == {
        ("conv/bias", "conv/weight"): (4,),
        ("last/bias", "last/weight"): (1,),
        ("query/bias", "query/weight"): (4,),
    }
    params["conv"]["bias"] = np.full((4, 1, 1), 2.0)
    params["conv"]["weight"] = np.ones((4, 3, 3, 3))
    norms = lawn.diagnostics.group_norms(
        {"conv": params["conv"]}, groups=groups.neuron(0)
    )
    np.testing.assert_allclose(norms, np.full(4, np.sqrt(27 + 4)), rtol=1e-6)


def test_neuron_does_not_take_a_bias_of_two_axes_for_a_kernel():
    params = {"query": {"kernel": shape(8, 2, 4), "bias": shape(2, 4)}}
    assert sharing(params, groups.neuron((-2, -1))) == {
        ("query/bias", "query/kernel"): (2, 4)
    }
    assert sharing(params, "neuron") == {("query/kernel",): (4,)}
    with pytest.raises(ValueError, match=r"axes \(3,\) of query/kernel"):
        resolve(groups.neuron(3), params)


# --- stacked --------------------------------------------------------------------------


def test_stacked_gives_one_norm_per_slice_of_the_named_modules_only():
    params = {
        "blocks": {"kernel": shape(6, 2, 3), "bias": shape(6, 3)},
        "out": dense(3, 2),
    }
    assert sharing(params, groups.stacked("blocks")) == {
        ("blocks/bias", "blocks/kernel"): (6,),
        ("out/bias", "out/kernel"): (),
    }


def test_stacked_without_paths_is_everywhere_and_frees_what_has_no_axis():
    params = {"a": {"w": shape(6, 2), "gain": shape()}, "b": {"w": shape(4, 2)}}
    assert sharing(params, groups.stacked()) == {("a/w",): (6,), ("b/w",): (4,)}
    assert reasons(params, groups.stacked()) == {"a/gain": "no axis to slice"}


def test_stacked_axis_may_be_another():
    params = {"w": shape(2, 6, 3)}
    grouping = resolve(groups.stacked(axis=1), params)
    assert grouping.blocks[0].shape == (6,) and grouping.blocks[0].axes == ((1,),)


@pytest.mark.parametrize("layers", [6, 3], ids=["6_layers", "as_many_layers_as_units"])
@pytest.mark.parametrize("axis", [0, 1], ids=["axis_0", "axis_1"])
def test_stacked_over_neuron_keeps_slice_and_unit(axis, layers):
    # The norms, not the axes: kernel [layer, in, unit] or [in, layer, unit], bias
    # [layer, unit] or [unit, layer], with 3 units. Each norm counts one unit once.
    kernel = np.arange(layers * 2 * 3, dtype=np.float32).reshape(layers, 2, 3) % 7
    bias = np.arange(layers * 3, dtype=np.float32).reshape(layers, 3) % 5
    params = {
        "blocks": {"kernel": np.moveaxis(kernel, 0, axis)},
        "out": {"kernel": np.ones((3, 2), np.float32)},
    }
    params["blocks"]["bias"] = np.moveaxis(bias, 0, axis)
    choice = groups.stacked("blocks", axis=axis, base="neuron")
    norms = lawn.diagnostics.group_norms(params, groups=choice)
    expected = np.sqrt((kernel**2).sum(1) + bias**2)
    np.testing.assert_allclose(np.sort(norms[:-2]), np.sort(expected.ravel()), 1e-6)
    np.testing.assert_allclose(norms[-2:], np.sqrt(3), 1e-6)


def test_stacked_over_leaf_and_helpers_in_each_other():
    params = {"blocks": {"k": shape(6, 2, 3), "b": shape(6, 3)}, "embed": shape(5, 2)}
    choice = groups.not_paths("embed", base=groups.stacked("blocks", base="leaf"))
    assert sharing(params, choice) == {("blocks/b",): (6,), ("blocks/k",): (6,)}
    inverse = groups.stacked("blocks", base=groups.not_paths("embed", base="leaf"))
    assert sharing(params, inverse) == sharing(params, choice)
    assert reasons(params, inverse) == {"embed": "named in not_paths"}


# --- nested stacks --------------------------------------------------------------------

EXPERTS = {
    "layers": {"experts": {"up": shape(4, 8, 5, 6)}, "norm": shape(4, 5)},
    "out": shape(6, 3),
}


def test_nested_stacks_are_products_in_either_order():
    layers = functools.partial(groups.stacked, "layers")
    experts = functools.partial(groups.stacked, "experts", axis=1)
    for choice in (layers(base=experts()), experts(base=layers()), layers(
        base=groups.stacked("experts", axis=-3)
    )):  # fmt: skip
        shapes = sharing(EXPERTS, choice)
        assert sorted(shapes.pop(("layers/experts/up",))) == [4, 8]
        assert shapes == {("layers/norm",): (4,), ("out",): ()}
    both = groups.stacked("experts", axis=(0, 1))
    assert sharing(EXPERTS, both)[("layers/experts/up",)] == (4, 8)
    units = groups.stacked("experts", axis=(1, 0), base="neuron")
    assert sharing(EXPERTS, units)[("layers/experts/up",)] == (8, 4, 6)


@pytest.mark.parametrize(
    "choice",
    [
        groups.stacked("layers", base=groups.stacked("experts")),
        groups.stacked("experts", base=groups.stacked("layers")),
        groups.stacked("experts", axis=(1, -3)),
    ],
    ids=["inside", "outside", "tuple"],
)
def test_an_axis_is_stacked_once(choice):
    with pytest.raises(ValueError, match="of layers/experts/up is stacked twice"):
        resolve(choice, EXPERTS)


def test_what_lacks_the_stacked_axis_is_free():
    params = {"blocks": {"kernel": shape(3, 6, 2), "gain": shape(6)}}
    choice = groups.stacked("blocks", axis=1)
    assert sharing(params, choice) == {("blocks/kernel",): (6,)}
    assert reasons(params, choice) == {"blocks/gain": "no axis to slice"}


# --- leaves without a norm ------------------------------------------------------------


@pytest.mark.parametrize("choice", ["layer", "leaf", "neuron", groups.only_matrices()])
def test_leaves_that_can_have_no_norm_are_free(choice):
    kinds = {
        "float8": jnp.ones((2, 3), jnp.float8_e4m3fn),
        "float4": jnp.ones((2, 3), jnp.float4_e2m1fn),
        "integer": jnp.ones((2, 3), jnp.int32),
        "function": jax.nn.relu,
        "key": jax.random.key(0),
        "name": "relu",
    }
    kernel = jnp.array([[3.0, 4.0]]).T
    params = {"dense": {"kernel": kernel}, "more": kinds}
    assert set(reasons(params, choice)) == {f"more/{kind}" for kind in kinds}
    norms = lawn.diagnostics.group_norms(params, groups=choice)
    np.testing.assert_allclose(norms, [5.0], rtol=1e-6)
    assert "float8_e4m3fn" in lawn.describe(params, choice)
    grads = jax.tree.map(lambda leaf: None, params)
    grads["dense"]["kernel"] = kernel[::-1]
    tx = lawn.wrap(optax.sgd(0.1), groups=choice)
    updates, _ = tx.update(grads, tx.init(params), params)
    new = kernel + updates["dense"]["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(new), 5, rtol=1e-6)
