"""Inputs of a network and their labels, from images on the device, which are bytes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from train.images import augmentation
from train.shuffle import make_shuffle, shuffled


class DeviceImages(NamedTuple):
    """All of a data set on the device."""

    images: jax.Array  # uint8[n, side, side, 3]
    labels: jax.Array  # int32[n]
    test_images: jax.Array  # uint8[m, side, side, 3]
    test_labels: jax.Array  # int32[m]
    mean: jax.Array  # float32[3]; of the training images, 0 to 1


class PhotoBatch(NamedTuple):
    """Augmented photographs of a batch: all, or those of one device."""

    images: jax.Array  # uint8[b, side, side, 3]
    labels: jax.Array  # int32[b]


def at_positions(
    data: DeviceImages,
    positions: jax.Array,
    epoch: jax.Array,
    order_key: jax.Array,
    change_key: jax.Array,
    degrees: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Training images at some positions of an epoch, changed at random.

    Args:
        data: The data set.
        positions: Positions in the epoch, int32[b].
        epoch: Number of the epoch, from 0.
        order_key: Random key for the order of the images.
        change_key: Random key for their changes.
        degrees: Largest rotation; None leaves the images unchanged.

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
    batch: PhotoBatch, first: int | jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Inputs and labels of `count` photographs of a batch, from the `first` on."""
    images, labels = (jax.lax.dynamic_slice_in_dim(x, first, count) for x in batch)
    return whole(PhotoBatch(images, labels))


def whole(batch: PhotoBatch) -> tuple[jax.Array, jax.Array]:
    """Inputs and labels of all photographs of a batch."""
    mean, deviation = augmentation.IMAGENET_MEAN, augmentation.IMAGENET_DEVIATION
    inputs = augmentation.normalise(batch.images, jnp.asarray(mean), deviation)
    return inputs, batch.labels
