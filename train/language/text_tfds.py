"""tiny-shakespeare through TensorFlow Datasets, without TensorFlow.

The builder of this data set in TensorFlow Datasets needs TensorFlow, and cuts the text
into three parts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from train import tfds_download

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


class ShakespeareText(tfds.core.GeneratorBasedBuilder):
    """40,000 lines of Shakespeare's plays in one file."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes")
        return tfds_download.info(self, {"text": text})

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        path = Path(dl_manager.download(URL))
        return {"train": self._generate_examples(path.read_bytes())}

    def _generate_examples(self, text: bytes) -> Iterator[tuple[int, dict]]:
        yield 0, {"text": np.frombuffer(text, np.uint8)}


def load() -> bytes:
    """Reads the text; downloads and prepares it the first time.

    Raises:
        InputError: If the download fails, or the file is not the original one.
    """
    builder = cast(Any, ShakespeareText())  # Decorators hide its types.
    tfds_download.prepare(builder, "tiny-shakespeare", URL, URL.rpartition("/")[2])
    (example,) = builder.as_data_source("train").__getitems__([0])
    return np.asarray(example["text"], np.uint8).tobytes()
