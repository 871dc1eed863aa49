# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Norm-minimising gradient descent: Halpern's iteration of a descent step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax._types import check_params
from lawn_optax._versions import safe_increment
from lawn_optax.groups._resolve import absent


class HalpernState(NamedTuple):
    """State of the transformation returned by `halpern`."""

    count: jax.Array  # int32[]; updates done so far


def halpern(
    power: float | jax.Array = 0.5, offset: float | jax.Array = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the weights after each update by a factor that tends to 1.

    With an update u, learning rate included, and n = 1, 2, 3, ...::

        w <- (1 - s) (w + u)        s = 1 / (n + offset)^power

    It tends to the fixed point of ``w -> w + u`` with the smallest norm, from every
    start, if that map is non-expansive. For gradient descent on a convex loss, this
    means a learning rate of at most 2 over the largest curvature. In directions without
    gradient the weights shrink as ``exp(-n^(1 - power) / (1 - power))``; in the others
    their relative error is about ``s / (learning rate * curvature)``.

    Args:
      power: Exponent in (0, 1). A larger one ends closer to the solution, but forgets
        the start more slowly: 1 would forget it only as 1/n, and more than 1 would keep
        a part.
      offset: Positive number. The papers have s = 1 at n = 1, which would set all
        weights to 0 at once, and a ReLU network never leaves that point.

    Returns:
      A transformation whose `update` needs `params`, to be put last in a chain,
      behind the learning rate. It acts on all leaves.

    Raises:
      ValueError: For a power or offset that is not allowed; traced ones pass unchecked.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(optax.sgd(0.1), lawn.baselines.halpern(0.5, offset=3.0))
      >>> w = jnp.array([3.0, 4.0])
      >>> updates, _ = tx.update(jnp.array([10.0, 0.0]), tx.init(w), w)
      >>> print(optax.apply_updates(w, updates))  # half of [2, 4]
      [1. 2.]

    References:
      Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
      eqs. 9, 25 and 26, Theorem 5; Halpern 1967, "Fixed points of nonexpanding maps".
    """
    if not isinstance(power, jax.Array) and not 0 < power < 1:
        raise ValueError(
            f"`power` must be more than 0 and less than 1, got {power!r}: the "
            "iteration must forget its start. Try 0.5."
        )
    if not isinstance(offset, jax.Array) and not 0 < offset < float("inf"):
        raise ValueError(
            f"`offset` must be finite and more than 0, got {offset!r}: 0 would set all "
            "weights to 0 in the first update. Try 1."
        )

    def init_fn(params):
        del params
        return HalpernState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        params = check_params(params, "halpern")
        count = jnp.asarray(safe_increment(state.count))
        treedef = jax.tree.structure(params)
        pairs = zip(
            treedef.flatten_up_to(updates), jax.tree.leaves(params), strict=True
        )
        out = [
            u if absent(u) else _shrunk(u, w, count, power, offset) for u, w in pairs
        ]
        return treedef.unflatten(out), HalpernState(count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _shrunk(u: Any, w: Any, count: jax.Array, power: Any, offset: Any) -> jax.Array:
    dtype = jnp.finfo(jnp.promote_types(jnp.result_type(u, w), jnp.float32)).dtype
    n = count.astype(dtype) + jnp.asarray(offset, dtype)
    s = n ** -jnp.asarray(power, dtype)
    return jnp.asarray((1 - s) * u - s * w).astype(u.dtype)


def nmgd(
    learning_rate: optax.ScalarOrSchedule,
    power: float | jax.Array = 0.5,
    offset: float | jax.Array = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Norm-minimising gradient descent: `halpern` behind gradient descent.

    Each update is ``-(1 - s) * learning_rate * gradient - s * w``.

    Args:
      learning_rate: Step size per update, or a schedule.
      power: Exponent in (0, 1); see `halpern`.
      offset: Positive number; see `halpern`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: For a power or offset that is not allowed; traced ones pass unchecked.

    Examples:
      One equation, ``w[0] + w[1] = 2``, from a start that gradient descent remembers:

      >>> import jax, jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.baselines.nmgd(0.5, power=0.75)
      >>> def step(_, carry):
      ...     w, state = carry
      ...     updates, state = tx.update((jnp.sum(w) - 2) * jnp.ones(2), state, w)
      ...     return optax.apply_updates(w, updates), state
      >>> w = jnp.array([5.0, -7.0])
      >>> print(jax.lax.fori_loop(0, 20_000, step, (w, tx.init(w)))[0].round(2))
      [1. 1.]

    References:
      Banburski et al. 2019, "Theory III: Dynamics and Generalization in Deep Networks",
      eqs. 9 and 26.
    """
    return optax.with_extra_args_support(
        optax.chain(optax.sgd(learning_rate), halpern(power, offset))
    )
