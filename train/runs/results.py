"""The results of a command without a training loop: texts and figures."""

from collections.abc import Callable, Mapping
from pathlib import Path

from train.runs import records

Draw = Callable[[Path], None]  # Writes a figure to a path.
Findings = tuple[str, dict[str, Draw]]  # A text, and figures by file name.


def write(folder: Path, texts: Mapping[str, str], figures: Mapping[str, Draw]) -> None:
    """Writes texts and figures and prints the first text, in any case.

    Args:
        folder: A folder that `train.runs.guard.open_folder` has taken.
        texts: Texts by file name. They are written after the figures, so that a folder
            with a text is complete.
        figures: Functions that draw the figures, by file name.

    Raises:
        OSError: If the disk is full. The text has been printed.
    """
    try:
        for name, draw in figures.items():
            draw(folder / name)
        for name, text in texts.items():
            records.write_text(folder / name, text)
    finally:
        # After the files: the reader of a pipe may go away.
        print(next(iter(texts.values())), flush=True)
