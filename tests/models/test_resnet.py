"""Residual networks, against the same networks in NumPy."""

import numpy as np
import pytest

from models import PreResNet, PreResNet32, ResNet, ResNet18, ResNet50
from models.resnet import BasicBlock, Bottleneck
from tests.support.asserts import close
from tests.support.numpy_layers import (
    Reference,
    abstract,
    apply,
    assert_same,
    layers,
    pictures,
    relu,
    scrambled,
)


def cifar_stem(at, x):
    return relu(at.norm("stem_norm", at.conv("stem", x)))


def imagenet_stem(at, x):
    x = relu(at.norm("stem_norm", at.conv("stem", x, stride=2)))
    return at.pool(x, size=3, pad=1)


def shortcut(at, x, block, stride):
    conv = at.conv(f"{block}/shortcut", x, stride)
    return at.norm(f"{block}/shortcut_norm", conv)


def basic(at, x, block, stride=1, changes=False):
    y = relu(at.norm(f"{block}/norm1", at.conv(f"{block}/conv1", x, stride)))
    y = at.norm(f"{block}/norm2", at.conv(f"{block}/conv2", y))
    return relu(y + (shortcut(at, x, block, stride) if changes else x))


def bottleneck(at, x, block, stride=1, changes=False):
    y = relu(at.norm(f"{block}/norm1", at.conv(f"{block}/conv1", x)))
    y = relu(at.norm(f"{block}/norm2", at.conv(f"{block}/conv2", y, stride)))
    y = at.norm(f"{block}/norm3", at.conv(f"{block}/conv3", y))
    return relu(y + (shortcut(at, x, block, stride) if changes else x))


def pre_activation(at, x, block, stride=1, changes=False):
    active = relu(at.norm(f"{block}/norm1", x))
    y = relu(at.norm(f"{block}/norm2", at.conv(f"{block}/conv1", active, stride)))
    if changes:
        x = at.conv(f"{block}/shortcut", active, stride)
    return at.conv(f"{block}/conv2", y) + x


def with_basic_blocks(at, images):
    x = basic(at, cifar_stem(at, images), "block1_1")
    return at.head(basic(at, x, "block2_1", stride=2, changes=True))


def with_bottlenecks(at, images):
    x = bottleneck(at, imagenet_stem(at, images), "block1_1", changes=True)
    x = bottleneck(at, x, "block1_2")
    return at.head(bottleneck(at, x, "block2_1", stride=2, changes=True))


def with_pre_activation(at, images):
    x = pre_activation(at, at.conv("stem", images), "block1_1")
    x = pre_activation(at, x, "block2_1", stride=2, changes=True)
    x = pre_activation(at, x, "block3_1", stride=2, changes=True)
    return at.head(relu(at.norm("norm", x)))


SMALL = {
    "basic_blocks": (ResNet((1, 1), BasicBlock, classes=5, width=3), with_basic_blocks),
    "bottlenecks": (
        ResNet((2, 1), Bottleneck, classes=5, width=2, stem="imagenet"),
        with_bottlenecks,
    ),
    "pre_activation": (PreResNet(8, classes=5, width=3), with_pre_activation),
}


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("kind", SMALL)
def test_logits_and_statistics_are_those_of_the_network(kind, train, x64):
    model, network = SMALL[kind]
    # One side is odd, one even: both would show a stride that starts at another pixel.
    images = pictures(19, 14)
    variables = scrambled(model, images)
    at = Reference(variables, train)
    expected = network(at, images)
    assert_same(apply(model, variables, images, train), (expected, at.updated))


def shapes_of(model):
    """The shape of each kernel, in order of depth."""
    kernels = {
        name: leaves["kernel"].shape
        for name, leaves in layers(abstract(model)["params"])
        if "kernel" in leaves
    }
    return kernels


