"""CIFAR-10 and CIFAR-100 through TensorFlow Datasets, without TensorFlow.

The builders of these data sets in TensorFlow Datasets need TensorFlow.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from train import tfds_download
from train.images import cifar_files
from train.images.cifar_files import (
    SIDE,
    SOURCES,
    Images,
    Part,
)


class SmallImages(tfds.core.GeneratorBasedBuilder):
    """Images of 32x32 pixels, each with a label, in the order of the files."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SOURCES]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(
                shape=(SIDE, SIDE, 3), dtype=np.uint8, encoding="bytes"
            ),
            "label": np.int32,
        }
        return tfds_download.info(self, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        name = str(self.builder_config_name)
        images = _read(name, Path(dl_manager.download(SOURCES[name].url)))
        return {
            "train": self._generate_examples(images.train),
            "test": self._generate_examples(images.test),
        }

    def _generate_examples(self, part: Part) -> Iterator[tuple[int, dict]]:
        for i, (image, label) in enumerate(zip(*part, strict=True)):
            yield i, {"image": image, "label": label}


def _read(name: str, path: Path) -> Images:
    """Reads the archive; TensorFlow Datasets has verified its checksum."""
    form = SOURCES[name].binary
    with tarfile.open(path, "r:gz") as archive:

        def load_bytes(file: str) -> bytes:
            content = archive.extractfile(f"{form.folder}/{file}")
            assert content is not None  # It is a file.
            return content.read()

        return cifar_files.read(name, form, load_bytes)


def load(name: str) -> Images:
    """Reads a data set; downloads and prepares it the first time.

    Args:
        name: One of `cifar_files.SOURCES`.

    Returns:
        The images, in the order of the files.

    Raises:
        InputError: If the download fails, or the archive is not the original one.
    """
    builder = cast(Any, SmallImages(config=name))  # Decorators hide its types.
    source = SOURCES[name]
    tfds_download.prepare(
        builder, name, source.url, f"{source.binary.folder} or {source.pickled.folder}"
    )
    parts = []
    for split in ("train", "test"):
        stored = builder.as_data_source(split)
        examples = stored.__getitems__(range(len(stored)))
        images = np.stack([example["image"] for example in examples])
        labels = np.array([example["label"] for example in examples], np.int32)
        parts.append(Part(images, labels))
    return Images(name, source.classes, *parts)
