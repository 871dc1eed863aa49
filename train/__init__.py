"""Training scripts, run from the repository root with ``python -m train NAME``."""

from train.errors import InputError as InputError
from train.errors import require as require
