# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Bounded weight norm (Hoffer et al. 2018)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._guards import root
from lawn_optax._switch import PhaseState
from lawn_optax._types import AxisName, Groups
from lawn_optax.baselines._reparametrized import (
    Radius,
    bound_leaves,
    reparametrized,
    to_spheres,
)
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import resolve


class BoundedState(NamedTuple):
    """State of the transformation returned by `bounded_weight_norm`."""

    phase: PhaseState
    norms: jax.Array  # float32[channels] (float64 with x64 leaves); 0 where free
    fingerprint: jax.Array  # int32[]; identifies the groups
    trained: Any  # v, like the parameters, which `inner` trains; 0 before it begins
    inner_state: optax.OptState


# The root mean square of the channels' norms.
_RADIUS = Radius(
    lambda squares: jnp.full_like(squares, root(jnp.sum(squares) / squares.size))
)


def bounded_init(
    params: optax.Params,
    *,
    groups: Groups | None = None,
    axis_name: AxisName = None,
) -> optax.Params:
    """Scales each channel's weights to the norm that bounded weight norm gives it.

    The first update of `bounded_weight_norm` does the same, but then its gradient was
    taken at weights that were not normalised yet.

    Args:
      params: The initial parameters.
      groups: Weights that share one norm; see `bounded_weight_norm`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      The parameters with every channel of a kernel on its sphere.

    Raises:
      ValueError: If no leaf has channels or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "bias": jnp.ones(2)}
      >>> params = lawn.baselines.bounded_init(params)
      >>> print(jnp.linalg.norm(params["kernel"], axis=0).round(4))  # sqrt(26 / 2)
      [3.6056 3.6056]

    References:
      Hoffer et al. 2018, arXiv:1803.01814, bounded weight normalization.
    """
    grouping, weights = resolve(_channels(groups), params), jax.tree.leaves(params)
    axes = geometry.reduction_axes(axis_name, params, weights)
    squares = geometry.inner_products(grouping, weights, weights, axes)
    radii = _RADIUS.at_start(grouping, squares, weights)
    active = [radius > 0 for radius in radii]
    moved = to_spheres(grouping, weights, weights, radii, active, axes)
    for i in bound_leaves(grouping):
        weights[i] = optax.apply_updates(weights[i], moved[i])
    return grouping.treedef.unflatten(weights)


def bounded_weight_norm(
    inner: optax.GradientTransformation,
    *,
    groups: Groups | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Bounded weight norm of Hoffer et al. around any optimizer.

    The weights of output channel i of a kernel with N channels are a function of
    unconstrained v, which `inner` trains::

        w_i = rho v_i / |v_i|        rho = |V| / sqrt(N), V the v before training

    At the first update v is the present parameters, and rho is read from them. As in
    the paper, norms are fixed from the start, v keeps the length that training gives it
    (which makes later steps of SGD smaller), and weight decay of `inner` acts on v.

    Args:
      inner: The whole optimizer, learning rate included; it sees v as `params`. An
        optimizer with a line search would evaluate its function at v, which is wrong.
      groups: Weights that share one norm. By default each output unit of each leaf of
        two axes or more, ``only_matrices("neuron")``; biases and other vectors are
        free. An embedding table is a kernel for one-hot inputs, so its channels are its
        columns; `lawn_optax.groups.neuron` chooses other axes.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`. Extra arguments reach `inner`. A
      channel that is zero or not finite at the first update is free. A transformation
      behind it must not change updates, because the weights are a function of v.

    Raises:
      ValueError: In `init`, if no leaf has channels or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.baselines.bounded_weight_norm(optax.adam(0.1))
      >>> params = {"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.zeros(1)}
      >>> params = lawn.baselines.bounded_init(params)
      >>> grads = {"kernel": jnp.array([[1.0], [0.0]]), "bias": jnp.ones(1)}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(round(float(jnp.linalg.norm(params["kernel"])), 5), params["bias"])
      5.0 [-0.1]

    References:
      Hoffer et al. 2018, arXiv:1803.01814, bounded weight normalization; compared in
      Gupta et al. 2021, arXiv:2108.05839, Table 2.
    """
    return reparametrized(
        "bounded_weight_norm",
        inner,
        0,
        _RADIUS,
        BoundedState,
        groups=_channels(groups),
        reset=None,
        axis_name=axis_name,
    )


def _channels(groups: Groups | None) -> Groups:
    return only_matrices("neuron") if groups is None else groups
