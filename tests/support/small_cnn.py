"""A network of two convolutions in the place of the CNN of four.

How it trains, is saved and is reported does not depend on the number of its layers.
"""

from contextlib import AbstractContextManager
from functools import partial
from unittest import mock

import models
from train.images import experiment

LAYERS = ("conv1", "norm1", "conv2", "norm2")


def replaced() -> AbstractContextManager:
    """Within this, `--model cnn` is the small one."""
    small = partial(models.CNN, features=(8, 8))
    return mock.patch.dict(experiment.MODELS, cnn=small)
