"""JAX arm of `benchmarks.throughput.operations`.

The benchmark starts this program with its settings as JSON. For each line on standard
input, a number of calls, the program makes that many calls of each operation, and
answers with the seconds of a call by operation, as a line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import models
from benchmarks import environment
from models.layers import batch_norm
from train.devices import CPU_OPTIONS
from train.images import augmentation

CLASSES = 10


def take(images: jax.Array, rows: jax.Array, key: jax.Array, mean: jax.Array) -> Any:
    """A batch of the images, changed at random and normalised."""
    positions = jnp.arange(len(rows))
    changed = augmentation.augment(images[rows], key, 0, positions)
    return augmentation.normalise(changed, mean)


def convolution(stride: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A convolution of images and a 3x3 kernel, as the models have it."""

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return convolve


def norm(images: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Batch norm by the statistics of the batch, then ReLU."""
    module = batch_norm(name="norm", train=True)
    running = {"mean": bias, "var": scale}
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": running}
    found, _ = module.apply(variables, images, mutable=["batch_stats"])
    return jax.nn.relu(found)


def loss(
    features: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array
) -> jax.Array:
    """Mean cross entropy of the head's logits."""
    logits = features.mean((1, 2)) @ kernel + bias
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def gradient(function: Callable[..., jax.Array], *inputs: Any) -> Any:
    """The gradients of the inputs but the last, which is that of the output."""
    *given, output = inputs
    return jax.vjp(function, *given)[1](output)


def operations(batch_size: int, network: list[Any]) -> dict[str, tuple[Any, ...]]:
    """Each operation and its arguments, by name."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    side, channels = network[0][:2]
    images = rng.integers(256, size=(20 * batch_size, side, side, channels))
    rows = jnp.asarray(rng.permutation(len(images))[:batch_size])
    pixels = jnp.asarray(images.astype(np.uint8))
    key, mean = jax.random.key(0), jnp.full(channels, 0.5)
    found: dict[str, tuple[Any, ...]] = {"inputs": (take, pixels, rows, key, mean)}
    for number, (side, channels, outputs, stride) in enumerate(network, 1):
        convolve = convolution(stride)
        x, kernel = (
            random(batch_size, side, side, channels),
            random(3, 3, channels, outputs),
        )
        y = random(batch_size, side // stride, side // stride, outputs)
        name = f"conv{number}"
        found[f"{name}, forward"] = convolve, x, kernel
        found[f"{name}, gradient of the kernel"] = (
            lambda x, kernel, y, f=convolve: gradient(lambda k: f(x, k), kernel, y),
            *(x, kernel, y),
        )
        if number > 1:  # Nothing needs the gradient of the images.
            found[f"{name}, gradient of the input"] = (
                lambda x, kernel, y, f=convolve: gradient(lambda x: f(x, kernel), x, y),
                *(x, kernel, y),
            )
        found[f"norm{number}, forward and backward"] = (
            lambda *inputs: (norm(*inputs[:-1]), gradient(norm, *inputs)),
            *(y, jnp.ones(outputs), jnp.zeros(outputs), random(*y.shape)),
        )
    head = random(y.shape[-1], CLASSES), random(CLASSES)
    labels = jnp.asarray(rng.integers(CLASSES, size=batch_size))
    found["head and loss, forward and backward"] = (
        jax.value_and_grad(loss, (0, 1, 2)),
        *(y, *head, labels),
    )
    images = jnp.zeros((1, *network[0][:1] * 2, network[0][1]))
    params = models.CNN().init(key, images, train=False)["params"]
    tx = optax.adam(1e-3)

    def adam(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    found["Adam"] = adam, params, tx.init(params), params
    return found


def main() -> None:
    settings = json.loads(sys.argv[1])
    jax.config.update("jax_enable_compilation_cache", False)
    cpu = jax.default_backend() == "cpu"
    options = CPU_OPTIONS if cpu else None
    programs = {
        name: (jax.jit(function, compiler_options=options), arguments)
        for name, (function, *arguments) in operations(
            settings["batch_size"], settings["layers"]
        ).items()
    }

    def measure(calls: int) -> dict[str, float]:
        seconds = {}
        for name, (program, arguments) in programs.items():
            began = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(program(*arguments))
            seconds[name] = (time.perf_counter() - began) / calls
        return seconds

    measure(1)  # compiles
    print(json.dumps(environment.describe()), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), flush=True)


if __name__ == "__main__":
    main()
