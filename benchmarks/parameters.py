"""Parameter trees with the shapes of the models, filled with numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models


def variables(model: Any, *inputs: Any, **options: Any) -> Callable[[], Any]:
    """A function that returns the shapes of a model's parameters for some inputs."""

    def shapes() -> Any:
        init = lambda key: model.init(key, *inputs, **options)["params"]  # noqa: E731
        return jax.eval_shape(init, jax.random.key(0))

    return shapes


def images(size: int) -> np.ndarray:
    """One image, to initialise a model with."""
    return np.zeros((1, size, size, 3), np.float32)


GPT2: dict[str, Any] = {
    "vocabulary": 50_257,
    "width": 768,
    "depth": 12,
    "heads": 12,
    "block": 1024,
    "norm": "layer",
    "positions": "learned",
    "qk_norm": False,
    "activation": "gelu",
    "tied": True,
    "initialization": "small",
}


def _layers(*shapes: tuple[int, ...]) -> Callable[[], Any]:
    """The shapes of layers with one kernel each."""
    return lambda: {
        f"dense_{i}": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
        for i, shape in enumerate(shapes)
    }


_ONE = np.zeros(1, np.int32)
# Shapes of the parameters of each tree.
TREES: dict[str, Callable[[], Any]] = {
    # NCF's network at the sizes of MovieLens-1M.
    "ncf": variables(models.NCF(6040, 3706), _ONE, _ONE),
    "vgg19": variables(models.VGG19(), images(32), train=False),
    "resnet50": variables(models.ResNet50(classes=1000), images(224), train=False),
    # GPT-2 of 124M, without biases.
    "gpt2": variables(models.Transformer(**GPT2), np.zeros((1, 1024), np.int32)),
    # Four leaves of 25M elements each, so large that only memory traffic takes time.
    "large": _layers(*[(5000, 5000)] * 4),
}
# Trees that show how a cost grows: a million parameters in more and more leaves, four
# leaves of more and more parameters, and one matrix with more and more columns, which
# are as many norms with groups="neuron".
GROWTH: dict[str, Callable[[], Any]] = (
    {f"leaves-{10**n}": _layers(*[(10, 10 ** (5 - n))] * 10**n) for n in range(5)}
    | {f"size-1e{n}": _layers(*[(10, 10**n // 40)] * 4) for n in range(3, 10)}
    | {f"columns-{10**n}": _layers((10 ** (6 - n), 10**n)) for n in range(6)}
)


def shapes(tree: str) -> Any:
    """The shapes of the parameters of a tree."""
    return (TREES | GROWTH)[tree]()


def count(tree: str) -> tuple[int, int]:
    """The numbers of leaves and of parameters of a tree."""
    leaves = jax.tree.leaves(shapes(tree))
    return len(leaves), sum(leaf.size for leaf in leaves)


def make_tree(tree: str, seed: int, start: bool) -> Any:
    """Fills a tree with float32 numbers.

    Args:
        tree: Name in `TREES` or `GROWTH`.
        seed: Seed of the generator.
        start: Whether to start as a model does, with norm layers of scale one and all
            biases zero; otherwise every leaf is random, as a gradient is.
    """
    rng = np.random.default_rng(seed)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kind = path[-1].key
        if start and kind in ("scale", "bias"):
            return jnp.full(leaf.shape, float(kind == "scale"), jnp.float32)
        return jnp.asarray(0.05 * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree.map_with_path(fill, shapes(tree))
