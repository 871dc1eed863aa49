"""Data sets downloaded and prepared by TensorFlow Datasets, without TensorFlow.

The archives are read with the standard library and prepared as array_record, since the
extraction and the default format of TensorFlow Datasets need TensorFlow. The checksums
beside this file are the ones that TensorFlow Datasets has for the same archives.
"""

from typing import Any

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from train import InputError

ERRORS = (
    OSError,
    tfds.download.DownloadError,
    download_manager.NonMatchingChecksumError,
)
TIMEOUT = 5  # Seconds for an answer from the server, once for each data set.


def prepare(builder: Any, name: str, url: str, files: str) -> None:
    """Downloads and prepares a data set unless it is there.

    Args:
        builder: Of TensorFlow Datasets.
        name: Of the data set, for the error.
        url: Of its first file.
        files: What would do instead, for the error.

    Raises:
        InputError: If the download fails.
    """
    try:
        if not builder.data_path.exists():
            # TensorFlow Datasets would try for minutes, without a word.
            requests.get(url, stream=True, timeout=TIMEOUT).close()
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format="array_record",
        )
    except ERRORS as error:
        raise InputError(
            f"cannot get {name} from {url} ({type(error).__name__}); where there is no"
            f" internet give --data-dir a folder with {files}"
        ) from None
