# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules of the LAWN papers, and exponential ones.

Every schedule maps the number of updates done so far (0 for the first update)
to a rate in JAX's default float type: float32, or float64 under `jax_enable_x64`
(Optax's own schedules stay in float32 there).

A phase of `n` updates rises through ``peak * (1/n, 2/n, ..., n/n)`` or falls through
``peak * (n/n, ..., 2/n, 1/n)``. So no update is wasted on a rate of zero, and the rate
is zero only from `total_steps` on, when the schedule is over.

On scale-invariant losses, exponentially growing rates can replace weight decay (Li and
Arora 2019). `exponential_equivalent` gives the exact rates for any schedule;
`tapered_exponential` and `exponential_cosine` are special forms. The optimizers
`rescaled_sgd` and `plateau_sgd` keep the weights in range at such rates.
`decay_in_equilibrium` lets rate and weight decay fall together.
"""

from lawn_optax.schedules._equilibrium import decay_in_equilibrium
from lawn_optax.schedules._exponential import (
    ExponentialRates,
    exponential_cosine,
    exponential_equivalent,
)
from lawn_optax.schedules._growing_sgd import (
    PlateauState,
    RescaledState,
    plateau_sgd,
    rescaled_sgd,
)
from lawn_optax.schedules._phases import (
    epochs_to_steps,
    three_phase,
    three_phase_epochs,
    two_phase,
    two_phase_epochs,
)
from lawn_optax.schedules._tapered import (
    growth_exponent,
    tapered_bound,
    tapered_exponential,
)

__all__ = [
    "ExponentialRates",
    "PlateauState",
    "RescaledState",
    "decay_in_equilibrium",
    "epochs_to_steps",
    "exponential_cosine",
    "exponential_equivalent",
    "growth_exponent",
    "plateau_sgd",
    "rescaled_sgd",
    "tapered_bound",
    "tapered_exponential",
    "three_phase",
    "three_phase_epochs",
    "two_phase",
    "two_phase_epochs",
]
