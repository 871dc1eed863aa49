"""Batch norm of a batch that is split over devices is that of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from models import CNN
from tests.support.asserts import close
from tests.support.numpy_layers import pictures, scrambled

DEVICES, COUNT = 8, 16
# The images of each device have another brightness and contrast, so the statistics of
# its part differ from those of the batch.
LIGHT = np.repeat(np.linspace(-2, 2, DEVICES), COUNT // DEVICES)[:, None, None, None]
X = pictures(6, 6, COUNT) * np.exp(LIGHT / 2) + LIGHT
Y = np.arange(COUNT) % 5


def make(axis_name=None):
    return CNN((3, 4), classes=5, axis_name=axis_name)


def step(model, variables, images, labels):
    """Logits, new statistics and gradients of this part of the mean loss."""

    def loss(params):
        logits, changed = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.sum() / COUNT, (logits, changed["batch_stats"])

    grads, (logits, stats) = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, stats, grads


def mesh():
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))


def summed(model, variables, images, labels):
    logits, stats, grads = step(model, variables, images, labels)
    return logits, stats, jax.lax.psum(grads, "data")


def sharded_jit(variables):
    placed = [jax.device_put(a, NamedSharding(mesh(), P("data"))) for a in (X, Y)]
    return jax.jit(lambda v, x, y: step(make(), v, x, y))(variables, *placed)


def shard_map(
    variables, axis_name: str | None = "data", program=summed, check_vma=False
):
    split = jax.shard_map(
        lambda v, x, y: program(make(axis_name), v, x, y),
        mesh=mesh(),
        in_specs=(P(), P("data"), P("data")),
        out_specs=(P("data"), P(), P()),
        check_vma=check_vma,
    )
    return jax.jit(split)(variables, X, Y)


def checked_shard_map(variables):
    # Where JAX knows what is replicated, it sums the gradients itself.
    return shard_map(variables, program=step, check_vma=True)


def pmap(variables):
    parts = [a.reshape(DEVICES, -1, *a.shape[1:]) for a in (X, Y)]
    program = jax.pmap(
        lambda v, x, y: summed(make("data"), v, x, y), "data", in_axes=(None, 0, 0)
    )
    logits, stats, grads = program(variables, *parts)
    for leaf in jax.tree.leaves((stats, grads)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    first = jax.tree.map(lambda x: x[0], (stats, grads))
    return logits.reshape(COUNT, -1), *first


@pytest.fixture(scope="module")
def whole():
    """Variables, and the step of a single device."""
    with jax.enable_x64(True):
        variables = scrambled(make(), X)
        alone = jax.jit(lambda v: step(make(), v, jnp.asarray(X), jnp.asarray(Y)))
        return variables, jax.tree.map(np.asarray, alone(variables))


@pytest.mark.parametrize("split", [sharded_jit, shard_map, checked_shard_map, pmap])
def test_a_split_batch_gives_what_one_device_gives(split, whole, x64):
    variables, expected = whole
    # float64; only the order of sums differs.
    jax.tree.map(lambda a, b: close(a, b, 1e-10, 1e-12), split(variables), expected)
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(expected[2]))


def test_without_the_axis_each_device_has_statistics_of_its_own(whole, x64):
    variables, (logits, *_) = whole
    apart, *_ = shard_map(variables, axis_name=None)
    assert np.abs(apart - logits).max() > 0.1
