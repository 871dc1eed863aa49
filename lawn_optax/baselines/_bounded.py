# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Bounded weight norm (Hoffer et al. 2018)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._types import Groups, check_params
from lawn_optax.baselines._reparametrized import (
    applied,
    bound_leaves,
    chain_rule,
    to_spheres,
)
from lawn_optax.groups import only_matrices
from lawn_optax.groups._resolve import Grouping, absent, resolve


class BoundedState(NamedTuple):
    """State of the transformation returned by `bounded_weight_norm`."""

    count: jax.Array  # int32[]; updates done so far
    radii: jax.Array  # float32[channels] (float64 with x64 leaves); 0 is free
    v: Any  # like the parameters: what `inner` trains; 0 before the first update
    inner_state: optax.OptState


def bounded_init(params: optax.Params, groups: Groups | None = None) -> optax.Params:
    """Scales each channel's weights to the norm that bounded weight norm gives it.

    The first update of `bounded_weight_norm` does the same, but then the gradient that
    it gets was taken at weights that are not normalised yet.

    Args:
      params: The initial parameters.
      groups: See `bounded_weight_norm`.

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
    grouping, ws = _resolve(groups, params), jax.tree.leaves(params)
    axes = geometry.reduction_axes(None, params, ws)
    radii = _radii(grouping, geometry.inner_products(grouping, ws, ws, axes))
    moved = to_spheres(grouping, ws, ws, radii, _on(radii), axes)
    for i in bound_leaves(grouping):
        ws[i] = optax.apply_updates(ws[i], moved[i])
    return grouping.treedef.unflatten(ws)


def bounded_weight_norm(
    inner: optax.GradientTransformation, *, groups: Groups | None = None
) -> optax.GradientTransformationExtraArgs:
    """Bounded weight norm of Hoffer et al. around any optimizer.

    The weights of output channel i of a kernel with N channels are a function of
    unconstrained v, which ``inner`` trains through it::

        w_i = rho v_i / |v_i|        rho = |V| / sqrt(N), V the v before training

    At the first update v is the parameters as they are, and rho is read. As in the
    paper norms are fixed from the start, each v_i keeps its length as a state (what
    makes later steps of SGD smaller), and weight decay of ``inner`` acts on v.

    Args:
      inner: The whole optimizer, learning rate included; it sees v as ``params``. One
        with a line search would evaluate its function at v, which is wrong.
      groups: What shares one norm. By default each output unit of each leaf of two
        axes or more, ``only_matrices("neuron")``: biases and other vectors are free.
        An embedding table is a kernel for one-hot inputs, so its channels are its
        columns; `lawn_optax.groups.neuron` chooses other axes.

    Returns:
      A transformation whose ``update`` needs ``params``. Extra arguments reach
      ``inner``. A channel that is zero or not finite at the first update is free. Put
      nothing behind it that changes updates: the weights are a function of v.

    Raises:
      ValueError: In ``init``, if no leaf has channels or labels do not fit.

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
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        grouping = _resolve(groups, params)
        return BoundedState(
            jnp.zeros([], jnp.int32),
            jnp.zeros((grouping.num_norms,), grouping.dtype),
            jax.tree.map(jnp.zeros_like, params),
            inner.init(params),
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params, "bounded_weight_norm")
        grouping, first = _resolve(groups, params), state.count == 0
        gs, ws = grouping.flatten(updates, "updates"), jax.tree.leaves(params)
        axes = geometry.reduction_axes(None, params, ws)
        bound = bound_leaves(grouping)
        # Leaves without channels are the parameters, whoever else changes them.
        vs = [
            jnp.where(first, w, v) if i in bound else w
            for i, (w, v) in enumerate(zip(ws, jax.tree.leaves(state.v), strict=True))
        ]
        vv = geometry.inner_products(grouping, vs, vs, axes)
        radii = [
            jnp.where(first, new, held)
            for new, held in zip(
                _radii(grouping, vv), geometry.split(grouping, state.radii), strict=True
            )
        ]
        gv = geometry.inner_products(grouping, gs, vs, axes)
        gs = chain_rule(grouping, gs, vs, gv, vv, radii, _on(radii))
        updates, inner_state = inner.update(
            grouping.treedef.unflatten(gs),
            state.inner_state,
            grouping.treedef.unflatten(vs),
            **extra_args,
        )
        us = grouping.flatten(updates, "updates of the inner optimizer")
        vs = [v if absent(u) else applied(v, u) for v, u in zip(vs, us, strict=True)]
        moved = to_spheres(grouping, vs, ws, radii, _on(radii), axes)
        us = [
            moved[i].astype(u.dtype) if i in bound and not absent(u) else u
            for i, u in enumerate(us)
        ]
        return grouping.treedef.unflatten(us), BoundedState(
            jnp.asarray(optax.safe_increment(state.count)),
            geometry.join(radii, grouping.dtype),
            grouping.treedef.unflatten(vs),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _resolve(groups: Groups | None, params: Any) -> Grouping:
    return resolve(only_matrices("neuron") if groups is None else groups, params)


def _radii(grouping: Grouping, squares: Sequence[jax.Array]) -> list[jax.Array]:
    """The root mean square of a block's norms, 0 for channels without direction."""
    radii = []
    for block, square in zip(grouping.blocks, squares, strict=True):
        rho = jnp.sqrt(jnp.sum(square) / block.size)
        usable = geometry.has_norm(square) & jnp.isfinite(rho)
        radii.append(jnp.where(usable, rho, 0))
    return radii


def _on(radii: Sequence[jax.Array]) -> list[jax.Array]:
    return [radius > 0 for radius in radii]
