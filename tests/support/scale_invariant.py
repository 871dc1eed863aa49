"""Scale-invariant losses and SGD on them, written from Li and Arora's Definition 1.2.

A small pre-activation residual network with four kinds of normalization, and a toy in
NumPy. Neither knows the library.
"""

import jax
import jax.numpy as jnp
import numpy as np

NORMS = ("batch", "layer", "group", "instance")
BATCH, SIZE, CHANNELS, CLASSES = 6, 5, 4, 3


def weights(seed=0):
    """Three kernels; no one's scale alone, only that of all together, is free."""
    rng = np.random.default_rng(seed)
    shapes = {
        "stem": (3, 3, 1, CHANNELS),
        "first": (3, 3, CHANNELS, CHANNELS),
        "second": (3, 3, CHANNELS, CHANNELS),
    }
    return {name: jnp.asarray(rng.normal(size=s) / 3) for name, s in shapes.items()}


def data(steps, seed=1):
    """A batch of images and labels per step."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=(steps, BATCH))
    shift = labels[..., None, None, None] * np.linspace(-1, 1, SIZE)[:, None]
    images = rng.normal(size=(steps, BATCH, SIZE, SIZE, 1)) + shift
    return jnp.asarray(images), jnp.asarray(labels)


def normalize(kind, x):
    """Zero mean, unit variance, no epsilon; then a scale and bias that never change."""
    if kind == "group":
        grouped = x.reshape(*x.shape[:-1], 2, CHANNELS // 2)
        axes = (1, 2, 4)
    else:
        grouped = x
        axes = {"batch": (0, 1, 2), "layer": (1, 2, 3), "instance": (1, 2)}[kind]
    mean = grouped.mean(axes, keepdims=True)
    spread = jnp.sqrt(((grouped - mean) ** 2).mean(axes, keepdims=True))
    unit = ((grouped - mean) / spread).reshape(x.shape)
    scale, bias = jnp.linspace(0.5, 1.5, CHANNELS), jnp.linspace(-0.2, 0.4, CHANNELS)
    return scale.reshape(1, 1, 1, -1) * unit + bias.reshape(1, 1, 1, -1)


def logits(kind, params, images):
    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def active(x):
        return jax.nn.relu(normalize(kind, x))

    x = conv(images, params["stem"])
    inside = conv(active(x), params["first"])
    x = x + conv(active(inside), params["second"])
    head = np.random.default_rng(2).normal(size=(CHANNELS, CLASSES))  # never trained
    # The middle column alone, as instance normalization fixes the mean of a channel.
    return active(x)[:, :, SIZE // 2].mean(1) @ head


def loss(kind, params, images, labels):
    log_p = jax.nn.log_softmax(logits(kind, params, images))
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()


def decayed_sgd(kind, params, batches, rates, decays, momentum):
    """Definition 1.2: the loss before each update, and the weights after all."""

    def step(carry, inputs):
        theta, v = carry
        rate, decay, batch = inputs
        value, gradient = jax.value_and_grad(loss, 1)(kind, theta, *batch)
        v = jax.tree.map(
            lambda v, g, w: momentum * v + g + decay * w, v, gradient, theta
        )
        theta = jax.tree.map(lambda w, v: w - rate * v, theta, v)
        return (theta, v), value

    start = params, jax.tree.map(jnp.zeros_like, params)
    (theta, _), losses = jax.lax.scan(step, start, (rates, decays, batches))
    return losses, theta


class Toy:
    """A random Rayleigh quotient per step: scale-invariant, with noise, in NumPy."""

    def __init__(self, steps, size=5, seed=0):
        rng = np.random.default_rng(seed)
        matrices = rng.normal(size=(steps, size, size))
        self.matrices = matrices + matrices.transpose(0, 2, 1)
        self.start = rng.normal(size=size)

    def gradient(self, t, w):
        """Gradient of w'Aw / w'w in step t."""
        product, square = self.matrices[t] @ w, w @ w
        return 2 / square * (product - (w @ product) / square * w)

    def sgd(self, rates, decays, momentum, start=None, velocity=None):
        """Weights before each update and after the last one, eqs. 1 and 2."""
        w = self.start if start is None else start
        v = np.zeros_like(w) if velocity is None else velocity
        path = [w]
        for t, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
            v = momentum * v + self.gradient(t, w) + decay * w
            w = w - rate * v
            path.append(w)
        return np.array(path)


def directions(path):
    """All that a scale-invariant loss sees of weights."""
    return path / np.linalg.norm(path, axis=-1, keepdims=True)


def farthest(path, other):
    """The largest difference of directions on the way."""
    return np.abs(directions(path) - directions(other)).max()
