"""Texts as bytes, split into training text and held-out text.

The default needs no download: it is the source of Python's standard library on this
machine. Files are ordered by a hash of their path, and the last ones of at least a
tenth of the bytes are held out. A single file is cut at nine tenths, as nanoGPT does.
"""

import dataclasses
import functools
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from train import InputError, require

DATASETS = ("python", "tiny-shakespeare", "files")
SHAKESPEARE = "input.txt"
END = b"\0"  # Between two files.
# Tests are as long as the library itself, and _sysconfigdata has paths of the machine.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as it is trained on.

    Attributes:
        name: One of `DATASETS`.
        train: Training text, uint8[n].
        test: Held-out text, uint8[m].
        files: Number of files that each of them is from; equal to (1, 1) for a file
            that was cut.
        origin: What the text is, in words.
        sha256: Hash of all files, in their order, with `END` between them.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    files: tuple[int, int]
    origin: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of a text, in the order in which they are split.

    Attributes:
        contents: Content of each file.
        origin: What they are, in words.
    """

    contents: tuple[bytes, ...]
    origin: str

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(END.join(self.contents)).hexdigest()


def load(name: str, data_dir: Path | None = None, *, validation: bool = False) -> Text:
    """Reads a text and splits it.

    Args:
        name: One of `DATASETS`.
        data_dir: Folder with the files; None for the standard library, and to download
            ``tiny-shakespeare`` once through TensorFlow Datasets.
        validation: Whether the held-out text is the tenth before the usual one, which
            is then not used at all.

    Raises:
        InputError: If files are missing, empty or cannot be read, or a download fails.
    """
    files = read(name, data_dir)
    contents = files.contents
    cut = _cut if len(contents) == 1 else _held_out
    train, test = cut(contents, 0.1)
    if validation:  # A tenth of the whole is a ninth of the rest.
        train, test = cut(train, 1 / 9)
    require(
        bool(train) and bool(test),
        f"{files.origin}: too few files to hold one out; it needs at least"
        f" {3 if validation else 2}, or a single one, which is cut",
    )
    return Text(
        name=name,
        train=np.frombuffer(END.join(train), np.uint8),
        test=np.frombuffer(END.join(test), np.uint8),
        files=(len(train), len(test)),
        origin=files.origin,
        sha256=files.sha256,
    )


@functools.lru_cache(maxsize=4)
def read(name: str, data_dir: Path | None = None) -> Files:
    """Reads the files of a text; see `load`."""
    require(
        name in DATASETS, f"no data set {name!r}; choose from: {', '.join(DATASETS)}"
    )
    if name == "python":
        require(data_dir is None, "--dataset python takes no --data-dir")
        root = Path(sysconfig.get_path("stdlib"))
        paths = [p for p in root.rglob("*.py") if _is_library(p.relative_to(root))]
        version = f"Python {platform.python_version()}"
        return _read_all(root, paths, f"the standard library of {version}")
    if name == "tiny-shakespeare":
        if data_dir is None:
            # It imports TensorFlow Datasets, which local files do not need.
            from train.language import text_tfds

            return Files((text_tfds.load(),), "tiny-shakespeare")
        path = data_dir / SHAKESPEARE
        if not path.is_file():
            path = data_dir / name / SHAKESPEARE
        require(path.is_file(), f"no {SHAKESPEARE} in {data_dir}; check --data-dir")
        return _read_all(path.parent, [path], "tiny-shakespeare")
    if data_dir is None:
        raise InputError("--dataset files needs --data-dir FOLDER, with text files")
    require(data_dir.is_dir(), f"no folder {data_dir}; check --data-dir")
    paths = [
        path
        for path in data_dir.rglob("*")
        if path.is_file() and not _hidden(path.relative_to(data_dir))
    ]
    # Results among the texts would change the text of the run that writes them.
    ours = {folder for folder in {path.parent for path in paths} if _is_run(folder)}
    paths = [path for path in paths if ours.isdisjoint(path.parents)]
    require(bool(paths), f"no files in {data_dir}; check --data-dir")
    return _read_all(data_dir, paths, "files of --data-dir")


def sha256(name: str, data_dir: Path | None = None) -> str | None:
    """The hash of a text; None if it cannot be read, which `load` says why."""
    try:
        return read(name, data_dir).sha256
    except InputError:
        return None


def _is_library(path: Path) -> bool:
    left_out = _LEFT_OUT.intersection(path.parts)
    return not left_out and not path.name.startswith("_sysconfigdata")


def _is_run(folder: Path) -> bool:
    """Whether a folder holds the results of a command."""
    record = folder / "config.json"
    return record.is_file() and b'"config"' in record.read_bytes()[:100]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_all(root: Path, paths: Iterable[Path], origin: str) -> Files:
    """The files that are not empty, by a hash of their path below `root`."""

    def order(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(path.relative_to(root).as_posix())).digest()

    try:
        contents = [path.read_bytes() for path in sorted(paths, key=order)]
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename} ({error.strerror}); check --data-dir"
        ) from None
    contents = tuple(content for content in contents if content)
    require(bool(contents), f"{origin}: all files are empty; check --data-dir")
    return Files(contents, origin)


def _held_out(
    contents: Sequence[bytes], share: float
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Splits off the last files that have together at least a share of the bytes."""
    sizes = np.array([len(content) for content in contents])
    after = np.cumsum(sizes[::-1])
    count = int(np.searchsorted(after, share * after[-1])) + 1
    return contents[:-count], contents[-count:]


def _cut(
    contents: Sequence[bytes], share: float
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Cuts a single file in two; the second part has a share of the bytes."""
    (content,) = contents
    place = int((1 - share) * len(content))
    return (content[:place],), (content[place:],)


def statistics(text: Text) -> str:
    """The sizes of a text in one line."""
    train, test = (f"{len(part):,}" for part in (text.train, text.test))
    from_files = ""
    if sum(text.files) > 2:
        from_files = f" ({text.files[0]:,} and {text.files[1]:,} files)"
    return (
        f"{text.name}: {text.origin}, {train} bytes for training, {test} held out"
        f"{from_files}, SHA-256 {text.sha256[:12]}"
    )
