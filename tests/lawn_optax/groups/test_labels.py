"""Groups by callables; groupings that are refused, and how they are recognised."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import groups
from lawn_optax.groups._labels import Free, PerSlice
from lawn_optax.groups._resolve import resolve
from tests.support.trees import (
    MLP,
    dense,
    reasons,
    shape,
    sharing,
)

# --- callables ------------------------------------------------------------------------


def test_a_callable_labels_leaves_across_modules():
    labels = {"first": {"kernel": 1, "bias": 2}, "last": {"kernel": 1, "bias": None}}
    assert sharing(MLP, lambda params: labels) == {
        ("first/bias",): (),
        ("first/kernel", "last/kernel"): (),
    }
    assert reasons(MLP, lambda params: labels) == {"last/bias": "left free by `groups`"}


def test_a_label_may_stand_for_a_whole_subtree():
    assert sharing(MLP, lambda params: "one") == sharing(MLP, "all")
    assert sharing(MLP, lambda params: {"first": "a", "last": "b"}) == sharing(MLP)
    freed = lambda params: {"first": "a", "last": None}  # noqa: E731
    assert set(reasons(MLP, freed)) == {"last/bias", "last/kernel"}


def test_a_callable_may_ask_for_one_norm_per_slice():
    params = {"a": shape(2, 6), "b": shape(6, 3), "c": shape(4)}
    labels = {"a": PerSlice("x", (-1,)), "b": PerSlice("x", (0,)), "c": "y"}
    assert sharing(params, lambda _: labels) == {("a", "b"): (6,), ("c",): ()}
    assert resolve(lambda _: labels, params).num_norms == 7
    assert groups.PerSlice is PerSlice  # the public name
    # One label for a subtree of leaves that all have the axis.
    both = {"a": shape(6, 2), "b": shape(6, 3)}
    assert sharing(both, lambda _: PerSlice("x", (0,))) == {("a", "b"): (6,)}


def test_labels_that_print_alike_stay_distinct():
    params = {"a": shape(3), "b": shape(4), "c": shape(5)}
    assert sharing(params, lambda _: {"a": 1, "b": "1", "c": "1"}) == {
        ("a",): (),
        ("b", "c"): (),
    }


def test_free_labels_keep_their_reason():
    params = {"a": shape(3), "b": shape(3)}
    choice = lambda _: {"a": "x", "b": Free("too noisy")}  # noqa: E731
    assert reasons(params, choice) == {"b": "too noisy"}


# --- errors ---------------------------------------------------------------------------


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="'layers'") as error:
        lawn.describe(MLP, "layers")
    for name in ("layer", "leaf", "neuron", "all"):
        assert repr(name) in str(error.value)


def test_traced_groups_name_static_args():
    def run(choice):
        return lawn.wrap(optax.sgd(0.1), groups=choice).init({"w": jnp.ones(3)})

    with pytest.raises(TypeError, match="static_args"):
        jax.jit(run)(jnp.ones(()))
    with pytest.raises(TypeError, match="static_args"):
        lawn.describe(MLP, jnp.ones(()))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "labels",
    [
        {"first": "a"},
        {"first": "a", "last": "b", "more": "c"},
        {"first": {"kernel": "a"}, "last": "b"},
        ["a", "b"],
        {"first": {"kernel": {"x": 1}, "bias": 1}, "last": 1},
    ],
    ids=["too_few", "too_many", "too_few_below", "another_type", "too_deep"],
)
def test_labels_that_do_not_match_the_tree_show_both_structures(labels):
    with pytest.raises(ValueError, match="tree structure of the parameters") as error:
        resolve(lambda params: labels, MLP)
    assert "labels:" in str(error.value) and "params:" in str(error.value)


def test_kept_axes_of_different_sizes_are_an_error_that_names_the_leaves():
    params = {"a": shape(2, 6), "b": shape(5, 3)}
    labels = {"a": PerSlice("x", (1,)), "b": PerSlice("x", (0,))}
    with pytest.raises(ValueError, match="same sizes") as error:
        resolve(lambda _: labels, params)
    for part in ("'x'", "a: (2, 6)", "b: (5, 3)"):
        assert part in str(error.value)
    mixed = {"a": PerSlice("x", (1,)), "b": "x"}
    with pytest.raises(ValueError, match="same sizes"):
        resolve(lambda _: mixed, params)


def test_a_kept_axis_that_a_leaf_lacks_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"\(2,\) of a.*\(3, 4\)"):
        resolve(lambda _: PerSlice("x", (2,)), {"a": shape(3, 4)})


@pytest.mark.parametrize(
    "params, choice, why",
    [
        (MLP, lambda params: None, "left free by `groups`"),
        (MLP, groups.not_paths("first", "last"), "named in not_paths"),
        ({"gain": shape(1)}, "layer", "one element"),
        ({"n": shape(3, dtype=jnp.int32)}, "all", "not floating point"),
    ],
    ids=["all_none", "all_named", "one_element", "integers"],
)
def test_nothing_constrained_is_an_error_in_describe_and_init(params, choice, why):
    init = lawn.wrap(optax.sgd(0.1), groups=choice).init
    for call in (lambda: lawn.describe(params, choice), lambda: init(params)):
        with pytest.raises(ValueError, match="No parameter is constrained") as error:
            call()
        assert why in str(error.value)


@pytest.mark.parametrize("choice", ["layer", "leaf", "neuron", "all"])
def test_an_empty_tree_is_no_error(choice):
    header = ["group", "norms", "elements", "leaves"]
    assert lawn.describe(None, choice).split() == header
    for params in ({}, {"a": None}, {"a": optax.MaskedNode()}):
        assert lawn.describe(params, choice).split() == header
        for tx in (lawn.wrap(optax.adam(0.1), groups=choice), lawn.lamb(0.1)):
            updates, _ = tx.update(params, tx.init(params), params)
            assert updates == params


@pytest.mark.parametrize(
    "helper", [groups.not_paths("x"), groups.only_paths("x"), groups.stacked("x")]
)
def test_an_empty_tree_is_no_error_for_helpers_with_paths(helper):
    assert sharing({}, helper) == {}


# --- fingerprints ---------------------------------------------------------------------


def fingerprint(params, choice):
    return resolve(choice, params).fingerprint


def test_a_fingerprint_does_not_know_the_names_of_groups():
    named = lambda a, b: lambda _: {"first": a, "last": b}  # noqa: E731
    expected = fingerprint(MLP, "layer")
    assert fingerprint(MLP, named("a", "b")) == expected
    assert fingerprint(MLP, named("b", "a")) == expected
    assert fingerprint(MLP, named(7, "first")) == expected


def test_a_fingerprint_is_that_of_the_constrained_leaves_masked_or_labelled_none():
    masked = {"first": MLP["first"], "last": optax.MaskedNode()}
    absent = {"first": MLP["first"], "last": None}
    labelled = fingerprint(MLP, groups.not_paths("last"))
    assert fingerprint(masked, "layer") == fingerprint(absent, "layer") == labelled
    assert labelled != fingerprint(MLP, "layer")


def test_fingerprints_differ_between_groupings():
    choices = {
        "layer": "layer",
        "leaf": "leaf",
        "neuron": "neuron",
        "neuron axis 0": groups.neuron(0),
        "all": "all",
        "only_matrices": groups.only_matrices(),
        "only_matrices neuron": groups.only_matrices("neuron"),
        "not first": groups.not_paths("first"),
        "not last": groups.not_paths("last"),
        "stacked": groups.stacked(base="leaf"),
    }
    params = {"first": dense(3, 3), "last": dense(3, 3)}
    prints = {name: fingerprint(params, choice) for name, choice in choices.items()}
    assert len(set(prints.values())) == len(prints), prints
    renamed = {"first": params["first"], "other": params["last"]}
    assert fingerprint(renamed, "layer") != prints["layer"]


def test_a_fingerprint_is_the_same_in_every_process():
    # Python's own hash() of strings is not: a checkpoint would be refused tomorrow.
    code = (
        "import jax; from lawn_optax.groups._resolve import resolve;"
        "w = jax.ShapeDtypeStruct((2, 3), 'float32');"
        "print(resolve('leaf', {'a': w, 'b': [w]}).fingerprint)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    here = fingerprint({"a": shape(2, 3), "b": [shape(2, 3)]}, "leaf")
    assert int(run.stdout) == here


def test_the_state_holds_the_fingerprint():
    state = lawn.wrap(optax.sgd(0.1)).init({"w": jnp.ones(3)})
    assert state.fingerprint.dtype == np.int32
    assert int(state.fingerprint) == fingerprint({"w": shape(3)}, "layer")
