# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Weight normalisation (Salimans and Kingma 2016)."""

from typing import NamedTuple

import jax
import optax

from lawn_optax._guards import root
from lawn_optax._switch import PhaseState
from lawn_optax._types import AxisName, Groups
from lawn_optax.baselines._reparametrized import Polar, Radius, reparametrized
from lawn_optax.groups import only_matrices


class WeightNormalizationState(NamedTuple):
    """State of the transformation returned by `weight_normalization`.

    It has no `fingerprint`, so that `describe` does not take it for a constraint: its
    norms are free.
    """

    phase: PhaseState
    norms: jax.Array  # float32[num_norms], g before the first update; 0 where free
    trained: Polar  # v and g, which `inner` trains; from the first update on
    inner_state: optax.OptState


def weight_normalization(
    inner: optax.GradientTransformation,
    *,
    groups: Groups | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weight normalisation around any optimizer: ``w = g v / |v|``, with v, g trained.

    The model sees w; `inner` gets the gradients::

        dL/dg = <dL/dw, v> / |v|        dL/dv = (g / |v|) (dL/dw - (dL/dg / |v|) v)

    and trains ``Polar(v, g)`` in place of the parameters. g is one vector with an entry
    per norm (a single leaf for optimizers that look at whole leaves, such as LAMB). At
    the first update v is w and g is its norm. g is trained, so norms are not fixed.

    Args:
      inner: The whole optimizer, learning rate included. Its weight decay acts on v and
        g; masks must have the structure of `Polar`. An optimizer with a line search
        would evaluate its function at the `Polar`, which is wrong.
      groups: Weights that share one g. By default each output unit of each leaf of two
        axes or more, ``only_matrices("neuron")``; other leaves are trained directly.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`. Extra arguments reach `inner`. A
      group that is zero or not finite at the first update is trained directly. A
      transformation behind it must not change updates.

    Raises:
      ValueError: In `init`, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.baselines.weight_normalization(optax.sgd(1.0))
      >>> w = jnp.array([[3.0], [4.0]])
      >>> updates, state = tx.update(jnp.array([[-6.25], [0.0]]), tx.init(w), w)
      >>> print(state.trained.v.ravel(), state.trained.g)  # g: 5 + 6.25 * 3 / 5
      [7. 1.] [8.75]

    References:
      Salimans and Kingma 2016, "Weight Normalization", arXiv:1602.07868, eqs. 2 and 3.
    """

    def make_state(phase, norms, fingerprint, trained, inner_state):
        del fingerprint
        return WeightNormalizationState(phase, norms, trained, inner_state)

    return reparametrized(
        "weight_normalization",
        inner,
        0,
        Radius(root, is_trained=True),
        make_state,
        groups=only_matrices("neuron") if groups is None else groups,
        reset="restart",
        axis_name=axis_name,
    )
