# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Norms and angles of one update, for each group."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._guards import quotient, root
from lawn_optax._states import check_order
from lawn_optax._types import AxisName, Groups, PyTree, check_params
from lawn_optax.groups._resolve import resolve, resolve_reported


class ObserveState(NamedTuple):
    """State of the transformation returned by `observe`: the last update's figures."""

    norms: jax.Array  # float32[num_norms]; of the weights before the update
    radial_fraction: jax.Array  # float32[num_norms]; |cos| between update and weights
    angular_update: jax.Array  # float32[num_norms]; radians


def group_norms(
    params: PyTree, *, groups: Groups = "layer", axis_name: AxisName = None
) -> jax.Array:
    """L2 norm of each group.

    Args:
      params: Parameters as the optimizer gets them; see `lawn_optax.describe`.
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      float32[num_norms] (float64 if a leaf is).

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"dense": {"kernel": jnp.array([[3.0]]), "bias": jnp.array([4.0])}}
      >>> lawn.diagnostics.group_norms(params).tolist()
      [5.0]
    """
    check_order(params, "call `group_norms(params)`")
    resolve_reported(groups, params)  # raises if these are not parameters alone
    _, weight_sq, _ = _sums(params, params, groups, axis_name)
    return root(weight_sq)


def radial_fraction(
    updates: PyTree,
    params: PyTree,
    *,
    groups: Groups = "layer",
    axis_name: AxisName = None,
) -> jax.Array:
    """Share of each group's update along its weights, ``|<u,w>| / (|u| |w|)``.

    Args:
      updates: Gradients or updates, shaped like `params`.
      params: Parameters before the update.
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      float32[num_norms] in [0, 1]; 0 where update or weights are zero.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> w = jnp.array([3.0, 4.0])
      >>> print(lawn.diagnostics.radial_fraction(jnp.array([5.0, 0.0]), w))
      [0.6]
    """
    return _radial_fraction(*_sums(updates, params, groups, axis_name))


def angular_update(
    updates: PyTree,
    params: PyTree,
    *,
    groups: Groups = "layer",
    axis_name: AxisName = None,
) -> jax.Array:
    """Angle between each group's weights before and after the update, in radians.

    Args:
      updates: Updates that will be added to `params`.
      params: Parameters before the update.
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      float32[num_norms] in [0, pi]; 0 where the weights are zero.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> turn = lawn.diagnostics.angular_update(jnp.array([-1.0, 1.0]), jnp.eye(2)[0])
      >>> print(round(float(turn[0]), 4))  # from (1, 0) to (0, 1)
      1.5708

    References:
      Wan et al. 2021, "Spherical Motion Dynamics", arXiv:2006.08419.
    """
    return _angular_update(*_sums(updates, params, groups, axis_name))


def observe(
    groups: Groups = "layer", *, axis_name: AxisName = None
) -> optax.GradientTransformation:
    """Keeps the figures of the last update in the optimizer state; changes no update.

    Put it last in a chain to see what is added to the weights, or first to see the
    gradient. The state's structure never changes, so it works in `scan`; read it with
    ``optax.tree.get(state, "angular_update")``.

    Args:
      groups: Weights that share one norm; see `lawn_optax.wrap`.
      axis_name: Mesh axes over which parameters are sharded; see
        `lawn_optax.project_tangent`.

    Returns:
      A transformation whose `update` needs `params`.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(lawn.adam(0.1), lawn.diagnostics.observe())
      >>> w = jnp.array([3.0, 4.0])
      >>> _, state = tx.update(jnp.array([4.0, -3.0]), tx.init(w), w)
      >>> state[-1].norms.tolist()
      [5.0]
    """

    def init_fn(params):
        grouping = resolve(groups, params)
        zeros = lambda: jnp.zeros((grouping.num_norms,), grouping.dtype)  # noqa: E731
        return ObserveState(zeros(), zeros(), zeros())

    def update_fn(updates, state, params=None):
        del state
        params = check_params(params, "observe")
        sums = _sums(updates, params, groups, axis_name)
        _, weight_sq, _ = sums
        return updates, ObserveState(
            root(weight_sq), _radial_fraction(*sums), _angular_update(*sums)
        )

    return optax.GradientTransformation(init_fn, update_fn)


def by_name(
    values: jax.Array | np.ndarray, params: PyTree, *, groups: Groups = "layer"
) -> dict[str, np.ndarray]:
    """Splits a vector with one entry per norm by the names of the groups.

    Args:
      values: [num_norms], such as a result of this module, outside `jit`.
      params: Parameters; shapes suffice.
      groups: Weights that share one norm, as for `values`.

    Returns:
      A dictionary from group name to a scalar array, or an array with one entry per
      slice.

    Raises:
      ValueError: If `values` has another length.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {"dense": jnp.array([[3.0, 4.0]])}
      >>> norms = lawn.diagnostics.group_norms(params, groups="leaf")
      >>> print(lawn.diagnostics.by_name(norms, params, groups="leaf")["dense"])
      5.0
    """
    array, grouping = np.asarray(values), resolve(groups, params)
    if array.shape != (grouping.num_norms,):
        raise ValueError(
            f"`values` must have one entry per norm, {grouping.num_norms} for these "
            f"`groups`, got the shape {array.shape}."
        )
    return {
        block.name: array[block.start : block.start + block.size].reshape(block.shape)
        for block in grouping.blocks
    }


def _sums(updates, params, groups, axis_name):
    """<u,u>, <w,w> and <u,w> of all groups, each in one vector."""
    grouping = resolve(groups, params)
    leaves, weights = grouping.flatten_moving(updates, params)
    axes = geometry.reduction_axes(axis_name, params, weights)
    return tuple(
        geometry.join(geometry.inner_products(grouping, x, y, axes), grouping.dtype)
        for x, y in ((leaves, leaves), (weights, weights), (leaves, weights))
    )


def moving_norms(updates: PyTree | None, params: PyTree, groups: Groups) -> jax.Array:
    """`group_norms`, without the parameters of which an update is given as None."""
    updates = params if updates is None else updates
    _, weight_sq, _ = _sums(updates, params, groups, None)
    return root(weight_sq)


def turned(updates, params, groups, axis_name):
    """Norms before and after an update, and its angle."""
    update_sq, weight_sq, dot = _sums(updates, params, groups, axis_name)
    after = root(jnp.maximum(weight_sq + 2 * dot + update_sq, 0))
    return root(weight_sq), after, _angular_update(update_sq, weight_sq, dot)


def _radial_fraction(update_sq, weight_sq, dot):
    product = root(update_sq) * root(weight_sq)
    return jnp.minimum(quotient(jnp.abs(dot), product, product > 0), 1)


def _angular_update(update_sq, weight_sq, dot):
    # tan = part across w / part along w: exact for small angles, where acos is not.
    length = root(weight_sq)
    along = quotient(dot, length, weight_sq > 0)
    across = root(jnp.maximum(update_sq - along**2, 0))
    ahead = length + along
    # Weights of 0, before or after the update, have no direction.
    found = (weight_sq > 0) & ~((across == 0) & (ahead == 0))
    turn = jnp.arctan2(jnp.where(found, across, 0), jnp.where(found, ahead, 1))
    return jnp.where(found, turn, 0)
