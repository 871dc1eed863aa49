"""A folder of photographs in the layout of ImageNet: ``train/CLASS``, ``val/CLASS``."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from train import InputError, require
from train.images import decoding

PARTS = ("train", "val")
ENDINGS = (".jpeg", ".jpg", ".png")  # In any case; other files are ignored.
_CHECKED = 10_000  # Most files of a part whose headers are read before training.


class Photo(NamedTuple):
    """One photograph, not yet decoded."""

    content: bytes
    label: int
    name: str  # Name of the file, for errors.


class Photos(Protocol):
    """Photographs by number. Workers receive a copy, so they must support pickling."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Photo: ...

    def path(self, index: int) -> Path | None:
        """Path of the file; None where it is in an archive."""


class PhotoSet(NamedTuple):
    """A data set of photographs."""

    classes: tuple[str, ...]  # A label is an index into it.
    train: Photos
    val: Photos
    ignored: str = ""  # The files that were passed over, in words.


class FilePhotos:
    """The files of one part, sorted by class and then by name.

    The names are an array: a list of a million paths would take five times the memory,
    in every worker.

    Args:
        folder: Folder of the part.
        classes: Names of its folders.
        ignored: Counts of the files that are passed over, by ending; this adds to them.
    """

    def __init__(self, folder: Path, classes: Sequence[str], ignored: Counter[str]):
        names = [_files(folder / name, ignored) for name in classes]
        self._folder, self._classes = folder, tuple(classes)
        self._names = np.concatenate(names)
        self.labels = np.repeat(
            np.arange(len(classes), dtype=np.int32), [len(own) for own in names]
        )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Photo:
        path = self.path(index)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror})") from None
        return Photo(content, int(self.labels[index]), str(path))

    def path(self, index: int) -> Path:
        """Path of the file with this number."""
        name = os.fsdecode(self._names[index])
        return self._folder / self._classes[self.labels[index]] / name


class PhotoSubset:
    """Some photographs of one part, followed by some of other parts; for workers.

    Args:
        *parts: Pairs of photographs and the numbers of those to take.
    """

    def __init__(self, *parts: tuple[Photos, np.ndarray]):
        self._photos = [photos for photos, _ in parts]
        self._rows = [rows for _, rows in parts]

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def __getitem__(self, index: int) -> Photo:
        photos, row = self._find(index)
        return photos[row]

    def path(self, index: int) -> Path | None:
        """Path of the file with this number."""
        photos, row = self._find(index)
        return photos.path(row)

    def _find(self, index: int) -> tuple[Photos, int]:
        for photos, rows in zip(self._photos, self._rows, strict=True):
            if index < len(rows):
                return photos, int(rows[index])
            index -= len(rows)
        raise IndexError(index)


def hold_out(photos: PhotoSet, count: int, seed: int) -> PhotoSet:
    """Splits the training photographs into a training and a validation part.

    Args:
        photos: The data set. Its own validation part is left out.
        count: Number of photographs in the validation part.
        seed: Seed of the random choice.

    Raises:
        InputError: If no training photographs would be left.
    """
    total = len(photos.train)
    require(
        count < total,
        f"--validation needs more than {count:,} training images; got {total:,}",
    )
    order = np.random.default_rng(seed).permutation(total)
    held, kept = order[:count], np.sort(order[count:])
    train, val = (PhotoSubset((photos.train, rows)) for rows in (kept, held))
    return photos._replace(train=train, val=val)


def sample(photos: PhotoSet, count: int, seed: int) -> PhotoSet:
    """Draws at most `count` photographs to train on, and as many to test on."""
    rng = np.random.default_rng(seed)
    train, val = (
        PhotoSubset((part, np.sort(rng.permutation(len(part))[:count])))
        for part in (photos.train, photos.val)
    )
    return photos._replace(train=train, val=val)


def statistics(photos: PhotoSet) -> str:
    """The sizes of a data set, and what was ignored."""
    return (
        f"{len(photos.classes):,} classes, {len(photos.train):,} training photographs,"
        f" {len(photos.val):,} others{photos.ignored and f'. {photos.ignored}'}"
    )


