# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Margins, calibration and ranking metrics, as pure functions of scores.

All work under `jit` and `vmap` and accumulate in float32, or in float64 for float64
scores. Margins, hit ratio and NDCG are returned for each example or row: take the mean
yourself, with weights for a padded batch. Quantiles, calibration error and AUC need all
examples of the set at once: a mean over batches is not their value.
"""

from lawn_optax.metrics._calibration import expected_calibration_error
from lawn_optax.metrics._margins import (
    binary_margin,
    l2_margin,
    margin_quantiles,
    multiclass_margin,
    normalized_margin,
    smoothed_normalized_margin,
)
from lawn_optax.metrics._ranking import auc, hit_ratio, ndcg

__all__ = [
    "auc",
    "binary_margin",
    "expected_calibration_error",
    "hit_ratio",
    "l2_margin",
    "margin_quantiles",
    "multiclass_margin",
    "ndcg",
    "normalized_margin",
    "smoothed_normalized_margin",
]
