"""MovieLens and Pinterest ratings through TensorFlow Datasets, without TensorFlow."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from train import tfds_download
from train.errors import InputError
from train.recommenders import rating_files
from train.recommenders.rating_files import (
    NEGATIVES,
    SOURCES,
    Ratings,
)


class ImplicitFeedback(tfds.core.GeneratorBasedBuilder):
    """Ratings of movies and pins; one example is one user."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SOURCES]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "user": np.int64,
            # Item, rating and time, in the order of the file.
            "interactions": tfds.features.Tensor(shape=(None, 3), dtype=np.int64),
            # Test item and 99 others; empty where the files are not split.
            "candidates": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }
        return tfds_download.info(self, features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        name = str(self.builder_config_name)
        urls = SOURCES[name].urls
        paths = dict(zip(urls, dl_manager.download(list(urls)), strict=True))
        try:
            ratings = _read(name, paths)
        except InputError:  # Without the .INFO files the next attempt downloads again.
            for path in paths.values():
                path.with_name(f"{path.name}.INFO").unlink()
            raise
        return {"train": self._generate_examples(ratings)}

    def _generate_examples(self, ratings: Ratings) -> Iterator[tuple[int, dict]]:
        rows = ratings.rows[np.argsort(ratings.rows[:, 0], kind="stable")]
        users, starts = np.unique(rows[:, 0], return_index=True)
        for i, own in enumerate(np.split(rows[:, 1:], starts[1:])):
            others = [] if ratings.candidates is None else ratings.candidates[i]
            yield (
                i,
                {
                    "user": users[i],
                    "interactions": own,
                    "candidates": np.asarray(others, np.int64),
                },
            )


def _read(name: str, paths: Mapping[str, Path]) -> Ratings:
    """Reads the downloaded files, whose paths are given by address."""
    if SOURCES[name].is_split:
        by_name = {url.rpartition("/")[2]: path for url, path in paths.items()}
        return rating_files.read(name, lambda file: Path(by_name[file]).read_bytes())
    (path,) = paths.values()
    with zipfile.ZipFile(path) as archive:
        return rating_files.read(name, lambda file: archive.read(f"{name}/{file}"))


def load(name: str) -> Ratings:
    """Reads a data set; downloads and prepares it the first time.

    Args:
        name: One of `rating_files.SOURCES`.

    Returns:
        The ratings, sorted by user; those of a user are in the order of the file.

    Raises:
        InputError: If the download fails, or a file is malformed.
    """
    builder = cast(Any, ImplicitFeedback(config=name))  # Decorators hide its types.
    known = SOURCES[name]
    tfds_download.prepare(builder, name, known.urls[0], ", ".join(known.files))
    source = builder.as_data_source("train")
    examples = source.__getitems__(range(len(source)))
    rows = [
        np.insert(example["interactions"], 0, example["user"], axis=1)
        for example in examples
    ]
    candidates = np.stack([example["candidates"] for example in examples])
    split = candidates.shape[1] == 1 + NEGATIVES
    return Ratings(np.concatenate(rows), candidates if split else None)
