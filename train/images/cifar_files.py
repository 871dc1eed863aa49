"""CIFAR-10 and CIFAR-100 in the files of their authors, binary or pickled.

Every fault of a file raises one `InputError`, with the name of the file and the number
of the record (the first is 1).
"""

import dataclasses
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train import InputError, require
from train.report import markdown

SIDE = 32
PIXELS = 3 * SIDE * SIDE  # Bytes of an image: all red, all green, all blue; by rows.
OFFICIAL = (50_000, 10_000)  # Training and test images of both sets.
_AGAIN = "get the original files again"


class Form(NamedTuple):
    """One of the two forms in which a data set is published."""

    folder: str  # Name of the folder in the archive.
    train: tuple[str, ...]
    test: str

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test)


class Label(NamedTuple):
    """A label of each record; of several labels, networks learn the last one."""

    key: bytes
    classes: int


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a data set."""

    labels: tuple[Label, ...]
    binary: Form
    pickled: Form
    url: str
    """The archive of the binary form."""

    @property
    def classes(self) -> int:
        return self.labels[-1].classes


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_HOME = "https://www.cs.toronto.edu/~kriz"
SOURCES = {
    "cifar10": Source(
        (Label(b"labels", 10),),
        Form(
            "cifar-10-batches-bin",
            tuple(f"{batch}.bin" for batch in _BATCHES),
            "test_batch.bin",
        ),
        Form("cifar-10-batches-py", _BATCHES, "test_batch"),
        f"{_HOME}/cifar-10-binary.tar.gz",
    ),
    "cifar100": Source(
        (Label(b"coarse_labels", 20), Label(b"fine_labels", 100)),
        Form("cifar-100-binary", ("train.bin",), "test.bin"),
        Form("cifar-100-python", ("train",), "test"),
        f"{_HOME}/cifar-100-binary.tar.gz",
    ),
}


class Part(NamedTuple):
    """Images and their labels, in the order of the files."""

    images: np.ndarray  # uint8[n, 32, 32, 3]; row, column, colour
    labels: np.ndarray  # int32[n]


@dataclasses.dataclass(frozen=True)
class Images:
    """A data set of small images."""

    name: str
    num_classes: int
    train: Part
    test: Part


def read_folder(name: str, data_dir: Path) -> Images:
    """Reads a data set from a folder.

    Args:
        name: One of `SOURCES`.
        data_dir: Folder with the original files, binary or pickled, or the folder
            around it.

    Returns:
        The images, unchanged.

    Raises:
        InputError: If files are missing, truncated or malformed.
    """
    folder, form = find_folder(name, data_dir)
    try:
        return read(name, form, lambda file: (folder / file).read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename} ({error.strerror}); check --data-dir"
        ) from None


def find_folder(name: str, data_dir: Path) -> tuple[Path, Form]:
    """Finds the original files, in `data_dir` or in the official folder inside it.

    Args:
        name: One of `SOURCES`.
        data_dir: The folder that the user gave.

    Returns:
        A folder that holds all files, and their form; binary where both are there.

    Raises:
        InputError: If no folder is complete.
    """
    forms = SOURCES[name].binary, SOURCES[name].pickled
    require(data_dir.is_dir(), f"--data-dir {data_dir} is not a folder")
    places = [(data_dir, form) for form in forms]
    places += [(data_dir / form.folder, form) for form in forms]

    def missing(place: tuple[Path, Form]) -> list[str]:
        return [file for file in place[1].files if not (place[0] / file).is_file()]

    # If no folder is complete, name the one that lacks the fewest of its files.
    nearest = min(places, key=lambda place: len(missing(place)) / len(place[1].files))
    require(
        not missing(nearest),
        f"{nearest[0]} lacks {', '.join(missing(nearest))}; --data-dir for {name} must"
        f" be the folder {' or '.join(form.folder for form in forms)}, or the folder"
        " around it",
    )
    return nearest


def read(name: str, form: Form, load_bytes: Callable[[str], bytes]) -> Images:
    """Reads and checks the files of a data set.

    Args:
        name: One of `SOURCES`.
        form: One of the two forms of that source.
        load_bytes: Function that returns the content of a file, given its name.

    Returns:
        The images, with the last of their labels.

    Raises:
        InputError: If a file is empty, truncated or malformed.
    """
    source = SOURCES[name]
    parse = _parse_binary if form == source.binary else _parse_pickled
    parts = [
        _checked(file, *parse(source, file, load_bytes(file)), source.labels)
        for file in form.files
    ]
    *train, test = parts
    for file, part in zip(form.train, train, strict=True):
        # The official files are equally long. This finds a file that was cut between
        # two records.
        require(
            len(part.labels) == len(train[0].labels),
            f"{file} has {len(part.labels)} records and {form.train[0]} has"
            f" {len(train[0].labels)}: training files must be equally long; {_AGAIN}",
        )
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Images(name, source.classes, Part(images, labels), test)


def _checked(
    file: str, pixels: np.ndarray, labels: np.ndarray, kinds: tuple[Label, ...]
) -> Part:
    """Checks pixels, uint8[n, 3072], and labels, int[n, kinds]; keeps the last kind."""
    require(len(pixels) > 0, f"{file} is empty; {_AGAIN}")
    limits = np.array([kind.classes for kind in kinds])
    bad = (labels < 0) | (labels >= limits)
    if bad.any():
        record, kind = (int(axis[0]) for axis in np.nonzero(bad))
        what = kinds[kind].key.decode().removesuffix("s").replace("_", " ")
        raise InputError(
            f"{file}, record {record + 1}: the {what} must be from 0 to"
            f" {kinds[kind].classes - 1}; got {labels[record, kind]}; {_AGAIN}"
        )
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Part(np.ascontiguousarray(images), labels[:, -1].astype(np.int32))


def _parse_binary(
    source: Source, file: str, content: bytes
) -> tuple[np.ndarray, np.ndarray]:
    first = len(source.labels)
    size = first + PIXELS
    count, rest = divmod(len(content), size)
    require(
        rest == 0,
        f"{file}, record {count + 1}: {rest} bytes where a record has {size}, as if"
        f" truncated; {_AGAIN}",
    )
    table = np.frombuffer(content, np.uint8).reshape(count, size)
    return table[:, first:], table[:, :first].astype(np.int64)


# -------------------------------------------------------------------- pickled form


def _parse_pickled(
    source: Source, file: str, content: bytes
) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # A damaged pickle can raise any exception.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{file} is not a readable pickle ({reason}); {_AGAIN}"
        ) from None
    keys = [b"data", *(label.key for label in source.labels)]
    wanted = ", ".join(key.decode() for key in keys)
    require(
        isinstance(batch, dict) and all(key in batch for key in keys),
        f"{file} must hold a dictionary with {wanted}; {_AGAIN}",
    )
    pixels = getattr(batch[b"data"], "values", None)
    require(
        isinstance(pixels, np.ndarray) and pixels.shape[1:] == (PIXELS,),
        f"{file}: data must be an array of bytes, {PIXELS} in a row; {_AGAIN}",
    )
    assert pixels is not None  # For the type checker.
    for key in keys[1:]:
        found = batch[key]
        require(
            isinstance(found, list) and len(found) == len(pixels),
            f"{file}: {key.decode()} must be a list of {len(pixels)}, one for each"
            f" row of data; {_AGAIN}",
        )
        for record, label in enumerate(found, 1):
            require(
                type(label) is int and abs(label) < 2**31,
                f"{file}, record {record}: a label must be a small integer; got"
                f" {str(label)[:50]!r}; {_AGAIN}",
            )
    return pixels, np.array([batch[key] for key in keys[1:]], np.int64).T


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any = None, *_: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass  # The state is byte order and fields, which single bytes do not have.


class _Array:
    """Stands in for numpy.ndarray and accepts only bytes in C order."""

    values: np.ndarray

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, content = state
        if (
            dtype.code not in (b"u1", "u1")
            or fortran_order
            or type(content) is not bytes
        ):
            raise ValueError("an array that is not of bytes, row by row")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array without a proper shape")
        if math.prod(shape) != len(content):
            raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


def _encode(text: Any, coding: Any) -> bytes:
    """Stands in for ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
    if type(text) is not str or coding != "latin1":
        raise ValueError("a text that does not stand for bytes")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Loads only plain Python objects and arrays of bytes: pickles can run any code.

    It does not even use NumPy's own classes, whose constructors trust their arguments.
    """

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; original files do not"
            )
        return self.KNOWN[module, name]


# --------------------------------------------------------------------- statistics


def statistics(data: Images) -> str:
    """Compares the sizes of a data set with the official sizes.

    Args:
        data: The data set.

    Returns:
        A Markdown table.
    """
    rows = []
    for what, size in zip(("train", "test"), OFFICIAL, strict=True):
        labels = getattr(data, what).labels
        found = np.bincount(labels, minlength=data.num_classes)
        difference = f"{len(labels) - size:+,}" if len(labels) != size else "none"
        per_class = f"{found.min():,} to {found.max():,}"
        rows.append([what, f"{len(labels):,}", f"{size:,}", difference, per_class])
    header = [data.name, "images here", "official", "difference", "in each class"]
    return markdown.table(header, rows)