def check(photos: PhotoSet) -> None:
    """Reads the headers of the files before a training meets them.

    In a part with very many files, it reads some of them, evenly spaced.

    Raises:
        InputError: If a file cannot be read or is no image.
    """
    for part in (photos.train, photos.val):
        count = min(_CHECKED, len(part))
        for index in np.linspace(0, len(part) - 1, count).astype(int):
            path = part.path(int(index))
            if path is not None:
                decoding.check_header(path)


def list_folder(data_dir: Path) -> PhotoSet:
    """Lists the photographs of a folder.

    Args:
        data_dir: Folder with ``train`` and ``val``, each of which has one folder for
            each class, or the folder around it.

    Returns:
        The photographs. Classes are sorted by name, and so are the files of a class.

    Raises:
        InputError: If something is missing, or the two parts differ in their classes.
    """
    try:
        root = _find(data_dir)
        classes = [_folders(root / part) for part in PARTS]
        for part, own, others in zip(PARTS, classes, reversed(classes), strict=True):
            absent = sorted(set(others) - set(own))
            require(
                not absent,
                f"{root / part} lacks the class {', '.join(absent[:3])}"
                f"{', ...' if absent[3:] else ''}, which the other part has; each class"
                " needs a folder of that name in both",
            )
        require(
            len(classes[0]) > 1,
            f"{root} has one class ({classes[0][0]}); a classifier needs a folder for"
            " each of two or more",
        )
        ignored: Counter[str] = Counter()
        train, val = (FilePhotos(root / part, classes[0], ignored) for part in PARTS)
    except OSError as error:
        raise InputError(
            f"cannot read {error.filename} ({error.strerror}); check --data-dir"
        ) from None
    return PhotoSet(tuple(classes[0]), train, val, _in_words(ignored))


def _in_words(ignored: Counter[str]) -> str:
    """The files that were passed over, and why; empty if there were none."""
    if not ignored:
        return ""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ignored.most_common(5))
    return (
        f"Ignored {ignored.total():,} files ({kinds}): only {', '.join(ENDINGS)} are"
        " read"
    )


def _find(data_dir: Path) -> Path:
    """`data_dir` itself, or the only folder in it with both parts."""
    require(data_dir.is_dir(), f"--data-dir {data_dir} is not a folder")
    folders = [path for path in sorted(data_dir.iterdir()) if path.is_dir()]
    for candidates in ([data_dir], folders):
        found = [path for path in candidates if all((path / p).is_dir() for p in PARTS)]
        if len(found) == 1:
            return found[0]
        require(
            not found,
            f"{data_dir} has several folders with {' and '.join(PARTS)}:"
            f" {', '.join(path.name for path in found)}; give --data-dir one of them",
        )
    absent = [part for part in PARTS if not (data_dir / part).is_dir()]
    raise InputError(
        f"{data_dir} lacks {' and '.join(absent)}; --data-dir must be the folder with"
        " train/CLASS/*.JPEG and val/CLASS/*.JPEG, or the folder around it"
    )


def _folders(part: Path) -> list[str]:
    """Names of the classes, sorted."""
    with os.scandir(part) as entries:
        names = [x.name for x in entries if x.is_dir() and not x.name.startswith(".")]
    require(
        bool(names),
        f"{part} has no folders; its images must be in one folder for each class",
    )
    return sorted(names)


def _files(folder: Path, ignored: Counter[str]) -> np.ndarray:
    """Names of the images, sorted; bytes[n]. Counts the other files by ending."""
    names, own = [], Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.name.lower().endswith(ENDINGS):
                own[os.path.splitext(entry.name)[1].lower() or "without ending"] += 1
                continue
            require(
                entry.stat().st_size > 0,
                f"{entry.path} is empty; get the file again, or delete it",
            )
            names.append(os.fsencode(entry.name))
    others = f"; {_in_words(own)}" if own else ""
    require(bool(names), f"{folder} has no image ({', '.join(ENDINGS)}){others}")
    ignored.update(own)
    return np.array(sorted(names))
