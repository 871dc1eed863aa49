# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Other ways to control weight norms, as Optax transformations to compare with."""

from lawn_optax.baselines._adamp import ProjectedState, adamp, sgdp
from lawn_optax.baselines._bounded import (
    BoundedState,
    bounded_init,
    bounded_weight_norm,
)
from lawn_optax.baselines._halpern import HalpernState, halpern, nmgd
from lawn_optax.baselines._hyperball import hyperball
from lawn_optax.baselines._reparametrized import (
    Polar,
    ReparametrizedState,
    reparametrize,
)
from lawn_optax.baselines._unit_norm import unit_norm
from lawn_optax.baselines._weight_norm_control import weight_norm_control
from lawn_optax.baselines._weight_normalization import (
    WeightNormalizationState,
    weight_normalization,
)

__all__ = [
    "BoundedState",
    "HalpernState",
    "Polar",
    "ProjectedState",
    "ReparametrizedState",
    "WeightNormalizationState",
    "adamp",
    "bounded_init",
    "bounded_weight_norm",
    "halpern",
    "hyperball",
    "nmgd",
    "reparametrize",
    "sgdp",
    "unit_norm",
    "weight_norm_control",
    "weight_normalization",
]
