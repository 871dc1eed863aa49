"""Random changes of training images, on the device and inside jit.

As in Gupta et al. 2021, arXiv:2108.05839 (D.2, in PyTorch's terms): RandomCrop(32,
padding=4), RandomHorizontalFlip and, for CIFAR-100, RandomRotation(15), in this order.
Then the mean is subtracted; the paper mentions a division by the deviation only for
ImageNet (D.4.1). The changes of an image depend on a key, its epoch and its position
in the epoch, so they do not depend on how a batch is split among devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

PADDING = 4  # Black pixels on each side, before the crop to the original size.
DEGREES = 15.0  # Largest rotation, for CIFAR-100.

# The usual constants for ImageNet, as in torchvision, in the units of `normalise`.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class Changes(NamedTuple):
    """The changes of each image of a batch."""

    shifts: jax.Array  # int32[b, 2]; first row and column of the crop, 0 to 8
    mirrored: jax.Array  # bool[b]; left and right change places
    angles: jax.Array  # float32[b]; radians, counter-clockwise


def draw(
    key: jax.Array, epoch: jax.typing.ArrayLike, positions: jax.Array, degrees: float
) -> Changes:
    """Draws the changes of the images at some positions of an epoch.

    Args:
        key: Key of the run.
        epoch: Number of the epoch, int32[].
        positions: Positions of the images in the epoch, across all devices; int32[b].
        degrees: Largest rotation to either side.

    Returns:
        Changes: crops that are uniform over all 81, mirror images with probability 1/2,
        and uniform angles.
    """
    limit = np.deg2rad(degrees)

    def one(key: jax.Array) -> Changes:
        shift, mirror, turn = jax.random.split(key, 3)
        return Changes(
            jax.random.randint(shift, (2,), 0, 2 * PADDING + 1, jnp.int32),
            jax.random.bernoulli(mirror, jnp.float32(0.5)),
            jax.random.uniform(turn, (), jnp.float32, -limit, limit),
        )

    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.fold_in(key, epoch), positions
    )
    return jax.vmap(one)(keys)


def augment(
    images: jax.Array,
    key: jax.Array,
    epoch: jax.typing.ArrayLike,
    positions: jax.Array,
    degrees: float = 0.0,
) -> jax.Array:
    """Crops, mirrors and rotates images at random.

    Args:
        images: Images, uint8[b, n, n, 3].
        key: Key of the run.
        epoch: Number of the epoch, int32[].
        positions: Positions of the images in the epoch, across all devices; int32[b].
        degrees: Largest rotation to either side; 0 leaves out the rotation.

    Returns:
        float32[b, n, n, 3], from 0 to 255, not yet normalised.
    """
    changes = draw(key, epoch, positions, degrees)
    images = mirror(crop(images, changes.shifts), changes.mirrored)
    images = images.astype(jnp.float32)
    return rotate(images, changes.angles) if degrees else images


def crop(images: jax.Array, shifts: jax.Array) -> jax.Array:
    """Adds a black border of `PADDING` and crops to the original size.

    Args:
        images: Images, [b, n, n, 3].
        shifts: First row and column of the crop, 0 to twice the padding; int32[b, 2].

    Returns:
        [b, n, n, 3]. A shift of `PADDING` and `PADDING` returns the image itself.
    """
    border = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def cut(image: jax.Array, shift: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*shift, 0), images.shape[1:])

    return jax.vmap(cut)(padded, shifts)


def mirror(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Exchanges left and right where `mirrored`, bool[b], says so."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def rotate(images: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates each image about its middle, with bilinear interpolation.

    Pixels from outside the image are black, as in PyTorch, whose default interpolation
    takes the nearest pixel instead. Values are not rounded.

    Args:
        images: Images, float32[b, n, n, 3].
        angles: Angles in radians, counter-clockwise; float32[b].

    Returns:
        float32[b, n, n, 3].
    """
    middle = (images.shape[1] - 1) / 2
    place = jnp.arange(images.shape[1], dtype=jnp.float32) - middle
    row, column = place[:, None], place[None, :]

    def one(image: jax.Array, angle: jax.Array) -> jax.Array:
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        sources = [sin * column + cos * row, cos * column - sin * row]
        sources = [source + middle for source in sources]
        return jax.vmap(
            lambda colour: map_coordinates(colour, sources, order=1), -1, -1
        )(image)

    return jax.vmap(one)(images, angles)


def channel_mean(images: np.ndarray) -> np.ndarray:
    """Computes the mean of each colour, exactly except for the last rounding.

    Args:
        images: Images, uint8[n, h, w, 3].

    Returns:
        float32[3], in the units of `normalise`.
    """
    total = images.sum(axis=(0, 1, 2), dtype=np.int64)
    return (total / (255 * images[..., 0].size)).astype(np.float32)


def normalise(
    images: jax.Array,
    mean: jax.typing.ArrayLike,
    deviation: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Scales images to 0 to 1, subtracts the mean, divides by the deviation.

    Args:
        images: Images from 0 to 255, [..., 3].
        mean: Mean from 0 to 1, float32[3]: from `channel_mean`, or that of ImageNet.
        deviation: Standard deviation, float32[3]; `None` does not divide.

    Returns:
        float32[..., 3].
    """
    spread = (1,) * (jnp.ndim(images) - 1) + (3,)
    result = images.astype(jnp.float32) / 255 - jnp.reshape(mean, spread)
    return result if deviation is None else result / jnp.reshape(deviation, spread)
