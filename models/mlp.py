"""A multilayer perceptron."""

from collections.abc import Sequence

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers with ReLU between them; the last one is linear.

    Without its biases the network is homogeneous: scaling the weights of one layer
    scales the logits. The layers are named ``dense_0``, ``dense_1``, ... from input to
    output; with the default groups, kernel and bias of a layer share one norm.

    Attributes:
        features: Widths of the layers, each at least 1; the last is the number of
            logits.
    """

    features: Sequence[int]

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps inputs ``[..., d]`` to logits ``[..., features[-1]]``."""
        for layer, width in enumerate(self.features):
            if layer:
                inputs = nn.relu(inputs)
            inputs = nn.Dense(width, name=f"dense_{layer}")(inputs)
        return inputs
