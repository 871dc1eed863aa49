"""A small convolutional network, for quick runs on a CPU."""

from collections.abc import Sequence
from functools import partial

import jax
from flax import linen as nn
from jax.typing import DTypeLike

from models.layers import batch_norm, convolution, pool_and_classify


class CNN(nn.Module):
    """Layers of 3×3 convolution, batch norm and ReLU; all but the last halve the image.

    Strides halve it from the first layer on: on CPUs, large arrays with
    few channels cost more time than the products. With 10 classes and the default
    features, an image of 32×32 pixels takes 1,493,632 multiply-adds, which is 2.99
    million floating-point operations, and there are 63,874 parameters.

    Convolutions start from He et al.'s normal distribution by fan-out, kernel and bias
    of the head from the uniform distribution within 1/sqrt(fan-in), the scales of norm
    layers from 1 and their biases from 0.

    The parameters are ``conv1``, ``norm1``, ``conv2``, ... and ``head``. The default
    groups of `lawn_optax` are nine: the kernel of each convolution, the scale and bias
    of each norm layer, and the kernel and bias of the head.

    Attributes:
        features: Channels of each layer.
        classes: Number of logits.
        dtype: Type of the computation, such as bfloat16. Parameters, statistics of
            batch norm and logits are float32 in any case, or wider if the parameters
            are.
        axis_name: Name of the axis that splits the batch; see
            `models.layers.batch_norm`.
    """

    features: Sequence[int] = (24, 32, 64, 64)
    classes: int = 10
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, height, width, 3]`` to logits ``[batch, classes]``."""
        norm = partial(
            batch_norm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        hidden = images
        for layer, features in enumerate(self.features, 1):
            stride = 1 if layer == len(self.features) else 2
            conv = convolution(
                features, 3, stride, dtype=self.dtype, name=f"conv{layer}"
            )
            hidden = nn.relu(norm(name=f"norm{layer}")(conv(hidden)))
        return pool_and_classify(hidden, self.classes)
