"""Figures as small PNG files that tell which points they show."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(path: Path, figure: Figure) -> None:
    """Writes a figure with 64 colours, which takes a quarter of the bytes."""
    with io.BytesIO() as drawn:
        figure.savefig(drawn, dpi=110)
        image = PIL.Image.open(drawn).convert("RGB").quantize(64)
    about = PngInfo()
    about.add_text("Comment", data_digest(figure))
    image.save(path, optimize=True, pnginfo=about)


def data_digest(figure: Figure) -> str:
    """A digest of the points that a figure shows, kept in the comment of its file.

    It tells whether two figures show the same data where fonts or versions differ.
    """
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    numbers = [np.asarray(line.get_xydata(), np.float64).ravel() for line in lines]
    text = ";".join(" ".join(f"{x:.6g}" for x in values) for values in numbers)
    return f"data {hashlib.sha256(text.encode()).hexdigest()[:16]}"
