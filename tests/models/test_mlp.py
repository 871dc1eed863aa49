"""The multilayer perceptron."""

import jax
import jax.numpy as jnp
import numpy as np

from models import MLP


def test_layers_have_the_names_and_sizes_that_group_names_rely_on():
    params = MLP((6, 5, 3)).init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "dense_0": {"kernel": (4, 6), "bias": (6,)},
        "dense_1": {"kernel": (6, 5), "bias": (5,)},
        "dense_2": {"kernel": (5, 3), "bias": (3,)},
    }


def test_output_is_linear_in_the_last_layer_and_relu_is_between_layers():
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(4, 6)), rng.normal(size=(6, 3))
    bias = rng.normal(size=3)
    inputs = rng.normal(size=(7, 4))
    params = {
        "dense_0": {"kernel": first, "bias": np.zeros(6)},
        "dense_1": {"kernel": last, "bias": bias},
    }
    logits = MLP((6, 3)).apply({"params": params}, inputs)
    expected = np.maximum(inputs @ first, 0) @ last + bias
    assert (expected < 0).any()  # A ReLU at the end would show.
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
