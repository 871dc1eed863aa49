# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Keeps scale-invariant weights in equilibrium when the learning rate decays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._reset import map_moments
from lawn_optax._types import Groups, as_transformation, check_params
from lawn_optax._versions import safe_increment
from lawn_optax.groups._resolve import Grouping, resolve

# Optax's names for averages of gradients, and of squared gradients.
FIRST, SECOND = frozenset({"mu", "trace", "acc_grads"}), frozenset({"nu", "nu_max"})


class RescaleState(NamedTuple):
    """State of the transformation returned by `rescale_on_decay`."""

    count: jax.Array  # int32[]; updates done so far
    inner_state: optax.OptState = optax.EmptyState()


def rescale_on_decay(
    schedule: optax.Schedule,
    *,
    groups: Groups,
    power: float | jax.Array = 0.25,
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides weights by k^(1/4) when the learning rate is divided by k.

    After a decay, the angle by which an update turns scale-invariant weights falls by k
    and then grows back to an equilibrium, as their norm shrinks, for some
    ``1 / (4 learning_rate weight_decay)`` updates. The loss may rise meanwhile
    ("escape", "pseudo overfitting"). If the weights are divided, they are in the new
    equilibrium at once. The function that they compute does not change.

    The last update at the old rate also shrinks the weights, so that the next gradient
    is taken at the shrunk ones::

        rate(t + 1) = rate(t) / k, k > 1:      w <- (w + u) / k^power

    A rise of the rate (a warm-up) changes nothing, nor does a decay to zero.

    The gradient of a scale-invariant loss grows as the weights shrink, by k^power. So
    the motion goes on in the new equilibrium only if first moments are multiplied by
    k^power and second moments by its square, which is done to the moments of `inner`.
    Behind an optimizer, without `inner`, moments stay as they are, and the equilibrium
    comes when they have forgotten the larger weights. For momentum b and k = 10, the
    first angle is then smaller than in equilibrium by the factor
    ``sqrt(1 - b^2 (1 - k^(-2 power)))``: a third for 0.9, and 3% ten updates later.
    Under Adam it is larger, nearly 3 times after ten updates for b2 = 0.999. After 400
    it is still 1.25 times as large if learning rate times weight decay was 2e-3 before
    the decay, and 1.54 times if that was 1e-4.

    `schedules.decay_in_equilibrium` does the same without touching weights or moments:
    it divides both the rate and the weight decay by the root of k.

    Args:
      schedule: Learning-rate schedule of the optimizer, from the number of updates done
        to rates.
      groups: The scale-invariant weights, which are those of layers that a norm layer
        follows. Leave all others free, since dividing them changes the function, for
        example ``groups.not_paths("head", base=groups.only_matrices())``; `describe`
        prints the choice.
      power: Exponent of k: 1/4 for SGD, whose norm in equilibrium is proportional to
        the fourth root of the rate, and 1/2 for Adam, where it is the square root.
      inner: The optimizer, whose moments are rescaled with the weights. They are known
        by the names that Optax gives them (`mu`, `nu`, `trace`). Adamax, NovoGrad and
        LARS keep other numbers under these names: use
        `schedules.decay_in_equilibrium` with them.

    Returns:
      A transformation whose `update` needs `params`: the whole optimizer with `inner`;
      else put it last in the chain, after the learning rate and the weight decay. Do
      not combine it with `wrap`: it would break the captured norms, and with fixed
      norms it has nothing to correct.

    Raises:
      TypeError: If `schedule` is not a function, or `inner` is no optimizer.
      ValueError: In `init`, if no leaf is chosen, labels do not fit, or `inner` has
        moments with another name.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> rate = optax.piecewise_constant_schedule(0.1, {2: 1 / 16})
      >>> tx = optax.chain(optax.sgd(rate), lawn.rescale_on_decay(rate, groups="layer"))
      >>> w = jnp.array([3.0, 4.0])
      >>> state = tx.init(w)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.zeros(2), state, w)
      ...     w = optax.apply_updates(w, updates)
      ...     print(w)
      [3. 4.]
      [1.5 2. ]
      [1.5 2. ]
      [1.5 2. ]

    References:
      Noisy Rayleigh Quotient, ICLR submission, section 3.2, Figure 2 (e)-(h) and
      section 4, after Wan et al. 2021, arXiv:2006.08419.
    """
    if not callable(schedule):
        raise TypeError(
            "`schedule` must be a function from the number of updates to the learning "
            f"rate, the one that the optimizer uses, got {schedule!r}. A rate that "
            "never decays needs no rescaling."
        )

    inner = optax.identity() if inner is None else inner
    optimizer = as_transformation(inner, "inner")

    def init_fn(params):
        grouping = resolve(groups, params)  # raises here if labels do not fit
        state = optimizer.init(params)
        _rescaled(optimizer, state, params, grouping, jnp.ones([]))
        return RescaleState(jnp.zeros([], jnp.int32), state)

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, "rescale_on_decay")
        grouping = resolve(groups, params)
        updates, inner_state = optimizer.update(
            updates, state.inner_state, params, **extra_args
        )
        leaves, _ = grouping.flatten_moving(updates, params)
        count = jnp.asarray(safe_increment(state.count))
        now, then = (jnp.asarray(schedule(t)) for t in (state.count, count))
        decays = (then > 0) & (then < now)
        ratio = jnp.where(decays, then / jnp.where(decays, now, 1), 1)
        factor = (ratio**power).astype(grouping.dtype)
        of_update, of_weights, active = (
            [jnp.broadcast_to(x, block.shape) for block in grouping.blocks]
            for x in (factor, factor - 1, decays)
        )
        leaves = geometry.combine(
            grouping, leaves, jax.tree.leaves(params), of_update, of_weights, active
        )
        inner_state = _rescaled(optimizer, inner_state, params, grouping, 1 / factor)
        return grouping.treedef.unflatten(leaves), RescaleState(count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _rescaled(
    inner: optax.GradientTransformation,
    state: optax.OptState,
    params: Any,
    grouping: Grouping,
    growth: jax.Array,
) -> optax.OptState:
    """The state after the gradients of all chosen leaves have grown by a factor."""
    moved = {i for block in grouping.blocks for i in block.leaves}
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    by_path = {path: i in moved for i, (path, _) in enumerate(paths)}

    def rescale(name: str, moments: Any) -> Any:
        if name not in FIRST | SECOND:
            known = ", ".join(sorted(FIRST | SECOND))
            raise ValueError(
                f"`rescale_on_decay` does not know how the state `{name}` of `inner` "
                f"grows with the gradients; it knows {known}. {_INSTEAD}"
            )
        factor = growth if name in FIRST else growth**2

        def of_leaf(path: Any, moment: jax.Array) -> jax.Array:
            if path not in by_path:
                raise ValueError(
                    f"The state `{name}` of `inner` is not shaped like the parameters, "
                    f"so `rescale_on_decay` cannot tell whose it is. {_INSTEAD}"
                )
            if not by_path[path]:
                return moment
            return (moment * factor).astype(moment.dtype)

        return jax.tree_util.tree_map_with_path(of_leaf, moments)

    return map_moments(rescale, inner, state, params)


_INSTEAD = "Use `schedules.decay_in_equilibrium`, which touches no moments."
