"""A pre-activation residual network for 8x8 digits that trains its kernels alone.

As in Li and Arora 2019, arXiv:1910.07454, section 4: the scales and biases of the
normalization are 1 and 0, and the last layer keeps its random weights. So the loss does
not depend on the scale of the kernels.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.digits.experiment import CLASSES

Weights = dict[str, jax.Array]


def init_network(seed: int, channels: int, blocks: int) -> tuple[Weights, np.ndarray]:
    """Draws the kernels, in JAX's default float type, and the last layer."""
    rng = np.random.default_rng(seed)

    def kernel(inputs: int) -> jax.Array:
        values = rng.normal(size=(3, 3, inputs, channels)) * math.sqrt(2 / (9 * inputs))
        return jnp.asarray(values)

    kernels = {"stem": kernel(1)}
    for block in range(blocks):
        kernels |= {f"block_{block}_{i}": kernel(channels) for i in range(2)}
    head = rng.normal(size=(channels, CLASSES)) / math.sqrt(channels)
    return kernels, head.astype(np.float32)


def apply_network(weights: Any, head: np.ndarray, images: jax.Array) -> jax.Array:
    """Computes logits; batch norm uses the statistics of `images`."""

    def conv(x: jax.Array, name: str) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, weights[name], (1, 1), "SAME", dimension_numbers=layout
        )

    def active(x: jax.Array) -> jax.Array:
        centred = x - x.mean((0, 1, 2), keepdims=True)
        # No epsilon: kernels that grow would make it smaller relative to the variance,
        # and the loss would depend on their scale.
        return jax.nn.relu(
            centred * jax.lax.rsqrt(jnp.mean(centred**2, (0, 1, 2), keepdims=True))
        )

    x = conv(images.reshape(-1, 8, 8, 1).astype(weights["stem"].dtype), "stem")
    for block in range((len(weights) - 1) // 2):
        inside = conv(active(x), f"block_{block}_0")
        x = x + conv(active(inside), f"block_{block}_1")
    # The maximum over the image: the mean of a normalized channel says little.
    return active(x).max((1, 2)) @ head
