# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The noisy Rayleigh quotient: a normalised model whose training can be predicted.

The loss is ``x' A x / (2 x' x)``. Its gradient is noisy, is orthogonal to x and shrinks
as ``1/|x|``, like that of a layer before batch normalisation: this is the smallest
model with these properties. `simulate` trains it with any optimizer, thousands of
trials at once; the other functions predict the result for SGD with weight decay, eq. 3
of the paper::

    optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))

A is diagonal, with its eigenvalues in ascending order (Assumption 1; a rotation of the
coordinates gives every A this form). Predictions are those of the stochastic
differential equation, in which a unit of time is one update, to first order in
``learning_rate * weight_decay``. In the paper's equations, M must be the squared norm
of x, though it is called the norm. Where the paper misprints constants, the docstring
says which.

The alignment f of a trial is the squared first coordinate of ``x/|x|``, 1 at an
optimum; the risk is 1 minus its mean over trials.
"""

from lawn_optax.nrq._motion import (
    alignment_sde,
    angular_update,
    equilibrium_norm,
    equivalent,
    loss_bounds,
    norm,
    quadratic_risk,
    step_angle,
)
from lawn_optax.nrq._risk import (
    EquilibriumBounds,
    equilibrium_bounds,
    escape_norm,
    risk_bounds,
)
from lawn_optax.nrq._simulate import (
    Trajectory,
    euler_maruyama,
    gradient,
    loss,
    quadratic_gradient,
    quadratic_loss,
    simulate,
)
from lawn_optax.nrq._stationary import (
    relaxation_rate,
    stationary_log_density,
    stationary_mode,
    stationary_risk,
    stationary_tail,
)

__all__ = [
    "EquilibriumBounds",
    "Trajectory",
    "alignment_sde",
    "angular_update",
    "equilibrium_bounds",
    "equilibrium_norm",
    "equivalent",
    "escape_norm",
    "euler_maruyama",
    "gradient",
    "loss",
    "loss_bounds",
    "norm",
    "quadratic_gradient",
    "quadratic_loss",
    "quadratic_risk",
    "relaxation_rate",
    "risk_bounds",
    "simulate",
    "stationary_log_density",
    "stationary_mode",
    "stationary_risk",
    "stationary_tail",
    "step_angle",
]
