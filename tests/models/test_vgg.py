"""VGG for 32×32, against the same network in NumPy."""

import jax
import numpy as np
import pytest

from models import VGG, VGG19
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


def reference(variables, images, train):
    at = Reference(variables, train)
    x = relu(at.norm("norm1_1", at.conv("conv1_1", images)))
    x = at.pool(relu(at.norm("norm1_2", at.conv("conv1_2", x))))
    x = at.pool(relu(at.norm("norm2_1", at.conv("conv2_1", x))))
    return at.head(x), at.updated


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_logits_and_statistics_are_those_of_the_network(train, x64):
    # With odd sizes, a pool drops the last row, and padding on one side would show.
    model, images = VGG((2, 1), classes=5, width=3), pictures(11, 9)
    variables = scrambled(model, images)
    expected = reference(variables, images, train)
    assert_same(apply(model, variables, images, train), expected)


def test_stages_names_and_widths_of_vgg19():
    kernels = {
        name: leaves["kernel"].shape
        for name, leaves in layers(abstract(VGG19(classes=100))["params"])
        if "kernel" in leaves
    }
    channels = [3, *2 * [64], *2 * [128], *4 * [256], *8 * [512]]
    stages = [(1, 2), (2, 2), (3, 4), (4, 4), (5, 4)]
    names = [f"conv{stage}_{i}" for stage, n in stages for i in range(1, n + 1)]
    expected = {name: (3, 3, *channels[k : k + 2]) for k, name in enumerate(names)} | {
        "head": (512, 100)
    }
    assert kernels == expected


def test_each_stage_halves_the_image():
    # 64×96 pixels become 2×3, whose mean is taken.
    shape = (2, 64, 96, 3)
    model = VGG19(width=2)
    images = jax.ShapeDtypeStruct(shape, np.float32)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(
        abstract(model, shape), images
    )
    pools = [e for e in jaxpr.eqns if e.primitive.name == "reduce_window_max"]
    sizes = [e.outvars[0].aval.shape[1:3] for e in pools]
    assert sizes == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


def test_an_image_that_the_stages_would_halve_away_is_refused():
    with pytest.raises(ValueError, match="at least 32×32 pixels.*got 31×40"):
        abstract(VGG19(), (1, 31, 40, 3))
