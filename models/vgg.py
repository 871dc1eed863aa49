"""VGG-19 for images of 32×32."""

from collections.abc import Sequence
from functools import partial

import jax
from flax import linen as nn
from jax.typing import DTypeLike

from models.layers import batch_norm, convolution, pool_and_classify


class VGG(nn.Module):
    """Stages of convolution, batch norm and ReLU, with a maximum pool after each stage.

    The variant for CIFAR: one fully connected layer follows the pools, which reduce
    32×32 pixels to one. Convolutions have no biases, so that the network is homogeneous
    between its norm layers. With 10 classes, VGG-19 has 20,035,018 parameters, 5,504
    fewer than the variant with biases before batch norm.

    Initial weights are those of torchvision's VGG: He et al.'s normal distribution by
    fan-out for convolutions, N(0, 0.01²) for the head, zero for biases.

    The parameters are ``conv1_1``, ``norm1_1``, ``conv1_2``, ... by stage, and
    ``head``. The default groups of `lawn_optax` are the kernel of each convolution, the
    scale and bias of each norm layer, and the kernel and bias of the head: 33 groups
    for VGG-19.

    Attributes:
        convolutions: Number of convolutions of each stage.
        classes: Number of logits.
        width: Channels of the first stage; each further stage has twice as many, at
            most eight times as many as the first.
        dtype: Type of the computation, such as bfloat16. Parameters, statistics of
            batch norm and logits are float32 in any case, or wider if the parameters
            are.
        axis_name: Name of the axis that splits the batch; see
            `models.layers.batch_norm`.
    """

    convolutions: Sequence[int]
    classes: int = 10
    width: int = 64
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, height, width, 3]`` to logits ``[batch, classes]``."""
        smallest = 2 ** len(self.convolutions)
        if min(images.shape[-3:-1]) < smallest:
            raise ValueError(
                f"`images` must have at least {smallest}×{smallest} pixels, because"
                f" {len(self.convolutions)} stages halve them; got"
                f" {images.shape[-3]}×{images.shape[-2]}."
            )
        norm = partial(
            batch_norm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        hidden = images
        for stage, count in enumerate(self.convolutions, 1):
            features = self.width * min(2 ** (stage - 1), 8)
            for i in range(1, count + 1):
                conv = convolution(features, dtype=self.dtype, name=f"conv{stage}_{i}")
                hidden = nn.relu(norm(name=f"norm{stage}_{i}")(conv(hidden)))
            hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        return pool_and_classify(
            hidden,
            self.classes,
            kernel_init=nn.initializers.normal(0.01),
            bias_init=nn.initializers.zeros,
        )


VGG19 = partial(VGG, convolutions=(2, 2, 4, 4, 4))
