"""Augmentation: each step against NumPy or SciPy, and the chances of what is drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from train.images import augmentation

KEY = jax.random.key(7)


def some_images(count, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(count, size, size, 3)).astype(np.uint8)


# -------------------------------------------------------------------------- steps


@pytest.mark.parametrize("size", [32, 9])
def test_crops_are_cut_out_of_a_black_border(size):
    images = some_images(81, size)
    shifts = np.stack(np.divmod(np.arange(81), 9), axis=1).astype(np.int32)
    found = jax.jit(augmentation.crop)(images, shifts)
    assert found.dtype == np.uint8
    for image, (row, column), cropped in zip(images, shifts, found, strict=True):
        padded = np.zeros((size + 8, size + 8, 3), np.uint8)
        padded[4 : 4 + size, 4 : 4 + size] = image
        expected = padded[row : row + size, column : column + size]
        np.testing.assert_array_equal(cropped, expected)


def test_mirror_images_exchange_left_and_right():
    images = some_images(4)
    mirrored = np.array([True, False, False, True])
    found = jax.jit(augmentation.mirror)(images, mirrored)
    for image, swap, result in zip(images, mirrored, found, strict=True):
        np.testing.assert_array_equal(result, image[:, ::-1] if swap else image)


@pytest.mark.parametrize("size", [32, 7])
def test_rotations_are_those_of_scipy_in_float64(size):
    images = some_images(40, size)
    angles = np.linspace(-np.pi / 3, np.pi / 3, 40)
    angles[0] = 0
    found = jax.jit(augmentation.rotate)(
        jnp.asarray(images, jnp.float32), jnp.asarray(angles, jnp.float32)
    )
    assert found.dtype == jnp.float32
    middle = np.full(2, (size - 1) / 2)
    for image, angle, result in zip(images, np.float32(angles), found, strict=True):
        sin, cos = np.sin(float(angle)), np.cos(float(angle))
        # Maps a place in the result to a place in the image; rows count downwards.
        matrix = np.array([[cos, sin], [-sin, cos]])
        for colour in range(3):
            expected = scipy.ndimage.affine_transform(
                image[:, :, colour].astype(np.float64),
                matrix,
                middle - matrix @ middle,
                order=1,
                mode="grid-constant",  # Neighbours outside are black.
            )
            # In float32, places up to 44 have an error of about 3 * 2^-19, and
            # neighbouring pixels differ by at most 255: 1.5e-3.
            np.testing.assert_allclose(result[:, :, colour], expected, 0, 2e-3)
    np.testing.assert_array_equal(found[0], images[0])  # Exact without rotation.


def test_positive_angles_turn_counter_clockwise():
    images = some_images(3)
    quarter = jnp.full(3, np.pi / 2, jnp.float32)
    found = augmentation.rotate(jnp.asarray(images, jnp.float32), quarter)
    np.testing.assert_allclose(found, np.rot90(images, 1, (1, 2)), 0, 2e-3)  # As above.


# ------------------------------------------------------------------------ chances


@pytest.fixture(scope="module")
def changes():
    draw = jax.jit(partial(augmentation.draw, degrees=15.0))
    return draw(KEY, 3, jnp.arange(40_000))


def test_crops_are_uniform_over_all_81(changes):
    assert changes.shifts.dtype == jnp.int32
    rows, columns = np.asarray(changes.shifts).T
    found = np.bincount(9 * rows + columns, minlength=81)
    assert len(found) == 81
    expected = 40_000 / 81
    chi_square = ((found - expected) ** 2 / expected).sum()
    # The mean is 80, the deviation sqrt(160); five of them occur once in millions.
    assert abs(chi_square - 80) < 5 * 160**0.5


def test_half_are_mirrored_and_angles_are_uniform(changes):
    mirrored, angles = np.asarray(changes.mirrored), np.asarray(changes.angles)
    assert mirrored.dtype == bool and angles.dtype == np.float32
    # Five deviations: sqrt(n)/2 for a count, sqrt(1/n) for the distribution below.
    assert abs(mirrored.sum() - 20_000) < 5 * 100
    limit = np.radians(15)
    assert np.abs(angles).max() <= limit
    found, _ = np.histogram(angles, 50, (-limit, limit))
    assert (np.abs(found - 800) < 5 * 800**0.5).all()


def test_what_is_drawn_is_independent(changes):
    columns = [*changes.shifts.T, changes.mirrored, changes.angles]
    columns = [np.asarray(column, np.float64) for column in columns]
    matrix = np.corrcoef(np.stack(columns + [column[::-1] for column in columns]))
    neighbours = np.corrcoef(np.stack([c[:-1] for c in columns] + [columns[1][1:]]))
    for found in (matrix, neighbours):
        # The deviation of a correlation of n pairs is 1/sqrt(n).
        assert np.abs(found - np.eye(len(found))).max() < 5 / 200


# -------------------------------------------------------------------------- whole


def augment(images, positions, epoch=0, degrees=15.0, key=KEY):
    program = jax.jit(augmentation.augment, static_argnames="degrees")
    return np.asarray(program(images, key, epoch, positions, degrees=degrees))


def test_steps_come_in_the_order_of_the_paper():
    images, positions = some_images(20), jnp.arange(20)
    changes = jax.jit(partial(augmentation.draw, degrees=15.0))(KEY, 2, positions)
    for degrees in (0.0, 15.0):
        found = augment(images, positions, 2, degrees)
        assert found.dtype == np.float32 and found.shape == images.shape
        for i in range(20):
            row, column = np.asarray(changes.shifts[i])
            padded = np.pad(images[i], ((4, 4), (4, 4), (0, 0)))
            expected = padded[row : row + 32, column : column + 32]
            if changes.mirrored[i]:
                expected = expected[:, ::-1]
            if degrees:
                # This mode interpolates over the edge; SciPy's "constant" does not.
                expected = scipy.ndimage.rotate(
                    expected.astype(np.float64),
                    np.degrees(float(changes.angles[i])),
                    reshape=False,
                    order=1,
                    mode="grid-constant",
                )
            np.testing.assert_allclose(found[i], expected, 0, 2e-3)  # As above.


def test_changes_go_by_epoch_and_position_not_by_the_place_in_a_batch():
    images, positions = some_images(20), jnp.arange(100, 120)
    whole = augment(images, positions)
    order = np.random.default_rng(0).permutation(20)
    parts = [augment(images[i], positions[i]) for i in np.split(order, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])
    same = augment(images[:1].repeat(20, axis=0), positions)
    assert len({image.tobytes() for image in same}) == 20
    for other in (
        augment(images, positions, epoch=1),
        augment(images, positions + 20),
        augment(images, positions, key=jax.random.key(8)),
    ):
        assert (other != whole).any(axis=(1, 2, 3)).all()


def test_labels_stay_with_their_images():
    labels = np.arange(20)
    images = np.broadcast_to(10 * labels[:, None, None, None] + 1, (20, 32, 32, 3))
    positions = jnp.arange(20)
    for epoch in range(3):
        found = augment(images.astype(np.uint8), positions, epoch)
        # The middle of an image is never black, and of one colour.
        np.testing.assert_allclose(found[:, 16, 16, 0], 10 * labels + 1, rtol=1e-6)


def test_the_result_does_not_depend_on_the_number_of_devices():
    images, positions = some_images(20), jnp.arange(20) + 5
    mesh = jax.make_mesh(
        (4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,)
    )
    split = jax.shard_map(
        lambda images, positions: augmentation.augment(
            images, KEY, 1, positions, degrees=15.0
        ),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    found = jax.jit(split)(images, positions)
    # The numbers are the same, but either program may fuse a product and a sum into one
    # rounding: tolerance as above.
    np.testing.assert_allclose(found, augment(images, positions, 1), 0, 2e-3)


# ------------------------------------------------------------------ normalisation


def test_the_mean_is_that_of_each_colour():
    images = some_images(50)
    images[..., 1] //= 2
    images[0, ..., 2] = 255
    found = augmentation.channel_mean(images)
    assert found.dtype == np.float32
    expected = images.astype(np.float64).reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(found, expected, rtol=2**-24)  # Half a last place.
    bright = np.full((110, 400, 400, 3), 255, np.uint8)  # The sum exceeds 2^32.
    np.testing.assert_array_equal(augmentation.channel_mean(bright), np.ones(3))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_normalised_images_have_mean_0_and_deviation_1(dtype):
    images = some_images(30)
    flat = images.reshape(-1, 3).astype(np.float64) / 255
    mean, deviation = flat.mean(0), flat.std(0)
    centred = jax.jit(augmentation.normalise)(
        images.astype(dtype), augmentation.channel_mean(images)
    )
    assert centred.dtype == jnp.float32
    expected = (flat - mean).reshape(images.shape)
    np.testing.assert_allclose(
        centred, expected, 0, 1e-6
    )  # A few rounding errors of 1.
    scaled = augmentation.normalise(
        jnp.asarray(images, dtype),
        mean.astype(np.float32),
        deviation.astype(np.float32),
    )
    np.testing.assert_allclose(
        scaled, expected / deviation.reshape(1, 1, 1, 3), 0, 1e-5
    )
    one = augmentation.normalise(jnp.asarray(images[0]), mean.astype(np.float32))
    np.testing.assert_allclose(one, expected[0], 0, 1e-6)


def test_constants_of_imagenet_are_those_of_everybody():
    black = jnp.zeros((1, 1, 1, 3), jnp.uint8)
    found = augmentation.normalise(
        black, augmentation.IMAGENET_MEAN, augmentation.IMAGENET_DEVIATION
    )
    # Minus mean over deviation, computed by hand.
    np.testing.assert_allclose(
        np.ravel(found), [-2.117904, -2.035714, -1.804444], rtol=1e-6
    )
