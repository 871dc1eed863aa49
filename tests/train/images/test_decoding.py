"""Photographs of all kinds are decoded, and cut into what a network sees."""

import warnings

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from tests.support.image_files import encoded, photograph
from tests.support.rating_files import refused
from train.images.decoding import (
    central_view,
    decode,
    random_box,
    random_view,
)

COLOURS = photograph(40, 30)


def rgb(content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(content, "a.JPEG")
    assert image.mode == "RGB"
    return np.asarray(image)


# ----------------------------------------------------------------------- decoding


def test_lossless_colours_are_kept():
    np.testing.assert_array_equal(rgb(encoded(COLOURS, "PNG")), COLOURS)
    # JPEG at high quality changes smooth colours by a few units of 255.
    assert np.abs(rgb(encoded(COLOURS, quality=98)) - COLOURS.astype(int)).max() < 12


def test_other_modes_become_colours():
    image = Image.fromarray(COLOURS)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(
        rgb(encoded(grey, "PNG")), np.stack([grey] * 3, axis=2)
    )
    found = rgb(encoded(grey, quality=98))
    assert (found == found[:, :, :1]).all() and abs(
        found[..., 0] - grey * 1.0
    ).max() < 6
    sixteen = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 255), "PNG")
    np.testing.assert_array_equal(rgb(sixteen)[:, :, 1], grey)
    two = encoded(image.convert("1"), "PNG")
    np.testing.assert_array_equal(np.unique(rgb(two)), [0, 255])
    # JPEG stores CMYK inverted, as Adobe does; a wrong sign is off by hundreds.
    cmyk = rgb(encoded(image.convert("CMYK"), quality=98))
    assert np.abs(cmyk - COLOURS.astype(int)).max() < 25


def test_transparent_pixels_show_what_the_file_has_there():
    alpha = np.full((*COLOURS.shape[:2], 1), 9, np.uint8)
    rgba = np.concatenate([COLOURS, alpha], axis=2)
    np.testing.assert_array_equal(rgb(encoded(rgba, "PNG")), COLOURS)
    palette = Image.fromarray(COLOURS).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(rgb(encoded(palette, "PNG")), expected)
    holes = encoded(palette, "PNG", transparency=bytes(range(16)))
    np.testing.assert_array_equal(rgb(holes), expected)
    one = encoded(Image.fromarray(COLOURS), "PNG", transparency=(0, 0, 0))
    np.testing.assert_array_equal(rgb(one), COLOURS)
    both = encoded(Image.fromarray(COLOURS).convert("LA"), "PNG")
    grey = np.asarray(Image.fromarray(COLOURS).convert("L"))
    np.testing.assert_array_equal(rgb(both)[:, :, 0], grey)


