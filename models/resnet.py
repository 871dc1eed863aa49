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
    """Two 3×3 convolutions, the first with the stride, and a shortcut.

    Attributes:
        features: Channels.
        stride: Stride of the block.
        conv: Function that makes a convolution from features, size and stride.
        norm: Function that makes a norm layer.
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

    The 3×3 convolution has the stride, which is what "v1.5" means. In the paper (v1)
    the first 1×1 convolution has it, so three of four pixels are never read.

    Attributes:
        features: Channels of the first two convolutions, a quarter of the last one's.
        stride: Stride of the block.
        conv: Function that makes a convolution from features, size and stride.
        norm: Function that makes a norm layer.
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
    """The inputs, or a 1×1 convolution and norm of them if the shapes differ."""
    if block.stride == 1 and inputs.shape[-1] == features:
        return inputs
    inputs = block.conv(features, 1, block.stride, name="shortcut")(inputs)
    return block.norm(name="shortcut_norm")(inputs)


class ResNet(nn.Module):
    """A residual network (He et al. 2015, arXiv:1512.03385).

    Convolutions start from He et al.'s normal distribution: by fan-out in `ResNet18`,
    as in torchvision, and by fan-in in `ResNet50`, as in NVIDIA's DeepLearningExamples,
    the code that the LAWN paper names (arXiv:2108.05839, Appendix D.4.2). Kernel and
    bias of the head start from the uniform distribution within 1/sqrt(fan-in). All
    scales of batch norm start at 1, as in both codes. Goyal et al. 2017 start the last
    scale of a block at 0, but then its layer has norm zero, and LAWN leaves such a
    group free.

    The parameters are ``stem``, ``stem_norm``, blocks named ``block1_1``, ``block1_2``,
    ... by stage, and ``head``. A block has ``conv1``, ``norm1``, ``conv2``, ... and,
    where shapes change, ``shortcut`` and ``shortcut_norm``. The default groups of
    `lawn_optax` are the kernel of each convolution, the scale and bias of each norm
    layer, and the kernel and bias of the head: 41 groups for ResNet-18, 107 for
    ResNet-50.

    Attributes:
        stages: Number of blocks of each stage. Every stage after the first halves the
            image and doubles the channels.
        block: `BasicBlock` or `Bottleneck`.
        classes: Number of logits.
        width: `features` of the blocks of the first stage, and channels of the stem.
        stem: ``cifar`` (a 3×3 convolution) or ``imagenet`` (7×7 of stride 2, then a 3×3
            maximum pool of stride 2).
        fan: Fan of the initial weights; see `models.layers.convolution`.
        dtype: Type of the computation, such as bfloat16. Parameters, statistics of
            batch norm and logits are float32 in any case, or wider if the parameters
            are.
        axis_name: Name of the axis that splits the batch; see
            `models.layers.batch_norm`.
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
                # Its type is a string, but its documentation has pairs.
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
    """Norm, ReLU and a 3×3 convolution, twice, and a shortcut without ReLU after it.

    Where shapes change, the shortcut is a 1×1 convolution of the output of the first
    norm and ReLU, as in the authors' code (some later codes apply it to the inputs).

    Attributes:
        features: Channels.
        stride: Stride of the first convolution.
        conv: Function that makes a convolution from features, size and stride.
        norm: Function that makes a norm layer.
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
    """The pre-activation residual network of depth 6n + 2 for images of 32×32.

    He et al. 2016 (arXiv:1603.05027): a 3×3 convolution, three stages of n blocks, norm
    and ReLU, mean and head. PreResNet-32 is the network of Li and Arora 2020
    (arXiv:1910.07454). Multiplying all convolutions by one positive number does not
    change the logits, except through epsilon: each stage sums outputs of convolutions
    of normalised inputs, and a norm layer follows.

    Convolutions start from He et al.'s normal distribution by fan-out, kernel and bias
    of the head from the uniform distribution within 1/sqrt(fan-in), the scales of norm
    layers from 1 and their biases from 0.

    The parameters are ``stem``, blocks named ``block1_1``, ``block1_2``, ... by stage,
    ``norm`` and ``head``. A block has ``norm1``, ``conv1``, ``norm2``, ``conv2`` and,
    where shapes change, ``shortcut``. The default groups of `lawn_optax` are the kernel
    of each convolution, the scale and bias of each norm layer, and the kernel and bias
    of the head: 65 groups for PreResNet-32.

    Attributes:
        depth: Number of layers with weights, without shortcuts: 6n + 2, n > 0.
        classes: Number of logits.
        width: Channels of the stem and the first stage.
        normalization: ``batch``, or a norm over each image: ``group`` (8 channels),
            ``layer`` (all channels) or ``instance`` (one channel), each also over
            height and width, as in Wu and He 2018 (arXiv:1803.08494).
        epsilon: What the norm layers add to the variance. Only with 0 are the kernels
            exactly scale-invariant, but then a constant channel gives NaN.
        dtype: Type of the computation, such as bfloat16. Parameters, statistics of
            batch norm and logits are float32 in any case, or wider if the parameters
            are.
        axis_name: Name of the axis that splits the batch; see
            `models.layers.batch_norm`.
    """

    depth: int
    classes: int = 10
    width: int = 16
    normalization: str = "batch"
    epsilon: float = 1e-5
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
        options = {"epsilon": self.epsilon, "dtype": self.dtype}
        if self.normalization == "batch":
            return partial(batch_norm, train=train, axis_name=self.axis_name, **options)
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
        return partial(nn.GroupNorm, **options, **groups[self.normalization])


PreResNet32 = partial(PreResNet, depth=32)
