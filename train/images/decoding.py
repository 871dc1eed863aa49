"""Decodes photographs, and cuts out the part that a network sees.

Training takes a random part, resized; evaluation takes the middle (He et al. 2016;
Gupta et al. 2021, arXiv:2108.05839, D.4.1). Pillow does this on the CPU.
"""

import io
import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from train import InputError

SIDE = 224  # Height and width of the part that the network sees.
SCALED = 256  # Side of an image for evaluation, before the middle is cut out.
AREAS = (0.08, 1.0)  # Range of the area, as a share of the photograph.
ASPECTS = (3 / 4, 4 / 3)  # Range of width over height.
_ATTEMPTS = 10  # To draw a part that fits; as in PyTorch's transform.

# Some photographs of ImageNet have corrupt EXIF data, which do not affect the pixels.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)

Scaling = Literal["shorter", "square"]
"""The sides that become 256 for evaluation: the shorter one, or both. The papers say
"scale to 256x256"; the code that they refer to scales the shorter side."""


def decode(content: bytes, name: str) -> Image.Image:
    """Decodes an image of any format and colours that Pillow knows.

    Args:
        content: Content of the file.
        name: Name of the file, for the error.

    Returns:
        An image in red, green and blue, turned as its EXIF data say. Transparent pixels
        get the colour that the file has for them.

    Raises:
        InputError: If the image cannot be decoded.
    """
    try:
        image = Image.open(io.BytesIO(content))
        _check_mode(image)
        image.load()
        return _in_colour(_upright(image))
    except Exception as error:  # Pillow's decoders can raise any exception.
        raise _refusal(name, error, empty=not content) from None


def check_header(path: Path) -> None:
    """Reads the header of an image file.

    Raises:
        InputError: If the file cannot be read, or is no image that `decode` takes.
    """
    try:
        with Image.open(path) as image:
            _check_mode(image)
    except Exception as error:
        raise _refusal(str(path), error) from None


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, whose white is not known")


def _refusal(name: str, error: Exception, empty: bool = False) -> InputError:
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"cannot read {name} ({error.strerror})")
    reason = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is empty" if empty else "unknown format"
    return InputError(
        f"{name} cannot be decoded ({reason}); get the file again, or delete it"
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # Damaged EXIF data; some files of ImageNet have them.
        pass
    return image


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 8.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def random_view(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Cuts out a random part of an image, resizes it, and mirrors it at random.

    Args:
        image: Image in red, green and blue.
        rng: Generator that draws the part.

    Returns:
        uint8[224, 224, 3].
    """
    mirrored = rng.random() < 0.5
    box = random_box(*image.size, rng)
    view = image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(view)
    return pixels[:, ::-1] if mirrored else pixels


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a part of an image: its area uniform, its aspect ratio log-uniform.

    If the part does not fit, it is drawn again, at most ten times. After that, it is
    the largest part in the middle with an allowed ratio (torchvision's
    RandomResizedCrop).

    Args:
        width: Width of the image.
        height: Height of the image.
        rng: Generator that draws the part.

    Returns:
        Left, top, right, bottom.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * _between(*AREAS, rng)
        aspect = math.exp(_between(math.log(ASPECTS[0]), math.log(ASPECTS[1]), rng))
        wide = round(math.sqrt(area * aspect))
        high = round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left = int(rng.random() * (width - wide + 1))
            top = int(rng.random() * (height - high + 1))
            return left, top, left + wide, top + high
    wide = min(width, round(height * ASPECTS[1]))
    high = min(height, round(width / ASPECTS[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    return low + (high - low) * rng.random()


def central_view(image: Image.Image, scaling: Scaling = "shorter") -> np.ndarray:
    """Cuts out the middle of an image, for evaluation.

    Args:
        image: Image in red, green and blue.
        scaling: Way in which it is resized first.

    Returns:
        uint8[224, 224, 3].
    """
    width, height = SCALED, SCALED
    if scaling == "shorter":
        shorter = min(image.size)
        width, height = (SCALED * side // shorter for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return np.asarray(scaled.crop((left, top, left + SIDE, top + SIDE)))