@pytest.mark.parametrize(
    "orientation, upright",
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_photographs_are_turned_as_their_exif_data_say(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = rgb(encoded(COLOURS, "PNG", exif=exif))
    np.testing.assert_array_equal(found, upright(COLOURS))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_left_alone():
    for damage in (b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"Exif\0\0", b"Exif\0\0nonsense"):
        content = encoded(COLOURS, exif=damage)
        assert decode(content, "a").size == (40, 30)


def test_numbers_without_a_known_white_are_refused():
    floats = encoded(Image.fromarray(np.full((4, 5), 0.5, np.float32)), "TIFF")
    refused(lambda: decode(floats, "a.png"), "a.png cannot be decoded (it has floating")


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda x: b"", "(it is empty)"),
        (lambda x: b"<html>", "(unknown format)"),
        (lambda x: x[: len(x) // 2], "truncated"),
        (lambda x: x[:30], "("),
        (lambda x: x[:-200] + bytes(200), "("),
    ],
)
def test_what_cannot_be_decoded_is_named(damage, reason):
    content = damage(encoded(photograph(400, 300), quality=90))
    name = "train/n01/x.JPEG cannot be decoded ("
    refused(lambda: decode(content, "train/n01/x.JPEG"), name, reason, "delete it")


# --------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    "width, height, scaled, left, top",
    [
        (256, 256, (256, 256), 16, 16),
        (500, 375, (341, 256), 58, 16),  # 58.5 is rounded to even, as Python does.
        (375, 500, (256, 341), 16, 58),
        (339, 256, (339, 256), 58, 16),  # And so is 57.5.
        (300, 257, (298, 256), 37, 16),
        (30, 20, (384, 256), 80, 16),
        (1, 3, (256, 768), 16, 272),
        (500, 333, (384, 256), 80, 16),
    ],
)
def test_the_middle_is_that_of_the_scaled_image(width, height, scaled, left, top):
    image = Image.fromarray(photograph(width, height))
    resized = np.asarray(image.resize(scaled, Image.Resampling.BILINEAR))
    expected = resized[top : top + 224, left : left + 224]
    found = central_view(image)
    assert found.shape == (224, 224, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_both_sides_become_256_if_asked():
    image = Image.fromarray(photograph(500, 375))
    resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
    found = central_view(image, "square")
    np.testing.assert_array_equal(found, resized[16:240, 16:240])
    assert (found != central_view(image)).any()


# ----------------------------------------------------------------------- training


def reference(width, height, rng):
    """Parts as torchvision's documentation describes them, or None after ten tries."""
    for _ in range(10):
        share = rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        wide = int(np.rint((width * height * share * ratio) ** 0.5))
        high = int(np.rint((width * height * share / ratio) ** 0.5))
        if wide <= width and high <= height:
            left = rng.integers(0, width - wide, endpoint=True)
            return left, rng.integers(0, height - high, endpoint=True), wide, high
    return None


@pytest.mark.parametrize("width, height", [(500, 375), (224, 224), (300, 900)])
def test_parts_have_the_distribution_of_the_reference(width, height):
    count = 3000
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(width, height, rng) for _ in range(count)])
    lefts, tops, rights, bottoms = boxes.T
    assert (boxes >= 0).all() and (rights <= width).all() and (bottoms <= height).all()
    wide, high = rights - lefts, bottoms - tops
    other = np.random.default_rng(1)
    expected = [reference(width, height, other) for _ in range(count)]
    missed = sum(box is None for box in expected)
    if (width, height) == (300, 900):
        # The largest part in the middle with a ratio of 3/4.
        middle = (boxes == [0, 250, 300, 650]).all(axis=1)
        assert missed > 30 and abs(middle.sum() - missed) < 5 * (2 * missed) ** 0.5
        lefts, tops, wide, high = (x[~middle] for x in (lefts, tops, wide, high))
    else:
        assert missed == 0
    expected = np.array([box for box in expected if box is not None]).T
    statistics = [
        (wide * high, expected[2] * expected[3]),
        (np.log(wide / high), np.log(expected[2] / expected[3])),
        (lefts, expected[0]),
        (tops, expected[1]),
    ]
    for found, wanted in statistics:
        # The test rejects two samples of one distribution once in ten thousand times.
        assert scipy.stats.ks_2samp(found, wanted).pvalue > 1e-4
    area, ratio = wide * high / (width * height), wide / high
    # Sides are whole pixels, so the bounds hold up to one pixel per side.
    slack = 1 / wide.min() + 1 / high.min()
    assert area.min() > 0.08 * (1 - slack) and area.min() < 0.09 and area.max() <= 1
    assert ratio.min() > 0.75 * (1 - slack) and ratio.max() < 4 / 3 * (1 + slack)


@pytest.mark.parametrize(
    "width, height, box",
    [
        (2000, 10, (994, 0, 1007, 10)),  # 4/3 of 10 is 13; 993.5 is cut to 993.
        (10, 2000, (0, 994, 10, 1007)),
        (1, 1, (0, 0, 1, 1)),
        (1, 50, (0, 24, 1, 25)),
    ],
)
def test_thin_and_tiny_images_have_a_part_too(width, height, box):
    boxes = {random_box(width, height, np.random.default_rng(i)) for i in range(50)}
    left, top = (width - (box[2] - box[0])) // 2, (height - (box[3] - box[1])) // 2
    middle = (left, top, left + box[2] - box[0], top + box[3] - box[1])
    assert middle in boxes
    if max(width, height) > 50:
        assert boxes == {middle}
    view = random_view(Image.new("RGB", (width, height)), np.random.default_rng(0))
    assert view.shape == (224, 224, 3)


def test_a_part_may_lie_anywhere():
    boxes = [random_box(8, 6, np.random.default_rng(i)) for i in range(3000)]
    lefts = {left for left, _, right, _ in boxes if right - left == 5}
    tops = {top for _, top, _, bottom in boxes if bottom - top == 4}
    assert lefts == {0, 1, 2, 3} and tops == {0, 1, 2}


def test_views_are_parts_resized_and_half_of_them_mirrored():
    image = Image.fromarray(photograph(300, 200, 3))
    flips = 0
    for seed in range(60):
        view = random_view(image, np.random.default_rng(seed))
        assert view.shape == (224, 224, 3) and view.dtype == np.uint8
        rng = np.random.default_rng(seed)
        rng.random()  # The first number decides about mirroring.
        part = image.crop(random_box(300, 200, rng))
        expected = np.asarray(part.resize((224, 224), Image.Resampling.BILINEAR))
        flipped = not np.array_equal(view, expected)
        np.testing.assert_array_equal(view[:, ::-1] if flipped else view, expected)
        flips += flipped
    assert abs(flips - 30) < 5 * 15**0.5
