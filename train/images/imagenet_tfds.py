"""ImageNet 2012 through TensorFlow Datasets, without TensorFlow.

The archives need a registration, so nobody can download them for the user. The builder
of the same name that comes with TensorFlow Datasets needs TensorFlow; its lists of
classes and of validation labels are read.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from train import InputError, require
from train.images.photo_files import Photo, PhotoSet

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
_LISTS = "datasets/imagenet2012"


class ImagenetPhotos(tfds.core.GeneratorBasedBuilder):
    """Photographs as they are in the archives of ILSVRC 2012."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The two archives from image-net.org."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": np.int32,
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

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
    """An archive with an archive of each class."""
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
    """An archive of files; their labels are listed in the order of their names."""
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
    """Photographs of one part, as prepared."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Photo:
        example = self._source[index]
        name = example["name"]
        name = name.decode() if isinstance(name, bytes) else str(name)
        return Photo(example["image"], int(example["label"]), name)


def load() -> PhotoSet:
    """Prepares ImageNet unless it is there.

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
            f"{folder} lacks {' and '.join(absent)}; put both archives there, which"
            " image-net.org gives after a registration, or give --data-dir a folder"
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
