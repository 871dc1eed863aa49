"""Residual networks: ResNet-18, ResNet-50 v1.5 and the pre-activation PreResNet-32."""

from collections.abc import Sequence
from functools import partial

import jax
from flax import linen as nn
from jax.typing import DTypeLike

from models.layers import Fan, Layer, batch_norm, convolution, pool_and_classify

STEMS = ("cifar", "imagenet")
NORMALIZATIONS = ("batch", "group", "layer", "instance")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, of which the first has the stride, and a shortcut.

    Attributes:
        features: Channels.
        stride: Of the block.
        conv: Makes a convolution from features, size and stride.
        norm: Makes a norm layer.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = self.conv(self.features, 3, self.stride, name="conv1")(inputs)
        hidden = nn.relu(self.norm(name="norm1")(hidden))
        hidden = self.conv(self.features, 3, name="conv2")(hidden)
        hidden = self.norm(name="norm2")(hidden)
        return nn.relu(hidden + _shortcut(self, inputs, self.features))


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1, and a shortcut.

    The 3×3 convolution has the stride. That is what "v1.5" means: in the paper (v1) the
    first 1×1 convolution has it, and three of four pixels are never read.

    Attributes:
        features: Channels of the first two convolutions, a quarter of the last one's.
        stride: Of the block.
        conv: Makes a convolution from features, size and stride.
        norm: Makes a norm layer.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = self.conv(self.features, 1, name="conv1")(inputs)
        hidden = nn.relu(self.norm(name="norm1")(hidden))
        hidden = self.conv(self.features, 3, self.stride, name="conv2")(hidden)
        hidden = nn.relu(self.norm(name="norm2")(hidden))
        hidden = self.conv(4 * self.features, 1, name="conv3")(hidden)
        hidden = self.norm(name="norm3")(hidden)
        return nn.relu(hidden + _shortcut(self, inputs, 4 * self.features))


def _shortcut(
    block: BasicBlock | Bottleneck, inputs: jax.Array, features: int
) -> jax.Array:
    """The inputs, or a 1×1 convolution and norm of them where the shapes differ."""
    if block.stride == 1 and inputs.shape[-1] == features:
        return inputs
    inputs = block.conv(features, 1, block.stride, name="shortcut")(inputs)
    return block.norm(name="shortcut_norm")(inputs)


class ResNet(nn.Module):
    """A residual network (He et al. 2015, arXiv:1512.03385).

    Convolutions are drawn from He et al.'s normal distribution, by fan-out in
    `ResNet18` as in torchvision, by fan-in in `ResNet50` as in NVIDIA's
    DeepLearningExamples, the code that the LAWN paper names (arXiv:2108.05839, Appendix
    D.4.2). The head is uniform within 1/sqrt(fan-in), bias too. All scales of batch
    norm start at 1, the last one of a block too, as in both codes: a zero there, as in
    Goyal et al. 2017, would give the layer norm zero, and LAWN leaves such a group
    free.

    The parameters are ``stem``, ``stem_norm``, blocks named ``block1_1``, ``block1_2``,
    ... by stage, and ``head``; in a block ``conv1``, ``norm1``, ``conv2``, ... and,
    where shapes change, ``shortcut`` and ``shortcut_norm``. With the default groups of
    `lawn_optax`, each convolution is a group of its kernel alone, each norm layer one
    of scale and bias together, and the head one of kernel and bias: 41 groups for
    ResNet-18, 107 for ResNet-50.

    Attributes:
        stages: Number of blocks of each stage. All stages but the first halve the
            image and double the channels.
        block: `BasicBlock` or `Bottleneck`.
        classes: Number of logits.
        width: `features` of the first stage's blocks, and channels of the stem.
        stem: ``cifar`` (a 3×3 convolution) or ``imagenet`` (7×7 of stride 2, then a 3×3
            maximum pool of stride 2).
        fan: See `models.layers.convolution`.
        dtype: Of the computation, such as bfloat16. Parameters, statistics of batch
            norm and logits are float32 in any case, wider if they are given wider.
        axis_name: See `models.layers.batch_norm`.
    """

    stages: Sequence[int]
    block: type[BasicBlock] | type[Bottleneck]
    classes: int = 10
    width: int = 64
    stem: str = "cifar"
    fan: Fan = "fan_out"
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, height, width, 3]`` to logits ``[batch, classes]``."""
        if self.stem not in STEMS:
            raise ValueError(
                f"`stem` must be one of {', '.join(STEMS)}; got {self.stem!r}."
            )
        conv = partial(convolution, fan=self.fan, dtype=self.dtype)
        norm = partial(
            batch_norm, train=train, dtype=self.dtype, axis_name=self.axis_name
        )
        size, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        hidden = conv(self.width, size, stride, name="stem")(images)
        hidden = nn.relu(norm(name="stem_norm")(hidden))
        if self.stem == "imagenet":
            hidden = nn.max_pool(
                hidden,
                (3, 3),
                (2, 2),
                # Declared a string, documented to take pairs.
                ((1, 1), (1, 1)),  # pyright: ignore[reportArgumentType]
            )
        for stage, count in enumerate(self.stages, 1):
            for i in range(1, count + 1):
                stride = 2 if stage > 1 and i == 1 else 1
                features = self.width * 2 ** (stage - 1)
                block = self.block(
                    features, stride, conv, norm, name=f"block{stage}_{i}"
                )
                hidden = block(hidden)
        return pool_and_classify(hidden, self.classes)


ResNet18 = partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock)
ResNet50 = partial(
    ResNet,
    stages=(3, 4, 6, 3),
    block=Bottleneck,
    classes=1000,
    stem="imagenet",
    fan="fan_in",
)


class PreActivationBlock(nn.Module):
    """Norm, ReLU and a 3×3 convolution, twice, and a shortcut that nothing rectifies.

    Where shapes change, the shortcut is a 1×1 convolution of what the first norm and
    ReLU give, as in the authors' code (some later codes apply it to the raw inputs).

    Attributes:
        features: Channels.
        stride: Of the first convolution.
        conv: Makes a convolution from features, size and stride.
        norm: Makes a norm layer.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        active = nn.relu(self.norm(name="norm1")(inputs))
        shortcut = inputs
        if self.stride != 1 or inputs.shape[-1] != self.features:
            project = self.conv(self.features, 1, self.stride, name="shortcut")
            shortcut = project(active)
        hidden = self.conv(self.features, 3, self.stride, name="conv1")(active)
        hidden = nn.relu(self.norm(name="norm2")(hidden))
        return self.conv(self.features, 3, name="conv2")(hidden) + shortcut


