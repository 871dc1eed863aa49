"""Layers of image models in NumPy, and what tests of several models measure of them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.asserts import close

EPSILON, MOMENTUM = 1e-5, 0.9


class Reference:
    """Layers in float64 with plain loops; keeps the new running statistics."""

    def __init__(self, variables, train):
        self.params = variables["params"]
        self.stats = variables.get("batch_stats", {})
        self.train, self.updated = train, {}

    def at(self, name, tree=None):
        tree = self.params if tree is None else tree
        for key in name.split("/"):
            tree = tree[key]
        return tree

    def conv(self, name, x, stride=1):
        kernel = self.at(name)["kernel"]
        size, pad = kernel.shape[0], kernel.shape[0] // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        rows = (x.shape[1] - size) // stride + 1
        columns = (x.shape[2] - size) // stride + 1
        out = np.zeros((len(x), rows, columns, kernel.shape[-1]))
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride, j * stride
                window = x[:, top : top + size, left : left + size]
                out[:, i, j] = np.tensordot(window, kernel, 3)
        return out

    def norm(self, name, x):
        layer = self.at(name)
        stats = self.at(name, self.stats)
        used = stats
        if self.train:
            used = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
        weight = 1 - MOMENTUM if self.train else 0
        self.updated[name] = {
            key: (1 - weight) * stats[key] + weight * used[key] for key in used
        }
        normal = (x - used["mean"]) / np.sqrt(used["var"] + EPSILON)
        return normal * layer["scale"] + layer["bias"]

    def pool(self, x, size=2, pad=0):
        """The maximum over windows of a stride of 2."""
        edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        x = np.pad(x, edges, constant_values=-np.inf)
        rows, columns = (x.shape[1] - size) // 2 + 1, (x.shape[2] - size) // 2 + 1
        out = np.empty((len(x), rows, columns, x.shape[-1]))
        for i in range(rows):
            for j in range(columns):
                window = x[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
                out[:, i, j] = window.max((1, 2))
        return out

    def head(self, x):
        layer = self.params["head"]
        return x.mean((1, 2)) @ layer["kernel"] + layer["bias"]


def relu(x):
    return np.maximum(x, 0)


def pictures(height, width, count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, height, width, 3))


def scrambled(model, images, seed=0):
    """Variables in float64 that are not at their initial values, none at a special one.

    A norm layer at its initial values would hide a scale or a statistic that is not
    used, and its order with a pool or a ReLU.
    """
    rng = np.random.default_rng(seed)
    shapes = abstract(model, images.shape)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        if name == "var":
            return rng.uniform(0.5, 2, size=leaf.shape)
        return rng.normal(size=leaf.shape)

    return jax.tree.map_with_path(draw, shapes)


def apply(model, variables, images, train):
    """Logits, and the new statistics by the names of their layers."""
    logits, changed = compiled(model, train)(variables, images)
    return logits, dict(layers(changed.get("batch_stats", {})))


@cache
def compiled(model, train):
    return jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))


def assert_same(actual, expected):
    """Logits and statistics of two networks in float64."""
    (logits, stats), (expected_logits, expected_stats) = actual, expected
    assert set(stats) == set(expected_stats)
    # A dozen norm layers; each may magnify rounding (1e-16) by some tens.
    close(logits, expected_logits, rtol=1e-9, atol=1e-10)
    for name, new in expected_stats.items():
        close(stats[name]["mean"], new["mean"], rtol=1e-9, atol=1e-10)
        close(stats[name]["var"], new["var"], rtol=1e-9)


def layers(tree, prefix=""):
    """("block1_1/conv1", leaves) for each layer of a tree."""
    for name, part in tree.items():
        if all(isinstance(x, dict) for x in part.values()):
            yield from layers(part, f"{prefix}{name}/")
        else:
            yield prefix + name, part


def abstract(model, shape=(1, 32, 32, 3)):
    """Shapes of the variables; computes nothing."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, images)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def equations(jaxpr, name):
    """All equations of a primitive, those of inner programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner), name)


def is_jaxpr(x):
    return hasattr(x, "eqns")


def multiply_adds(model, shape):
    """Multiply-adds of convolutions and dense layers for one image, with padding."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(
        abstract(model, (1, *shape)), images
    ).jaxpr
    total = 0
    for equation in equations(jaxpr, "conv_general_dilated"):
        kernel, (out,) = equation.invars[1].aval, equation.outvars
        spec = equation.params["dimension_numbers"].rhs_spec
        total += out.aval.size * kernel.size // kernel.shape[spec[0]]
    for equation in equations(jaxpr, "dot_general"):
        total += equation.invars[1].aval.size
    return total
