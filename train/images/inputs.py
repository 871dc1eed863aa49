"""Inputs of a network and their labels, from images on the device, which are bytes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.images import augmentation
from train.shuffle import make_shuffle, shuffled


class Data(NamedTuple):
    """All of a data set on the device."""

    images: jax.Array  # uint8[n, side, side, 3]
    labels: jax.Array  # int32[n]
    test_images: jax.Array  # uint8[m, side, side, 3]
    test_labels: jax.Array  # int32[m]
    mean: jax.Array  # float32[3]; of the training images, 0 to 1


class Batch(NamedTuple):
    """Photographs of a batch, changed already: all, or those of one device."""

    images: jax.Array  # uint8[b, side, side, 3]
    labels: jax.Array  # int32[b]


def at_positions(
    data: Data,
    positions: jax.Array,
    epoch: jax.Array,
    order_key: jax.Array,
    change_key: jax.Array,
    degrees: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Training images at some positions of an epoch, changed at random.

    Args:
        data: Where they are.
        positions: int32[b].
        epoch: From 0.
        order_key: Of the order of the images.
        change_key: Of their changes.
        degrees: Largest rotation; None leaves the images as they are.

    Returns:
        Inputs, float32[b, side, side, 3], and labels, int32[b].
    """
    count = len(data.images)
    shuffle = make_shuffle(jax.random.fold_in(order_key, epoch), count)
    rows = shuffled(shuffle, positions, count)
    images = data.images[rows]
    if degrees is not None:
        images = augmentation.augment(images, change_key, epoch, positions, degrees)
    return augmentation.normalise(images, data.mean), data.labels[rows]


def of_batch(
    batch: Batch, first: int | jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """The same for some photographs of a batch, from the `first` on."""
    images, labels = (jax.lax.dynamic_slice_in_dim(x, first, count) for x in batch)
    return whole(Batch(images, labels))


def whole(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The same for all photographs of a batch."""
    mean, deviation = augmentation.IMAGENET_MEAN, augmentation.IMAGENET_DEVIATION
    inputs = augmentation.normalise(batch.images, jnp.asarray(mean), deviation)
    return inputs, batch.labels
