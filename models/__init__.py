"""Flax Linen models that the training scripts share."""

from models.mlp import MLP as MLP
