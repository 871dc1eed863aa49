"""The small CNN, against the same network in NumPy; its cost and its groups."""

import pytest

import lawn_optax as lawn
from models import CNN
from tests.support.numpy_layers import (
    Reference,
    abstract,
    apply,
    assert_same,
    multiply_adds,
    pictures,
    relu,
    scrambled,
)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_logits_and_statistics_are_those_of_the_network(train, x64):
    model, images = CNN((4, 5, 6), classes=7), pictures(11, 8)
    variables = scrambled(model, images)
    at = Reference(variables, train)
    x = relu(at.norm("norm1", at.conv("conv1", images, stride=2)))
    x = relu(at.norm("norm2", at.conv("conv2", x, stride=2)))
    x = relu(at.norm("norm3", at.conv("conv3", x)))
    assert_same(apply(model, variables, images, train), (at.head(x), at.updated))


def test_an_image_costs_at_most_three_million_operations():
    by_layer = [
        16 * 16 * 9 * 3 * 24,
        8 * 8 * 9 * 24 * 32,
        4 * 4 * 9 * 32 * 64,
        4 * 4 * 9 * 64 * 64,
        64 * 10,
    ]
    assert multiply_adds(CNN(), (32, 32, 3)) == sum(by_layer) == 1_493_632
    assert 2 * sum(by_layer) <= 3e6
    # CIFAR-100 fits, too.
    assert 2 * multiply_adds(CNN(classes=100), (32, 32, 3)) <= 3e6


def test_groups_of_the_default_grouping():
    params = abstract(CNN())["params"]
    assert lawn.describe(params).splitlines() == [
        "group  norms  elements  leaves",
        "conv1      1       648  conv1/kernel (3, 3, 3, 24)",
        "conv2      1      6912  conv2/kernel (3, 3, 24, 32)",
        "conv3      1     18432  conv3/kernel (3, 3, 32, 64)",
        "conv4      1     36864  conv4/kernel (3, 3, 64, 64)",
        "head       1       650  head/bias (10), head/kernel (64, 10)",
        "norm1      1        48  norm1/bias (24), norm1/scale (24)",
        "norm2      1        64  norm2/bias (32), norm2/scale (32)",
        "norm3      1       128  norm3/bias (64), norm3/scale (64)",
        "norm4      1       128  norm4/bias (64), norm4/scale (64)",
    ]
