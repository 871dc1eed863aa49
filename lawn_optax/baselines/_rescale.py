# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Keeps scale-invariant weights in equilibrium when the learning rate decays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax import _geometry as geometry
from lawn_optax._types import Groups, check_params
from lawn_optax._versions import safe_increment
from lawn_optax.groups._resolve import resolve


class RescaleState(NamedTuple):
    """State of the transformation returned by `rescale_on_decay`."""

    count: jax.Array  # int32[]; updates done so far


def rescale_on_decay(
    schedule: optax.Schedule, *, groups: Groups, power: float | jax.Array = 0.25
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

    The moments are not changed. The gradient of a scale-invariant loss grows as the
    weights shrink, by k^power, so the motion would continue at once if first moments
    were multiplied by k^power and second moments by its square. Because they are not,
    the equilibrium comes when the moments have forgotten the larger weights. For
    momentum b and k = 10, the first angle is smaller than in equilibrium by the factor
    ``sqrt(1 - b^2 (1 - k^(-2 power)))``: a third for 0.9, and 3% ten updates later.
    Under Adam it is larger, nearly 3 times after ten updates for b2 = 0.999, and still
    by a fifth after 400: a lower b2 or a decay in small steps is safer there.

    Args:
      schedule: Learning-rate schedule of the optimizer, from the number of updates done
        to rates.
      groups: The scale-invariant weights, which are those of layers that a norm layer
        follows. Leave all others free, since dividing them changes the function, for
        example ``groups.not_paths("head", base=groups.only_matrices())``; `describe`
        prints the choice.
      power: Exponent of k: 1/4 for SGD, whose norm in equilibrium is proportional to
        the fourth root of the rate, and 1/2 for Adam, where it is the square root.

    Returns:
      A transformation whose `update` needs `params`. Put it last in the chain,
      after the learning rate and the weight decay. Do not combine it with `wrap`: it
      would break the captured norms, and with fixed norms it has nothing to correct.

    Raises:
      TypeError: If `schedule` is not a function.
      ValueError: In `init`, if no leaf is chosen or labels do not fit.

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

    def init_fn(params):
        resolve(groups, params)  # raises here if labels do not fit
        return RescaleState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        params = check_params(params, "rescale_on_decay")
        grouping = resolve(groups, params)
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
        return grouping.treedef.unflatten(leaves), RescaleState(count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
