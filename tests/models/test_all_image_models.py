"""All image models: sizes, costs, precision, initial weights, groups."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lawn_optax as lawn
from models import CNN, VGG19, PreResNet32, ResNet18, ResNet50
from tests.support.asserts import close
from tests.support.numpy_layers import (
    abstract,
    count,
    equations,
    layers,
    multiply_adds,
    pictures,
)
from tests.support.trees import sharing

# Parameters and multiply-adds per image as others publish them (two are computed by
# hand), and the number of groups.
PUBLISHED = {
    # The variant of kuangliu/pytorch-cifar has 20,040,522 with the biases of its
    # convolutions, which are 2·64 + 2·128 + 4·256 + 8·512. Both variants have the same
    # multiply-adds.
    "vgg19": (VGG19(), 32, 20_040_522 - 5_504, 398_136_320, 33),
    # torchvision's metadata: 25557032 and 4.089e9. With the stride of v1 it is 3.8e9.
    "resnet50": (ResNet50(), 224, 25_557_032, 4_089_184_256, 107),
    # torchvision's metadata: 11689512 and 1.814e9.
    "resnet18_imagenet": (
        ResNet18(classes=1000, stem="imagenet"),
        224,
        11_689_512,
        1_814_073_344,
        41,
    ),
    # kuangliu/pytorch-cifar.
    "resnet18": (ResNet18(), 32, 11_173_962, 555_422_720, 41),
    # By hand, see below: ResNet-32's published 0.46M and two shortcuts.
    "preresnet32": (PreResNet32(), 32, 466_714, 69_124_736, 65),
    "cnn": (CNN(), 32, 63_874, 1_493_632, 9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_costs_are_the_published_ones(name):
    model, size, parameters, products, groups = PUBLISHED[name]
    params = abstract(model, (1, size, size, 3))["params"]
    assert count(params) == parameters
    assert multiply_adds(model, (size, size, 3)) == products
    table = lawn.describe(params).splitlines()[1:]
    assert len(table) == groups and not any("free" in line for line in table)
    assert sharing(params) == {
        tuple(sorted(f"{module}/{leaf}" for leaf in leaves)): ()
        for module, leaves in layers(params)
    }
    # Each convolution has its own norm; scale and bias of a norm layer share one.
    kinds = {tuple(sorted(leaves)) for _, leaves in layers(params)}
    assert kinds == {("kernel",), ("bias", "scale"), ("bias", "kernel")}
    assert [k for k, x in layers(params) if set(x) == {"bias", "kernel"}] == ["head"]


def test_the_size_of_preresnet32_by_its_formula():
    def stage(before, width, blocks=5):
        first = 9 * before * width + 9 * width**2 + 2 * before + 2 * width
        others = (blocks - 1) * (2 * 9 * width**2 + 4 * width)
        return first + others + (before * width if before != width else 0)

    stages = stage(16, 16) + stage(16, 32) + stage(32, 64)
    assert 9 * 3 * 16 + stages + 2 * 64 + 64 * 10 + 10 == 466_714


# The presets, shrunk.
SMALL = {
    "vgg": partial(VGG19, convolutions=(2, 1), classes=5, width=16),
    "basic_blocks": partial(ResNet18, stages=(1, 1), classes=5, width=16),
    "bottlenecks": partial(ResNet50, stages=(1, 1), classes=5, width=16),
    "pre_activation": partial(PreResNet32, depth=8, classes=5),
    "layer_norm": partial(PreResNet32, depth=8, classes=5, normalization="layer"),
    "cnn": partial(CNN, (16, 32), classes=5),
}
IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


def forward(model, train=True):
    return lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"])


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_is_for_the_computation_alone(name):
    model = SMALL[name](dtype=jnp.bfloat16)
    variables = abstract(model, IMAGES.shape)
    outputs = jax.eval_shape(forward(model), variables, IMAGES)
    assert {str(x.dtype) for x in jax.tree.leaves((variables, outputs))} == {"float32"}

    jaxpr = jax.make_jaxpr(forward(model))(variables, IMAGES).jaxpr
    convolutions = list(equations(jaxpr, "conv_general_dilated"))
    assert convolutions
    for equation in convolutions:
        used = {str(x.aval.dtype) for x in (*equation.invars, *equation.outvars)}
        assert used == {"bfloat16"}
    # The values kept for the backward pass are narrow, too.
    rectified = [x.outvars[0].aval for x in equations(jaxpr, "max")]
    assert {str(x.dtype) for x in rectified if x.ndim == 4} == {"bfloat16"}
    (head,) = equations(jaxpr, "dot_general")
    assert {str(x.aval.dtype) for x in head.invars} == {"float32"}


def test_bfloat16_logits_are_near_those_of_float32_and_not_rounded():
    images = pictures(8, 8).astype("float32")
    model = SMALL["cnn"]()
    variables = initial("cnn")
    wide, narrow = (
        jax.jit(forward(m))(variables, images)
        for m in (model, SMALL["cnn"](dtype=jnp.bfloat16))
    )
    # A few roundings to eight bits, relative to the size of a logit.
    size = float(jnp.abs(wide[0]).max())
    close(narrow[0], wide[0], rtol=0, atol=0.03 * size)
    assert float(jnp.abs(narrow[0] - wide[0]).max()) > 1e-4 * size
    rounded = narrow[0].astype(jnp.bfloat16).astype(jnp.float32)
    assert float(jnp.abs(rounded - narrow[0]).max()) > 0
    # The statistics of a layer are float32 sums of bfloat16 numbers.
    for name in ("norm1", "norm2"):
        a, b = (x[1]["batch_stats"][name]["var"] for x in (narrow, wide))
        close(a, b, rtol=0.01)
        assert a.dtype == jnp.float32


@pytest.mark.parametrize("name", [k for k in SMALL if k != "layer_norm"])
def test_every_norm_layer_averages_over_the_axis_in_training_alone(name):
    plain = SMALL[name]()
    variables = abstract(plain, IMAGES.shape)
    norms = [k for k, x in layers(variables["params"]) if "scale" in x]

    def sums(model, train):
        jaxpr = jax.make_jaxpr(forward(model, train), axis_env=[("data", 8)])
        return [
            equation.params["axes"]
            for equation in equations(jaxpr(variables, IMAGES).jaxpr, "psum")
        ]

    split = SMALL[name](axis_name="data")
    assert sums(split, train=True) == [("data",)] * len(norms)
    assert not sums(split, train=False) and not sums(plain, train=True)


@cache
def initial(name):
    model = SMALL[name]()
    images = jnp.zeros(IMAGES.shape)
    key = jax.random.key(0, impl="rbg")  # Compiles faster than the default.
    return jax.jit(lambda k: model.init(k, images, train=False))(key)


@pytest.mark.parametrize("name", [k for k in SMALL if k != "layer_norm"])
def test_initial_weights(name):
    variables = initial(name)
    for layer, leaves in layers(variables["batch_stats"]):
        assert (leaves["mean"] == 0).all() and (leaves["var"] == 1).all(), layer
    largest = 0.0
    for layer, leaves in layers(variables["params"]):
        if layer == "head":
            continue
        if "scale" in leaves:  # Also the last one of a block.
            assert (leaves["scale"] == 1).all() and (leaves["bias"] == 0).all(), layer
            continue
        kernel = np.asarray(leaves["kernel"], "float64")
        height, width, inputs, outputs = kernel.shape
        fan = inputs if name == "bottlenecks" else outputs
        unit = kernel / math.sqrt(2 / (height * width * fan))
        # Six standard errors of the mean square and of the mean of normal numbers.
        close((unit**2).mean(), 1, rtol=6 * math.sqrt(2 / unit.size))
        assert abs(unit.mean()) < 6 / math.sqrt(unit.size)
        largest = max(largest, np.abs(unit).max())
    assert largest > 2.5  # Not truncated at 2 standard deviations.
    head = variables["params"]["head"]
    if name == "vgg":
        # 160 numbers.
        close(np.square(head["kernel"]).mean(), 1e-4, rtol=6 * math.sqrt(2 / 160))
        assert (head["bias"] == 0).all()
    else:
        bound = len(head["kernel"]) ** -0.5
        for leaf in (head["kernel"], head["bias"]):
            assert (np.abs(leaf) <= bound).all() and np.abs(leaf).max() > bound / 2
        n = head["kernel"].size
        # A uniform square has mean 1/3 and standard deviation 0.3.
        close(np.square(head["kernel"]).mean(), bound**2 / 3, rtol=5.4 / n**0.5)
