"""Downloads data sets with TensorFlow Datasets, without TensorFlow.

Our builders read the archives with the standard library and prepare them as
array_record, because the extraction and the default format of TensorFlow Datasets need
TensorFlow. ``checksums.tsv`` beside a builder has the checksums that TensorFlow
Datasets has for the same archives.
"""

from typing import Any

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from train.errors import InputError

ERRORS = (
    OSError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
)
TIMEOUT = 5  # Seconds for the first answer of the server of a data set.


def info(builder: Any, features: dict[str, Any]) -> tfds.core.DatasetInfo:
    """The result of a builder's `_info`; the examples keep their order.

    Args:
        builder: Builder of TensorFlow Datasets, described by its docstring.
        features: Types of an example's parts, by name.
    """
    return tfds.core.DatasetInfo(
        builder=builder,
        description=builder.__doc__,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
    )


def prepare(builder: Any, name: str, url: str, files: str) -> None:
    """Downloads and prepares a data set, unless that was done before.

    Args:
        builder: Builder of TensorFlow Datasets.
        name: Name of the data set, for the error.
        url: Address of its first file.
        files: Names of the local files that replace a download, for the error.

    Raises:
        InputError: If the download fails.
    """
    try:
        if not builder.data_path.exists():
            # Without this, TensorFlow Datasets retries for minutes in silence.
            requests.get(url, stream=True, timeout=TIMEOUT).close()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format="array_record",
        )
    except ERRORS as error:
        raise InputError(
            f"cannot get {name} from {url} ({type(error).__name__}); without internet"
            f" access, give --data-dir a folder with {files}"
        ) from None