def test_blocks_names_and_widths_of_resnet18():
    expected = {"stem": (3, 3, 3, 64), "head": (512, 10)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for i in (1, 2):
            block = f"block{stage}_{i}"
            expected[f"{block}/conv1"] = (3, 3, before, width)
            expected[f"{block}/conv2"] = (3, 3, width, width)
            if before != width:
                expected[f"{block}/shortcut"] = (1, 1, before, width)
            before = width
    assert shapes_of(ResNet18()) == expected


def test_blocks_names_and_widths_of_resnet50():
    expected = {"stem": (7, 7, 3, 64), "head": (2048, 1000)}
    before = 64
    for stage, (width, count) in enumerate(
        [(64, 3), (128, 4), (256, 6), (512, 3)], start=1
    ):
        for i in range(1, count + 1):
            block = f"block{stage}_{i}"
            expected[f"{block}/conv1"] = (1, 1, before, width)
            expected[f"{block}/conv2"] = (3, 3, width, width)
            expected[f"{block}/conv3"] = (1, 1, width, 4 * width)
            if i == 1:
                expected[f"{block}/shortcut"] = (1, 1, before, 4 * width)
            before = 4 * width
    assert shapes_of(ResNet50()) == expected


def test_blocks_names_and_widths_of_preresnet32():
    expected = {"stem": (3, 3, 3, 16), "head": (64, 10)}
    before = 16
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range(1, 6):
            block = f"block{stage}_{i}"
            expected[f"{block}/conv1"] = (3, 3, before, width)
            expected[f"{block}/conv2"] = (3, 3, width, width)
            if before != width:
                expected[f"{block}/shortcut"] = (1, 1, before, width)
            before = width
    assert shapes_of(PreResNet32()) == expected


def per_image(x, groups):
    """Normalises each image over height, width and each group of channels."""
    shape = x.shape
    x = x.reshape(*shape[:3], groups, -1)
    mean, var = x.mean((1, 2, 4), keepdims=True), x.var((1, 2, 4), keepdims=True)
    return ((x - mean) / np.sqrt(var + 1e-5)).reshape(shape)


@pytest.mark.parametrize("normalization", ["group", "layer", "instance"])
def test_the_other_norms_are_over_each_image_alone(normalization, x64):
    model = PreResNet(8, classes=5, width=16, normalization=normalization)
    images = pictures(8, 8, count=2)
    variables = scrambled(model, images)
    assert set(variables) == {"params"}

    class PerImage(Reference):
        def norm(self, name, x):
            channels = x.shape[-1]
            groups = {"group": channels // 8, "layer": 1, "instance": channels}
            layer = self.at(name)
            return per_image(x, groups[normalization]) * layer["scale"] + layer["bias"]

    expected = with_pre_activation(PerImage(variables, train=True), images)
    logits, _ = apply(model, variables, images, train=True)
    close(logits, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_scaling_all_convolutions_of_preresnet_changes_nothing(normalization, x64):
    model = PreResNet(8, classes=5, width=8, normalization=normalization)
    images = 100 * pictures(8, 8)
    variables = scrambled(model, images)

    def logits(factor, only=""):
        params = {
            layer: scaled(part, factor, only, layer)
            for layer, part in variables["params"].items()
        }
        return apply(model, variables | {"params": params}, images, train=True)[0]

    # With these kernels, epsilon is at most 1e-15 of a variance.
    expected = logits(1e5)
    close(logits(2e5), expected, rtol=1e-9, atol=1e-9)
    # This does not hold for one block alone, which adds to the output of the stem.
    assert np.abs(logits(1e5, only="block1_1") - expected).max() > 0.01


def scaled(part, factor, only, layer):
    """The kernels of convolutions times a factor."""
    if layer == "head":
        return part
    if "kernel" in part:
        return {"kernel": part["kernel"] * (factor if only in layer else 1)}
    if "scale" in part:
        return part
    return {
        name: scaled(inner, factor, only, f"{layer}/{name}")
        for name, inner in part.items()
    }


@pytest.mark.parametrize("depth", [2, 18, 31, 33])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"must be 6n \\+ 2 .*got {depth}"):
        abstract(PreResNet(depth))


def test_unknown_stems_and_norms_are_refused():
    with pytest.raises(ValueError, match="one of cifar, imagenet; got 'tiny'"):
        abstract(ResNet18(stem="tiny"))
    with pytest.raises(
        ValueError, match="one of batch, group, layer, instance; got 'none'"
    ):
        abstract(PreResNet32(normalization="none"))
