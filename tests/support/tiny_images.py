"""Tiny image classifiers: made-up images, tasks, and an epoch in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.images import programs as classifier
from train.images.inputs import DeviceImages
from train.images.programs import Task
from train.shuffle import make_shuffle, shuffled

SIDE, CLASSES, IMAGES, TESTS = 4, 3, 50, 23
TRIAL = {"seed": np.uint32(7)}


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(CLASSES, name="head")(images.reshape(len(images), -1))


class Normalised(nn.Module):
    """With batch norm, over the axis of the devices."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.Conv(4, (3, 3), use_bias=False, name="conv")(images)
        norm = nn.BatchNorm(not train, axis_name=self.axis_name, name="norm")
        hidden = nn.relu(norm(hidden)).mean(axis=(1, 2))
        return nn.Dense(CLASSES, name="head")(hidden)


def data(seed=0, side=SIDE):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(IMAGES + TESTS, side, side, 3), dtype=np.uint8)
    labels = rng.integers(CLASSES, size=IMAGES + TESTS)
    # So that there is something to learn.
    images[..., 0] = images[..., 0] // 4 + 60 * labels[:, None, None]
    parts = images[:IMAGES], labels[:IMAGES], images[IMAGES:], labels[IMAGES:]
    kinds = "uint8", "int32", "uint8", "int32"
    arrays = (jnp.asarray(x, kind) for x, kind in zip(parts, kinds, strict=True))
    return DeviceImages(*arrays, jnp.asarray([0.5, 0.4, 0.3], jnp.float32))


def make_task(optimizer, loss, model=None, batch_size=16, parts=1, **options):
    options = {"degrees": None} | options
    return Task(
        model=model or Linear(),
        side=SIDE,
        num_images=IMAGES,
        batch_size=batch_size,
        parts=parts,
        optimizer=lambda trial: optimizer,
        loss=loss,
        **options,
    )


def batches(task, epoch, trial=TRIAL):
    """The images of each step, without those that fill none."""
    key = jax.random.fold_in(jax.random.key(trial["seed"]), 1)
    shuffle = make_shuffle(jax.random.fold_in(key, epoch), IMAGES)
    order = shuffled(shuffle, jnp.arange(task.epoch_size), IMAGES)
    return np.asarray(order).reshape(task.steps_per_epoch, task.batch_size)


def pixels(images, mean):
    return np.asarray(images, np.float64) / 255 - np.asarray(mean, np.float64)


def start(task, trial=TRIAL):
    return jax.jit(lambda: classifier.start(task, trial))()
