"""ImageNet 2012 through TensorFlow Datasets, without TensorFlow.

The archives need a registration, so users must download them themselves. The builder
of TensorFlow Datasets for ImageNet needs TensorFlow; we use only its lists of classes
and of validation labels.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from train import InputError, require, tfds_download
from train.images.photo_files import Photo, PhotoSet

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
_LISTS = "datasets/imagenet2012"


class ImagenetPhotos(tfds.core.GeneratorBasedBuilder):
    """The photographs of the archives of ILSVRC 2012, unchanged."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The two archives from image-net.org."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": np.int32,
            "name": tfds.features.Text(),
        }
        return tfds_download.info(self, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {
            part: self._generate_examples(part, dl_manager.manual_dir / archive)
            for part, archive in ARCHIVES.items()
        }

    def _generate_examples(
        self, part: str, path: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        photos = _train_photos if part == "train" else _val_photos
        for i, photo in enumerate(photos(path)):
            name = f"{path.name}/{photo.name}"
            yield i, {"image": photo.content, "label": photo.label, "name": name}


def _train_photos(path: Path) -> Iterator[Photo]:
    """The photographs of an archive that has one archive for each class."""
    labels = {name: label for label, name in enumerate(_list("labels.txt"))}
    for name, archive in _files(path):
        label = labels.get(name.removesuffix(".tar"))
        if label is None:
            raise InputError(f"{path.name} has {name}, which is no class of ImageNet")
        with tarfile.open(fileobj=archive) as members:
            for member in members:
                content = members.extractfile(member)
                if content is not None:
                    yield Photo(content.read(), label, member.name)


def _val_photos(path: Path) -> Iterator[Photo]:
    """The photographs of an archive of files, whose labels are listed by file name."""
    classes = {name: label for label, name in enumerate(_list("labels.txt"))}
    wanted = _list("validation_labels.txt")
    with tarfile.open(path) as members:
        names = sorted(member.name for member in members if member.isfile())
    require(
        len(names) == len(wanted),
        f"{path.name} has {len(names)} files, not {len(wanted)}; get it again",
    )
    labels = dict(zip(names, wanted, strict=True))
    for name, content in _files(path):
        yield Photo(content.read(), classes[labels[name]], name)


def _files(path: Path) -> Iterator[tuple[str, Any]]:
    with tarfile.open(path) as members:
        for member in members:
            content = members.extractfile(member)
            if content is not None:
                yield member.name, content


def _list(file: str) -> list[str]:
    return tfds.core.tfds_path(f"{_LISTS}/{file}").read_text().split()


class PreparedPhotos:
    """The photographs of one part, read from the prepared data set."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Photo:
        example = self._source[index]
        name = example["name"]
        name = name.decode() if isinstance(name, bytes) else str(name)
        return Photo(example["image"], int(example["label"]), name)

    def path(self, index: int) -> None:
        """There is none: the photographs are in archives."""


def load() -> PhotoSet:
    """Lists the photographs of ImageNet; prepares them the first time.

    Returns:
        The photographs, in the order of the archives.

    Raises:
        InputError: If the archives are not where TensorFlow Datasets looks for them,
            or are malformed.
    """
    builder = cast(Any, ImagenetPhotos())  # Decorators hide its types.
    folder = Path(constants.DATA_DIR).expanduser() / "downloads" / "manual"
    if not builder.data_path.exists():
        absent = [name for name in ARCHIVES.values() if not (folder / name).is_file()]
        require(
            not absent,
            f"{folder} lacks {' and '.join(absent)}; put both archives there"
            " (register at image-net.org to get them), or give --data-dir a folder"
            " with train/CLASS/*.JPEG and val/CLASS/*.JPEG",
        )
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=folder, try_download_gcs=False
            ),
            file_format="array_record",
        )
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            f"cannot prepare ImageNet from the archives in {folder}"
            f" ({str(error).partition(chr(10))[0]}); check them and the free disk space"
        ) from None
    as_bytes = {"image": tfds.decode.SkipDecoding()}
    train, val = (
        PreparedPhotos(builder.as_data_source(part, decoders=as_bytes))
        for part in ARCHIVES
    )
    return PhotoSet(tuple(_list("labels.txt")), train, val)
