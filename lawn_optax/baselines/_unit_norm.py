# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""The four techniques of descent under norm constraints, as retractions of one step.

With x = |u - a w| / c, the length of the tangent step in units of the norm, two of the
techniques turn the weights in the plane of w and the step::

    w <- c A(x) w / |w| + B(x) (u - a w)      |A|^2 + |x B|^2 = 1

each by its own A and B. The other two apply `project_tangent` or `renormalize` to the
step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._constraint import Sphere
from lawn_optax._guards import quotient, root
from lawn_optax._switch import Step
from lawn_optax._transforms import on_sphere
from lawn_optax._types import AxisName, Groups

# x -> (A, B) as above
Turn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def unit_norm(
    method: str = "lagrange",
    *,
    groups: Groups = "layer",
    switch_step: Step = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Changes updates by one of four techniques of descent under norm constraints.

    Each group's norm stays c, read at the first update as in `renormalize`. (To train
    with norm 1, normalise the weights first.) With V = w / c, G = u / c for an update
    u, which is minus the learning rate times the gradient, and t = G - (V'G) V::

        "lagrange"     V <- V + G - k V,   k = 1 + V'G - sqrt(1 - |G|^2 + (V'G)^2)
        "coefficient"  V <- (V + G) / |V + G|
        "tangent"      V <- V + t
        "natural"      V <- V cos |t| + t sin |t| / |t|

    They agree to first order in the step. Only "tangent" drifts: each step multiplies
    the norm by the root of ``1 + |t|^2``, which is second order in the step, and so
    first order over a fixed time of gradient flow. The others keep c to rounding.
    "natural" follows the great circle along the natural gradient of the sphere.

    Args:
      method: Technique: "lagrange", "coefficient", "tangent" or "natural" (the "true
        gradient").
      groups: Weights that share one norm; see `project_tangent`.
      switch_step: Number of updates before it acts, or a `switch_when` trigger.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`, to be put last in a chain,
      behind the learning rate. For ``|t| > 1`` there is no real multiplier k:
      "lagrange" then turns the weights by a right angle, the most that it can.

    Raises:
      ValueError: For an unknown method; in `init`, if no leaf is constrained or
        labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> w, grads = jnp.array([1.0, 0.0]), jnp.array([-3.0, -6.0])
      >>> for method in ("lagrange", "coefficient", "tangent", "natural"):
      ...     tx = optax.chain(optax.sgd(0.1), lawn.baselines.unit_norm(method))
      ...     updates, _ = tx.update(grads, tx.init(w), w)
      ...     print(method, *(f"{x:.3f}" for x in w + updates))
      lagrange 0.800 0.600
      coefficient 0.908 0.419
      tangent 1.000 0.600
      natural 0.825 0.565

    References:
      Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
      section 6 and eq. 15, which prints V'G inside the root and so does not keep the
      norm; Douglas, Amari and Kung 2000, "On gradient adaptation with unit-norm
      constraints".
    """
    methods: dict[str, Callable[[Sphere, list[Any]], list[Any]]] = {
        "lagrange": functools.partial(_turned, turn=_multiplier),
        "coefficient": functools.partial(Sphere.retract, project=False),
        "tangent": Sphere.project,
        "natural": functools.partial(_turned, turn=_great_circle),
    }
    if method not in methods:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, methods))}, got {method!r}."
        )
    change = methods[method]
    return on_sphere("unit_norm", groups, axis_name, change, switch_step=switch_step)


def _multiplier(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # The root is 0 from a right angle on, where its derivative would be infinite.
    return root(jnp.where(x < 1, 1 - x**2, 0)), 1 / jnp.maximum(x, 1)


def _great_circle(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.cos(x), jnp.sinc(x / jnp.pi)


def _turned(sphere: Sphere, updates: list[Any], turn: Turn) -> list[Any]:
    # Project before measuring: for an update that is nearly radial, as that of an
    # exponential loss becomes, the difference |u|^2 - a^2 |w|^2 would be all rounding.
    updates = sphere.project(updates)
    update_sq, dots = sphere.products(updates)
    of_update, of_weights, active = [], [], []
    for k, norm in enumerate(sphere.norms):
        weight_sq = sphere.weight_sq[k]
        # Where the square of a finite update overflows, the weights do not move.
        lost = jnp.isposinf(update_sq[k]) & jnp.isfinite(dots[k])
        length = jnp.where(lost, 0, root(update_sq[k]))
        a, b = turn(length / jnp.where(norm > 0, norm, 1))
        b = jnp.where(lost, 0, b)
        found = sphere.active[k] & (weight_sq > 0)
        along = quotient(dots[k], weight_sq, found)
        p, q = b, quotient(norm * a, root(weight_sq), found) - b * along - 1
        # A non-finite update is returned unchanged.
        active.append(found & jnp.isfinite(p) & jnp.isfinite(q))
        of_update.append(p)
        of_weights.append(q)
    return geometry.combine(
        sphere.grouping, updates, sphere.weights, of_update, of_weights, active
    )
