"""Which leaves share one norm: names, helpers, paths, kinds of trees."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._resolve import resolve
from tests.support.optional import NnxList
from tests.support.trees import (
    MLP,
    dense,
    reasons,
    shape,
    sharing,
)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=[]
)
class Linear:
    """What an Equinox layer looks like to JAX."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["layers", "value"], meta_fields=[]
)
class Model:
    def __init__(self, layers, value):
        self.layers, self.value = layers, value


class Pair(NamedTuple):
    left: Any
    right: Any


class Attention(NamedTuple):
    query: Any
    key: Any
    value: Any


# --- names ----------------------------------------------------------------------------


def test_layer_is_the_default_and_joins_the_leaves_of_one_module():
    expected = {
        ("first/bias", "first/kernel"): (),
        ("last/bias", "last/kernel"): (),
    }
    assert sharing(MLP) == sharing(MLP, "layer") == expected
    assert lawn.describe(MLP) == lawn.describe(MLP, "layer")


def test_leaf_gives_each_leaf_its_own_norm():
    paths = ["first/bias", "first/kernel", "last/bias", "last/kernel"]
    assert sharing(MLP, "leaf") == {(path,): () for path in paths}


def test_all_gives_one_norm_to_everything():
    paths = ("first/bias", "first/kernel", "last/bias", "last/kernel")
    assert sharing(MLP, "all") == {paths: ()}


def test_neuron_gives_one_norm_per_output_unit_and_the_bias_joins():
    params = {"d": dense(2, 3), "norm": {"scale": shape(3)}}
    assert sharing(params, "neuron") == {("d/bias", "d/kernel"): (3,)}
    assert reasons(params, "neuron") == {
        "norm/scale": "no kernel in its module has these units"
    }


def test_neuron_frees_a_vector_that_fits_two_kernels_or_none():
    params = {"m": {"a": shape(2, 3), "b": shape(4, 3), "t": shape(3), "u": shape(4)}}
    assert sharing(params, "neuron") == {("m/a",): (3,), ("m/b",): (3,)}
    assert set(reasons(params, "neuron")) == {"m/t", "m/u"}


def test_neuron_of_a_convolution_keeps_its_output_channels():
    params = {"conv": {"kernel": shape(3, 3, 2, 5), "bias": shape(5)}}
    grouping = resolve("neuron", params)
    assert sharing(params, "neuron") == {("conv/bias", "conv/kernel"): (5,)}
    assert grouping.blocks[0].axes == ((0,), (3,))


def test_neuron_axis_zero_serves_equinox():
    params = Linear(shape(3, 2), shape(3))
    grouping = resolve(groups.neuron(0), params)
    assert sharing(params, groups.neuron(0)) == {("weight", "bias"): (3,)}
    assert grouping.blocks[0].axes == ((0,), (0,))


def test_neuron_of_attention_kernels_takes_two_axes_or_a_callable():
    heads, width = 2, 4
    attention = {
        "query": {"kernel": shape(6, heads, width), "bias": shape(heads, width)},
        "out": {"kernel": shape(heads, width, 6), "bias": shape(6)},
    }
    choice = groups.neuron(lambda path: -1 if "out" in path.split("/") else (-2, -1))
    assert sharing(attention, choice) == {
        ("query/bias", "query/kernel"): (heads, width),
        ("out/bias", "out/kernel"): (6,),
    }
    query = {"query": attention["query"]}
    assert sharing(query, groups.neuron((-2, -1))) == {
        ("query/bias", "query/kernel"): (heads, width)
    }


def test_neuron_frees_units_of_one_weight():
    params = {"thin": {"kernel": shape(1, 3)}, "d": dense(1, 3)}
    assert sharing(params, "neuron") == {("d/bias", "d/kernel"): (3,)}
    assert reasons(params, "neuron") == {
        "thin/kernel": "one element: no tangent direction"
    }


# --- paths and free leaves ------------------------------------------------------------


ATTENTION = {
    "attn": {"kernel": shape(2, 2)},
    "attn_gate": {"kernel": shape(2, 2)},
    "block": {"attn": {"kernel": shape(2, 2)}, "pre_attn": {"kernel": shape(2, 2)}},
}


@pytest.mark.parametrize(
    "path, named",
    [
        ("attn", {"attn/kernel", "block/attn/kernel"}),
        ("block/attn", {"block/attn/kernel"}),
        ("block", {"block/attn/kernel", "block/pre_attn/kernel"}),
        ("attn_gate/kernel", {"attn_gate/kernel"}),
    ],
    ids=["component", "two_components", "parent", "whole_path"],
)
def test_paths_are_whole_components(path, named):
    every = {leaf for group in sharing(ATTENTION) for leaf in group}
    assert set(reasons(ATTENTION, groups.not_paths(path))) == named
    assert set(reasons(ATTENTION, groups.only_paths(path))) == every - named


@pytest.mark.parametrize("path", ["att", "ttn", "attn_", "lock/attn", "kernel/attn"])
@pytest.mark.parametrize(
    "helper", [groups.not_paths, groups.only_paths, groups.stacked]
)
def test_a_path_that_matches_nothing_is_an_error_that_lists_the_leaves(helper, path):
    with pytest.raises(ValueError, match=path) as error:
        resolve(helper(path), ATTENTION)
    for leaf in ("attn/kernel", "attn_gate/kernel", "block/pre_attn/kernel"):
        assert leaf in str(error.value)


def test_one_matching_path_does_not_excuse_another():
    with pytest.raises(ValueError, match="typo"):
        resolve(groups.not_paths("attn", "typo"), ATTENTION)


