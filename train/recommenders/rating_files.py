"""Reads the published rating files of MovieLens, and the splits of He et al. 2017.

Every fault of a file raises one `InputError`, with the name of the file and the number
of the row (the first is 1).
"""

import codecs
import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.errors import InputError, require

NEGATIVES = 99  # Items after the test item in a row of a .test.negative file.
LARGEST = 2**31 - 1
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_NCF = (
    "https://raw.githubusercontent.com/hexiangnan/neural_collaborative_filtering"
    "/master/Data"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a data set."""

    files: tuple[str, ...]
    """One file of ratings, or three files: training rows, test rows and negatives."""
    urls: tuple[str, ...]
    """One address for each file, or one of an archive with the files in a folder."""

    @property
    def is_split(self) -> bool:
        return len(self.files) > 1


def _ncf(name: str) -> Source:
    endings = ("train.rating", "test.rating", "test.negative")
    files = tuple(f"{name}.{ending}" for ending in endings)
    return Source(files, tuple(f"{_NCF}/{file}" for file in files))


SOURCES = {
    "ml-100k": Source(("u.data",), (f"{_GROUPLENS}/ml-100k.zip",)),
    "ml-1m": Source(("ratings.dat",), (f"{_GROUPLENS}/ml-1m.zip",)),
    "ml-1m-ncf": _ncf("ml-1m"),
    "pinterest-20": _ncf("pinterest-20"),
}


class Ratings(NamedTuple):
    """The content of the files of a data set, checked but not changed."""

    rows: np.ndarray  # int64[n, 4]: user, item, rating, time; in file order
    # int64[users, 100]; for each user, from 0, the test item and 99 other items
    candidates: np.ndarray | None


def find_folder(name: str, data_dir: Path) -> Path:
    """Finds the original files, in `data_dir` or in a folder directly inside it.

    Args:
        name: One of `SOURCES`.
        data_dir: The folder that the user gave.

    Returns:
        A folder that holds all files. If there are several, the one with the name of
        the data set.

    Raises:
        InputError: If there is none, or if there are several with other names.
    """
    files = SOURCES[name].files

    def missing(folder: Path) -> list[str]:
        return [file for file in files if not (folder / file).is_file()]

    require(data_dir.is_dir(), f"--data-dir {data_dir} is not a folder")
    if not missing(data_dir):
        return data_dir
    folders = [path for path in sorted(data_dir.iterdir()) if path.is_dir()]
    found = [folder for folder in folders if not missing(folder)]
    found = [folder for folder in found if folder.name == name] or found
    if len(found) == 1:
        return found[0]
    require(
        not found,
        f"{data_dir} has several folders with {', '.join(files)}:"
        f" {', '.join(folder.name for folder in found)}; give --data-dir one of them",
    )
    fewest = min([data_dir, *folders], key=lambda folder: len(missing(folder)))
    raise InputError(
        f"{fewest} lacks {', '.join(missing(fewest))}; --data-dir for {name} must be"
        f" the folder with {', '.join(files)}, or the folder around it"
    )


def read(name: str, load_bytes: Callable[[str], bytes]) -> Ratings:
    """Reads and checks the files of a data set.

    Args:
        name: One of `SOURCES`.
        load_bytes: Function that returns the content of a file, given its name.

    Returns:
        The rows, and the candidates if the files are already split.

    Raises:
        InputError: If a file is empty, truncated or malformed, or if the files do not
            belong together.
    """
    files = SOURCES[name].files
    tables = [_parse(file, load_bytes(file)) for file in files]
    return Ratings(tables[0], _join(files, *tables) if SOURCES[name].is_split else None)


_FORMATS = {  # Separator, columns and layout, by the ending of the file name.
    ".data": (b"\t", 4, "user, item, rating and time, separated by tabs"),
    ".dat": (b"::", 4, "user::item::rating::time"),
    ".rating": (b"\t", 4, "user, item, rating and time, separated by tabs"),
    ".negative": (b"\t", 2 + NEGATIVES, "(user,item) and 99 items, separated by tabs"),
}
_AGAIN = "get the original file again"


def _parse(file: str, content: bytes) -> np.ndarray:
    """Parses the numbers of a file, int64[rows, columns]."""
    separator, columns, layout = _FORMATS[Path(file).suffix]
    # What editors and spreadsheets change: a mark at the start, the ends of lines.
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    content = content.rstrip() + b"\n"
    require(bool(content.strip()), f"{file} is empty; {_AGAIN}")
    lines = content.count(b"\n") + 1
    text = content.replace(separator, b"\t")
    if columns > 4:
        text = re.sub(rb"(?m)^\((\d+),(\d+)\)", rb"\1\t\2", text)
    else:  # The rating, which may have decimals: every rating is a positive.
        text = re.sub(rb"(?m)^(\d+\t\d+\t\d+)\.\d*(?=\t)", rb"\1", text)
    try:
        rows = np.loadtxt(
            io.BytesIO(text), np.int64, comments=None, delimiter="\t", ndmin=2
        )
    except ValueError:
        rows = np.empty((0, 0), np.int64)
    # loadtxt skips empty lines, so the number of rows must be checked, too.
    if rows.shape == (lines - 1, columns) and 0 <= rows.min() <= rows.max() <= LARGEST:
        return rows
    number = next(
        i for i, line in enumerate(text.split(b"\n"), 1) if not _is_row(line, columns)
    )
    line = content.split(b"\n")[number - 1].decode(errors="replace")
    raise InputError(
        f"{file}, row {number}: expected {layout}, each an integer from 0 to {LARGEST};"
        f" got {line if len(line) < 50 else line[:50] + '...'!r}; {_AGAIN}"
    )


def _is_row(line: bytes, columns: int) -> bool:
    fields = line.split(b"\t")
    return len(fields) == columns and all(
        re.fullmatch(rb"\d{1,10}", field) and int(field) <= LARGEST for field in fields
    )


def _join(
    files: tuple[str, ...], train: np.ndarray, test: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Checks that three files belong together; returns the candidates by user."""
    train_file, test_file, others_file = files

    def refuse(file: str, bad: np.ndarray, fault: str) -> None:
        """Raises at the first bad row."""
        if bad.any():
            row = int(bad.argmax())
            raise InputError(f"{file}, row {row + 1}: {fault}; get the files again")

    require(
        len(test) == len(others),
        f"{others_file} has {len(others)} rows and {test_file} has {len(test)}: each"
        " row of one belongs to a row of the other; get the files again",
    )
    differs = (test[:, :2] != others[:, :2]).any(axis=1)
    refuse(others_file, differs, f"not the user and item of that row of {test_file}")
    users, first_rows = np.unique(test[:, 0], return_index=True)
    again = ~np.isin(np.arange(len(test)), first_rows)
    refuse(test_file, again, "this user has a row already")
    untested = ~np.isin(train[:, 0], users)
    refuse(train_file, untested, f"this user has no row in {test_file}")
    untrained = ~np.isin(test[:, 0], train[:, 0])
    refuse(test_file, untrained, f"this user has no row in {train_file}")
    # The number of a user is its row in the embedding table.
    too_large = test[:, 0] >= len(users)
    refuse(test_file, too_large, f"the {len(users)} users must have the numbers from 0")
    return others[np.argsort(others[:, 0]), 1:]
