"""Flax Linen models that the training scripts share."""

from models.mlp import MLP as MLP
from models.ncf import INITIALIZATIONS as INITIALIZATIONS
from models.ncf import NCF as NCF
from models.ncf import TOWERS as TOWERS