class PreResNet(nn.Module):
    """The pre-activation residual network for 32×32 of depth 6n + 2.

    He et al. 2016 (arXiv:1603.05027): a 3×3 convolution, three stages of n blocks, norm
    and ReLU, mean and head. PreResNet-32 is the network of Li and Arora 2020
    (arXiv:1910.07454). Multiplying all convolutions by one positive number leaves the
    logits as they are, but for epsilon: each stage sums outputs of convolutions of
    normalised inputs, and a norm follows.

    Convolutions are drawn from He et al.'s normal distribution by fan-out, the head
    uniformly within 1/sqrt(fan-in), bias too; scales start at 1 and biases at 0.

    The parameters are ``stem``, blocks named ``block1_1``, ``block1_2``, ... by stage,
    ``norm`` and ``head``; in a block ``norm1``, ``conv1``, ``norm2``, ``conv2`` and,
    where shapes change, ``shortcut``. With the default groups of `lawn_optax`, each
    convolution is a group of its kernel alone, each norm layer one of scale and bias
    together, and the head one of kernel and bias: 65 groups for PreResNet-32.

    Attributes:
        depth: Layers with weights, shortcuts not counted: 6n + 2 for a whole n > 0.
        classes: Number of logits.
        width: Channels of the stem and the first stage.
        normalization: ``batch``, or a norm over each image alone: ``group`` (of 8
            channels), ``layer`` (all channels) or ``instance`` (each channel), all of
            them over height and width too, as in Wu and He 2018 (arXiv:1803.08494).
        dtype: Of the computation, such as bfloat16. Parameters, statistics of batch
            norm and logits are float32 in any case, wider if they are given wider.
        axis_name: See `models.layers.batch_norm`.
    """

    depth: int
    classes: int = 10
    width: int = 16
    normalization: str = "batch"
    dtype: DTypeLike | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images ``[batch, height, width, 3]`` to logits ``[batch, classes]``."""
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(
                "`depth` must be 6n + 2 for three stages of n blocks, such as 20, 32 or"
                f" 110; got {self.depth}."
            )
        conv = partial(convolution, dtype=self.dtype)
        norm = self._norm(train)
        hidden = conv(self.width, name="stem")(images)
        for stage in (1, 2, 3):
            for i in range(1, self.depth // 6 + 1):
                stride = 2 if stage > 1 and i == 1 else 1
                features = self.width * 2 ** (stage - 1)
                block = PreActivationBlock(
                    features, stride, conv, norm, name=f"block{stage}_{i}"
                )
                hidden = block(hidden)
        return pool_and_classify(nn.relu(norm(name="norm")(hidden)), self.classes)

    def _norm(self, train: bool) -> Layer:
        if self.normalization == "batch":
            return partial(
                batch_norm, train=train, dtype=self.dtype, axis_name=self.axis_name
            )
        groups = {
            "group": {"num_groups": None, "group_size": 8},
            "layer": {"num_groups": 1},
            "instance": {"num_groups": None, "group_size": 1},
        }
        if self.normalization not in groups:
            raise ValueError(
                f"`normalization` must be one of {', '.join(NORMALIZATIONS)};"
                f" got {self.normalization!r}."
            )
        return partial(
            nn.GroupNorm, epsilon=1e-5, dtype=self.dtype, **groups[self.normalization]
        )


PreResNet32 = partial(PreResNet, depth=32)