def test_only_matrices_frees_vectors_and_scalars():
    params = {"d": dense(), "norm": {"scale": shape(3)}, "gain": shape()}
    choice = groups.only_matrices()
    assert sharing(params, choice) == {("d/kernel",): ()}
    assert set(reasons(params, choice)) == {"d/bias", "norm/scale", "gain"}
    assert set(reasons(params, choice).values()) == {"not a matrix"}
    assert sharing(params, groups.only_matrices("neuron")) == {("d/kernel",): (3,)}


def test_integer_and_key_leaves_are_free():
    params = {"d": {"w": shape(3), "n": shape(3, dtype=jnp.int32)}, "k": None}
    params["k"] = jax.random.key(0)
    assert sharing(params) == {("d/w",): ()}
    assert reasons(params) == {
        "d/n": "not floating point (int32)",
        "k": "not floating point (key<fry>)",
    }


def test_groups_with_fewer_than_two_elements_are_free():
    params = {
        "one": {"a": shape(1)},
        "none": {"a": shape(0, 3)},
        "two": {"a": shape(1), "b": shape()},
        "complex": {"a": shape(dtype=jnp.complex64)},  # two real numbers
    }
    assert sharing(params) == {("two/a", "two/b"): (), ("complex/a",): ()}
    assert reasons(params) == {
        "one/a": "one element: no tangent direction",
        "none/a": "no elements: no tangent direction",
    }


# --- kinds of trees -------------------------------------------------------------------


def test_items_of_a_list_are_layers_and_those_of_a_tuple_one_layer():
    w, b = shape(2, 3), shape(3)
    assert sharing([w, w]) == {("0",): (), ("1",): ()}
    assert sharing((w, b)) == {("0", "1"): ()}
    assert sharing([(w, b), (w, b)]) == {("0/0", "0/1"): (), ("1/0", "1/1"): ()}
    assert sharing(([w, w], b)) == {("0/0",): (), ("0/1",): (), ("1",): ()}
    assert sharing(Pair(w, b)) == {("left", "right"): ()}
    assert sharing({"net": [w, w]}) == {("net/0",): (), ("net/1",): ()}


def test_integer_dict_keys_are_items_of_a_list():
    w = shape(2, 3)
    assert sharing({"net": {0: w, 1: w}}) == {("net/0",): (), ("net/1",): ()}
    layers = {"net": {0: dense(), 1: dense()}}
    assert len(sharing(layers)) == 2


def test_a_bare_array_is_one_group():
    assert sharing(shape(2, 3)) == {("",): ()}
    assert lawn.describe(shape(3)).splitlines()[1].split()[0] == "/"


@jax.tree_util.register_pytree_node_class
class Keyless:
    """A node that does not name its children."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_a_list_in_a_node_without_keys_is_a_list():
    w, b = shape(2, 3), shape(3)
    assert sharing(Keyless(w, b)) == {("0", "1"): ()}
    assert sharing(Keyless([w, w], {"out": [w]})) == {
        ("0/0",): (), ("0/1",): (), ("1/out/0",): ()
    }  # fmt: skip


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["axes"]
)
class NamedArray:
    """What Haliax has in the place of an array."""

    __module__ = "haliax.core"

    def __init__(self, array, axes):
        self.array, self.axes = array, axes


def test_named_arrays_of_haliax_are_seen_through():
    weight, bias = shape(3, 2), shape(3)
    named = Linear(NamedArray(weight, ("out", "in")), NamedArray(bias, ("out",)))
    assert sharing(named) == sharing(Linear(weight, bias)) == {("weight", "bias"): ()}


def test_attribute_paths_of_equinox_modules():
    layers = [Linear(shape(3, 2), shape(3)), Linear(shape(2, 3), None)]
    params = Model(layers, shape(4))
    assert sharing(params) == {
        ("layers/0/weight", "layers/0/bias"): (),
        ("layers/1/weight",): (),
        ("value",): (),  # a field that happens to be called so is no box
    }
    alone = Model(Model(None, shape(3)), shape(4))
    assert sharing(alone) == {("layers/value",): (), ("value",): ()}


def test_a_field_called_value_beside_others_is_no_box():
    w = shape(2, 3)
    qkv = {"attn": Attention(w, w, w), "out": w}
    assert sharing(qkv) == {
        ("attn/query", "attn/key", "attn/value"): (),
        ("out",): (),
    }


def test_nnx_state_groups_by_module_through_its_boxes():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(2, 3, rngs=rngs)
            self.layers = NnxList([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])

    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    expected = {
        ("head/bias", "head/kernel"): (),
        ("layers/0/bias", "layers/0/kernel"): (),
        ("layers/1/bias", "layers/1/kernel"): (),
    }
    assert sharing(state) == sharing(nnx.to_pure_dict(state)) == expected
    assert sharing(state, "neuron") == {group: (3,) for group in expected}
    frozen = groups.not_paths("head")
    assert set(reasons(state, frozen)) == {"head/bias", "head/kernel"}


def test_linen_partitioned_boxes_are_seen_through():
    init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    model = nn.Dense(3, kernel_init=init)
    boxed = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2)))
    assert sharing(boxed) == {("params/bias", "params/kernel"): ()}
    assert sharing(boxed, "neuron") == {("params/bias", "params/kernel"): (3,)}
    # The same groups, so the same checkpoint, with the boxes and without.
    plain = resolve("layer", nn.meta.unbox(boxed))
    assert resolve("layer", boxed).fingerprint == plain.fingerprint


def test_none_and_masked_parameters_pass_through():
    params = {"a": optax.MaskedNode(), "b": {"w": shape(3), "v": None}}
    assert sharing(params) == {("b/w",): ()} and reasons(params) == {}
