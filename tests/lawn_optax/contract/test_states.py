"""The states of all public transformations, as checkpoint libraries handle them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lawn_optax as lawn
from lawn_optax import baselines, diagnostics, schedules

SGD = optax.sgd(0.1)
RATES = schedules.exponential_equivalent(0.1, 0.9, 0.01, total_steps=10)
MAKE = {
    "adam": lambda: lawn.adam(0.1),
    "adamp": lambda: baselines.adamp(0.1),
    "brake": lawn.brake,
    "bounded_weight_norm": lambda: baselines.bounded_weight_norm(SGD),
    "halpern": baselines.halpern,
    "hyperball": lambda: baselines.hyperball(0.1),
    "lamb": lambda: lawn.lamb(0.1),
    "lamb_plus": lambda: lawn.lamb_plus(0.1),
    "master_weights": lambda: lawn.master_weights(lawn.wrap(optax.adam(0.1))),
    "max_norm": lawn.max_norm,
    "min_update": lambda: lawn.min_update(0.1),
    "nmgd": lambda: baselines.nmgd(0.1),
    "monitor": lawn.monitor,
    "observe": diagnostics.observe,
    "plateau_sgd": lambda: schedules.plateau_sgd(0.1, 0.9, 0.01),
    "project_tangent": lawn.project_tangent,
    "renormalize": lawn.renormalize,
    "reparametrize": lambda: baselines.reparametrize(SGD),
    "rescale_on_decay": lambda: lawn.rescale_on_decay(
        optax.linear_schedule(1, 0, 5), groups="layer"
    ),
    "rescaled_sgd": lambda: schedules.rescaled_sgd(RATES),
    "reset_at": lambda: lawn.reset_at(1, SGD),
    "sgd": lambda: lawn.sgd(0.1),
    "sgdp": lambda: baselines.sgdp(0.1),
    "switch_at": lambda: lawn.switch_at(1, SGD),
    "unfuse": lambda: lawn.unfuse(lawn.wrap(SGD), {"kernel": (1, 2)}),
    "unit_norm": baselines.unit_norm,
    "weight_norm_control": lambda: baselines.weight_norm_control(0.1),
    "weight_normalization": lambda: baselines.weight_normalization(SGD),
    "wrap": lambda: lawn.wrap(SGD, lawn.switch_when(3.0)),
}


def test_all_transformations_are_here():
    public = {
        name
        for module in (lawn, baselines, diagnostics, schedules)
        for name, x in inspect.getmembers(module, inspect.isfunction)
        if "GradientTransformation" in str(inspect.signature(x).return_annotation)
    }
    assert public == set(MAKE)


@pytest.mark.parametrize("name", MAKE)
def test_no_entry_of_a_state_is_of_an_unusual_type(name):
    # The second tree's fingerprint has its highest bit set.
    for key in ("dense", "conv"):
        params = {key: {"kernel": jnp.ones((2, 2))}}
        for leaf in jax.tree.leaves(MAKE[name]().init(params)):
            assert leaf.dtype in (np.float32, np.int32, np.bool_)
            if leaf.size == 1:  # as libraries send scalars of a state to a device
                assert jax.device_put(leaf.item()).dtype == leaf.dtype


def test_fingerprints_have_either_sign():
    signs = {
        np.sign(int(lawn.wrap(SGD).init({name: jnp.ones(2)}).fingerprint))
        for name in "abcdefgh"
    }
    assert signs == {-1, 1}
