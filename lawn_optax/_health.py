# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Norms and angles over a whole run, and an alarm where a norm is not kept."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax._describe import aligned, span
from lawn_optax._states import Fields, check_order, phase_of
from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import AxisName, Groups, PyTree, check_params
from lawn_optax.diagnostics._step import turned
from lawn_optax.groups._resolve import resolve, resolve_reported


class Extremes(NamedTuple):
    """Smallest, largest and last value of a number per norm."""

    least: jax.Array  # float32[num_norms]; inf before the first value
    greatest: jax.Array  # float32[num_norms]; -inf before the first value
    last: jax.Array  # float32[num_norms]

    def add(self, value: jax.Array, on: jax.Array) -> "Extremes":
        """The same with one value more, where `on`."""
        return Extremes(
            jnp.where(on, jnp.minimum(self.least, value), self.least),
            jnp.where(on, jnp.maximum(self.greatest, value), self.greatest),
            jnp.where(on, value, self.last),
        )


class MonitorState(NamedTuple):
    """State of the transformation returned by `monitor`; its size never changes."""

    phase: PhaseState
    kept: jax.Array  # float32[num_norms]; norms after the first constrained update
    norm: Extremes  # of the weights around the constrained updates
    angle: Extremes  # of the constrained updates, in radians
    left_at: jax.Array  # int32[num_norms]; update that saw another norm; -1 for none


def monitor(
    groups: Groups = "layer",
    *,
    switch_step: Step = 0,
    rtol: float | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Watches norms and angles of all constrained updates; changes no update.

    Put it last in a chain. `health` prints what it saw. Its memory does not grow with
    the run, so it costs a few numbers per group and one more reading of the weights.

    Args:
      groups: Weights that share one norm, as given to the optimizer.
      switch_step: Number of free updates, or a `switch_when` trigger, as given to the
        optimizer.
      rtol: Largest relative distance of a norm from the one that it had after the first
        constrained update. None is 1e-4, or twice the machine epsilon of the narrowest
        parameter if that is more. Infinity is for constraints that let norms change,
        such as `max_norm`: it marks norms only that are no numbers.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: In `init`, if no leaf is constrained or labels do not fit.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(lawn.wrap(optax.sgd(0.1)), lawn.monitor())
      >>> params = {"dense": {"kernel": jnp.array([[3.0, 4.0]])}}
      >>> grads = {"dense": {"kernel": jnp.array([[4.0, -3.0]])}}
      >>> state = tx.init(params)
      >>> for scale in (1.0, 1.0, 2.5):  # before the third update, a norm is 2.5 times
      ...     params = {"dense": {"kernel": scale * params["dense"]["kernel"]}}
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(lawn.health(state, params))
      constrained updates: 3; norms not kept: 1 of 1
      <BLANKLINE>
      group  norms  kept  least  greatest  last  angle: least  greatest     last  left at
      dense      1     5      5      12.5     5       0.03919   0.09967  0.03919  update 2
    """  # noqa: E501
    trigger = as_trigger(switch_step)

    def init_fn(params):
        grouping = resolve(groups, params)
        full = lambda x: jnp.full((grouping.num_norms,), x, grouping.dtype)  # noqa: E731
        none = Extremes(full(jnp.inf), full(-jnp.inf), full(0))
        left_at = jnp.full((grouping.num_norms,), -1, jnp.int32)
        return MonitorState(init_phase(trigger), full(0), none, none, left_at)

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, "monitor")
        constrained, first = phase_now(trigger, state)
        before, after, angle = turned(updates, params, groups, axis_name)
        # A group that is zero now is free for good.
        kept = jnp.where(first, jnp.where(before > 0, after, 0), state.kept)
        bound = _bound(params) if rtol is None else rtol
        bound = bound * jnp.where(kept > 0, kept, 1)  # Infinity times 0 is no number.
        bad = ~(jnp.abs(after - kept) <= bound)  # `not <=`, so that NaN counts
        bad |= ~first & ~(jnp.abs(before - kept) <= bound)
        left = constrained & (kept > 0) & bad & (state.left_at < 0)
        norm = state.norm.add(after, constrained).add(before, constrained & ~first)
        return updates, MonitorState(
            next_phase(trigger, state.phase, first, extra_args),
            kept,
            norm._replace(last=jnp.where(constrained, after, state.norm.last)),
            state.angle.add(angle, constrained),
            jnp.where(left, state.phase.count, state.left_at),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _bound(params: PyTree) -> float:
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    floats = [t for t in types if jnp.issubdtype(t, jnp.inexact)]
    return max([1e-4, *(2 * float(jnp.finfo(t).eps) for t in floats)])


def health(state: optax.OptState, params: PyTree, *, groups: Groups = "layer") -> str:
    """A table of the norms and angles that `monitor` saw, one line per group.

    Args:
      state: Optimizer state with a `MonitorState` at any depth, outside `jit`.
      params: Parameters; shapes suffice.
      groups: Weights that share one norm, as given to `monitor`.

    Returns:
      The table. "kept" is the norm after the first constrained update, "left at" the
      first update that saw another one. Of a group with several norms, it shows the
      smallest and largest of all.

    Raises:
      TypeError: If the first two are swapped.
      ValueError: If there is no such state, or it was made for other groups.
    """
    check_order(params, "call `lawn.health(state, params)`")
    found = list(_monitors(state))
    if not found:
        raise ValueError(
            "There is no state of `lawn.monitor` in the optimizer state: put "
            "`lawn.monitor()` last in the chain."
        )
    grouping = resolve_reported(groups, params)
    seen = jax.tree.map(np.asarray, found[0])
    if seen.kept.shape != (grouping.num_norms,):
        raise ValueError(
            f"The state of `monitor` has norms of the shape {seen.kept.shape}, but "
            f"these `groups` have {grouping.num_norms} norms: pass those of the "
            "optimizer."
        )
    switched_at, count = int(seen.phase.switched_at), int(seen.phase.count)
    if switched_at < 0:
        return f"free phase after {count} updates: no norm is kept yet"
    left = int(np.sum(seen.left_at >= 0))
    lines = [
        f"constrained updates: {count - switched_at}; norms not kept: {left} of "
        f"{grouping.num_norms}",
        "",
    ]
    head = ["group", "norms", "kept", "least", "greatest", "last"]
    rows = [[*head, "angle: least", "greatest", "last", "left at"]]
    for block in grouping.blocks:
        own = slice(block.start, block.start + block.size)
        cells: list[Any] = [block.name, str(block.size), span(seen.kept[own], 4)]
        for value in (seen.norm, seen.angle):
            cells += [
                f"{value.least[own].min():.4g}",
                f"{value.greatest[own].max():.4g}",
                span(value.last[own], 4),
            ]
        gone = seen.left_at[own]
        gone = gone[gone >= 0]
        rows.append([*cells, f"update {gone.min()}" if gone.size else "-"])
    return "\n".join([*lines, *aligned(rows, left={0, len(rows[0]) - 1})])


def _monitors(node: Any) -> Iterator[MonitorState]:
    """All states of `monitor`, also where they are mappings or in boxes."""
    fields = Fields(node)
    if fields.has(*MonitorState._fields):
        norm, angle = (
            Extremes(*(Fields(fields[name])[x] for x in Extremes._fields))
            for name in ("norm", "angle")
        )
        phase = phase_of(fields["phase"])._replace(watched=())
        yield MonitorState(phase, fields["kept"], norm, angle, fields["left_at"])
        return
    for child in jax.tree.leaves(node, is_leaf=lambda x: x is not node):
        if child is not node:
            yield from _monitors(child)
