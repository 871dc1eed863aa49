# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""What a step does to each group, and how flat the loss has become.

All functions are pure and work under `jit`, `scan` and `vmap`. Measurements of
parameters are one vector with one entry per norm, in the order of `describe`; `by_name`
splits it. Other functions give what spherical motion dynamics predict for
scale-invariant weights: the angle per update in equilibrium, and the time to reach it.

Loss flattening is measured by the share of examples with large margins, the noise of
the gradient, the largest eigenvalue of the Hessian and the condition for escape from a
minimum. Their memory does not grow with the number of examples or iterations, and a
sample of the training data is enough; margins themselves are in `metrics`.
"""

from lawn_optax.diagnostics._curvature import (
    escape_growth,
    hessian_noise,
    top_hessian_eigenvalue,
)
from lawn_optax.diagnostics._equilibrium import (
    adamw_equilibrium_angle,
    adamw_equilibrium_time,
    effective_learning_rate,
    sgd_equilibrium_angle,
    sgd_equilibrium_time,
)
from lawn_optax.diagnostics._flattening import (
    GradientNoise,
    flattened_share,
    gradient_noise,
)
from lawn_optax.diagnostics._lanczos import Eigenvalue
from lawn_optax.diagnostics._step import (
    ObserveState,
    angular_update,
    by_name,
    group_norms,
    observe,
    radial_fraction,
)

__all__ = [
    "Eigenvalue",
    "GradientNoise",
    "ObserveState",
    "adamw_equilibrium_angle",
    "adamw_equilibrium_time",
    "angular_update",
    "by_name",
    "effective_learning_rate",
    "escape_growth",
    "flattened_share",
    "gradient_noise",
    "group_norms",
    "hessian_noise",
    "observe",
    "radial_fraction",
    "sgd_equilibrium_angle",
    "sgd_equilibrium_time",
    "top_hessian_eigenvalue",
]
