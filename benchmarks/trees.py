"""Parameter trees of the papers' models, by name, built without a model library.

Each entry of :data:`SHAPES` is a nested dict of shapes, laid out as Flax Linen lays
out the model's parameters (module names are the groups of ``groups="layer"``).
:func:`make` fills one with numbers and checks its size against the published count.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shapes = dict[str, Any]


def _norm(features: int) -> Shapes:
    return {"scale": (features,), "bias": (features,)}


def _dense(inputs: int, outputs: int) -> Shapes:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def ncf() -> Shapes:
    """NCF's MLP at MovieLens-1M sizes, embeddings of 128, three dense layers."""
    return {
        "user_embedding": {"embedding": (6040, 128)},
        "item_embedding": {"embedding": (3706, 128)},
        "Dense_0": _dense(256, 128),
        "Dense_1": _dense(128, 64),
        "Dense_2": _dense(64, 1),
    }


def vgg19() -> Shapes:
    """VGG-19 with batch norm and one dense layer, for 32 x 32 images, 10 classes."""
    tree: Shapes = {}
    inputs = 3
    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    for index, outputs in enumerate(widths):
        tree[f"Conv_{index}"] = {"kernel": (3, 3, inputs, outputs), "bias": (outputs,)}
        tree[f"BatchNorm_{index}"] = _norm(outputs)
        inputs = outputs
    return tree | {"Dense_0": _dense(inputs, 10)}


def resnet50() -> Shapes:
    """ResNet-50 for 1000 classes: 53 convolutions, 53 batch norms, one dense layer."""
    tree: Shapes = {"conv_init": {"kernel": (7, 7, 3, 64)}, "bn_init": _norm(64)}
    inputs, index = 64, 0
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            kernels = [(1, inputs, width), (3, width, width), (1, width, 4 * width)]
            module: Shapes = {}
            for i, (size, fan_in, fan_out) in enumerate(kernels):
                module[f"Conv_{i}"] = {"kernel": (size, size, fan_in, fan_out)}
                module[f"BatchNorm_{i}"] = _norm(fan_out)
            if block == 0:
                module["conv_proj"] = {"kernel": (1, 1, inputs, 4 * width)}
                module["norm_proj"] = _norm(4 * width)
            tree[f"BottleneckResNetBlock_{index}"] = module
            inputs, index = 4 * width, index + 1
    return tree | {"Dense_0": _dense(inputs, 1000)}


def large() -> Shapes:
    """Four leaves of 25M elements: nothing but memory traffic is left to see."""
    return {f"Dense_{index}": {"kernel": (5000, 5000)} for index in range(4)}


SHAPES: dict[str, Callable[[], Shapes]] = {
    "ncf": ncf,
    "vgg19": vgg19,
    "resnet50": resnet50,
    "large": large,
}

# (leaves, parameters). ResNet-50 and VGG-19-BN as torchvision counts them, the latter
# with its classifier of 123,642,856 exchanged for one layer of 512 x 10 + 10.
COUNTS = {
    "ncf": (8, (6040 + 3706) * 128 + (256 + 1) * 128 + (128 + 1) * 64 + (64 + 1)),
    "vgg19": (66, 143_678_248 - 123_642_856 + 5_130),
    "resnet50": (161, 25_557_032),
    "large": (4, 100_000_000),
}


def make(name: str, seed: int, start: bool) -> dict[str, Any]:
    """Fills the named tree with float32 numbers.

    Args:
      name: A key of :data:`SHAPES`.
      seed: Seed of the generator.
      start: Whether to start as a model does (norm layers at scale one and bias zero);
        otherwise every leaf is random, as a gradient is.

    Returns:
      The tree as a nested dict of arrays.

    Raises:
      ValueError: If leaves or parameters differ from :data:`COUNTS`.
    """
    rng = np.random.default_rng(seed)

    def fill(path: tuple[Any, ...], shape: tuple[int, ...]) -> jax.Array:
        kind = path[-1].key
        if start and kind in ("scale", "bias"):
            return jnp.full(shape, float(kind == "scale"), jnp.float32)
        return jnp.asarray(0.05 * rng.standard_normal(shape, np.float32))

    tree = jax.tree.map_with_path(
        fill, SHAPES[name](), is_leaf=lambda node: isinstance(node, tuple)
    )
    leaves = jax.tree.leaves(tree)
    count = len(leaves), sum(leaf.size for leaf in leaves)
    if count != COUNTS[name]:
        raise ValueError(
            f"The tree {name!r} must have {COUNTS[name]} (leaves, parameters), "
            f"got {count}: correct its shapes."
        )
    return tree
