# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Reads LAWN's state at any depth: `describe`, `captured_norms`, `logit_scale`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax import diagnostics
from lawn_optax._notes import doubtful_norms
from lawn_optax._states import (
    NO_STATE,
    Fields,
    check_order,
    check_values,
    find_states,
    one_member,
    outermost_phases,
)
from lawn_optax._switch import PhaseState
from lawn_optax._types import Groups, PyTree
from lawn_optax.diagnostics._step import moving_norms
from lawn_optax.groups._doubts import doubts
from lawn_optax.groups._resolve import NO_ARRAY, resolve_reported


def logit_scale(opt_state: optax.OptState, alpha: float | jax.Array) -> jax.Array:
    """The factor for the class scores in extended LAWN: alpha once constrained, else 1.

    Multiply the logits by it in the loss whose gradient goes into the next update.

    Args:
      opt_state: Any optimizer state with a LAWN state in it, at any depth.
      alpha: Factor in (0, 1) of the constrained phase.

    Returns:
      float32[]; `alpha` if the next update is constrained, else 1. A replicated state
      gives one number per replica.

    Raises:
      ValueError: If there is no LAWN state.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> w = jnp.array([3.0, 4.0])
      >>> tx = optax.chain(lawn.wrap(optax.sgd(0.1), switch_step=1))
      >>> state = tx.init(w)
      >>> _, later = tx.update(w, state, w)
      >>> float(lawn.logit_scale(state, 0.25)), float(lawn.logit_scale(later, 0.25))
      (1.0, 0.25)

    References:
      Gupta et al. 2021, arXiv:2108.05839, section 3, "An extended LAWN method".
    """
    flags = [phase.constrained for phase in outermost_phases(opt_state)]
    if not flags:
        raise ValueError(NO_STATE)
    constrained = flags[0]
    for flag in flags[1:]:
        constrained = constrained | flag
    return jnp.where(constrained, jnp.asarray(alpha, jnp.float32), 1)


def describe(
    params: PyTree,
    groups: Groups = "layer",
    state: optax.OptState | None = None,
    *,
    grads: PyTree | None = None,
) -> str:
    """A table of which leaves share which norm, and which are free and why.

    Notes below it name groups that are probably not meant, and norms that probably mean
    nothing: one norm for a stack of layers or for several matrices, norms captured near
    zero, and groups of which one small leaf has nearly all of the norm.

    Args:
      params: Parameters as the optimizer gets them, such as ``train_state.params`` or
        ``nnx.state(model, nnx.Param)``; without `state` their shapes suffice
        (`jax.ShapeDtypeStruct`).
      groups: Weights that share one norm, as given to the optimizer.
      state: Optimizer state with a LAWN state at any depth (chain, masked, MultiSteps,
        a train state, `nnx.state` of an optimizer, replicated), of one member if it is
        vmapped. The table then says whether and when it switched, and shows each
        captured norm beside the present one: they differ where something breaks the
        constraint. `rms` is the captured norm divided by the root of the number of
        elements.
      grads: Gradients, where some of them are None: a leaf without a gradient is no
        part of the norm that its group has now. None stands for gradients of all
        leaves.

    Returns:
      The table, one line per group and per free leaf, and notes.

    Raises:
      TypeError: If the optimizer state is in another place than `state`.
      ValueError: If no leaf is constrained, labels do not fit, `params` has more than
        parameters, `state` has no LAWN state, it was made for other groups, or it is
        that of several members.

    Examples:
      >>> import jax.numpy as jnp, lawn_optax as lawn
      >>> params = {
      ...     "dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)},
      ...     "gate": {"scale": jnp.ones(1)},
      ... }
      >>> print(lawn.describe(params))
      group  norms  elements  leaves
      dense      1        16  dense/bias (4), dense/kernel (3, 4)
      <BLANKLINE>
      free        elements  why
      gate/scale         1  one element: no tangent direction
    """
    for x in (params, groups):
        check_order(x, "call `lawn.describe(params, groups, state)`")
    grouping = resolve_reported(groups, params)
    lines: list[str] = []
    captured = present = None
    at_most = False
    if state is not None:
        found = find_states(state, grouping)[0]
        n = len(found.axes)
        if n and all(shape[:n] == found.axes for shape in grouping.shapes):
            raise ValueError(one_member(found.axes))
        switched_at = int(np.asarray(found.phase.switched_at).reshape(-1)[0])
        count = int(np.asarray(found.phase.count).reshape(-1)[0])
        if switched_at < 0:
            lines += [_free_phase(found.phase, count), ""]
        else:
            lines += [f"constrained since update {switched_at} of {count}", ""]
            captured, at_most = found.norms, found.at_most
            present = moving_norms(grads, params, groups)
            check_values(present)
            present = np.asarray(present)

    head = ["group", "norms", "elements"]
    if captured is not None:
        head += ["at most" if at_most else "captured", "now", "off by", "rms"]
    rows, free = [[*head, "leaves"]], dict(grouping.free)
    for block, size in zip(grouping.blocks, grouping.block_sizes, strict=True):
        elements = sum(math.prod(grouping.shapes[i]) for i in block.leaves)
        row = [block.name, str(block.size), str(elements)]
        if captured is not None and present is not None:
            own = slice(block.start, block.start + block.size)
            if not captured[own].any():
                why = "zero or not finite at the switch: free for good"
                why += f", its norm is {span(present[own])} now"
                free.update(dict.fromkeys(block.leaves, why))
                continue
            rms = captured[own] / np.sqrt(size / block.size)
            row += [*_norm_cells(captured[own], present[own], at_most), span(rms, 3)]
        leaves = (
            f"{grouping.paths[i]} {_shape(grouping.shapes[i])}" for i in block.leaves
        )
        rows.append([*row, ", ".join(leaves)])
    lines += aligned(rows, left={0, len(rows[0]) - 1})
    if free:
        rows = [["free", "elements", "why"]]
        for i, reason in sorted(free.items()):
            elements = math.prod(grouping.shapes[i]) if reason != NO_ARRAY else "-"
            rows.append([grouping.paths[i] or "/", str(elements), reason])
        lines += ["", *aligned(rows, left={0, 2})]
    notes = [f"{grouping.paths[i]}: {note}." for i, note in grouping.notes]
    notes += doubts(grouping)
    notes += [] if at_most else doubtful_norms(grouping, params, captured)
    lines += ["", *(f"note: {note}" for note in notes)] if notes else []
    return "\n".join(lines)


def captured_norms(
    state: optax.OptState, params: PyTree, *, groups: Groups = "layer"
) -> dict[str, np.ndarray]:
    """The norms that an optimizer state holds, by the names of their groups.

    Args:
      state: Optimizer state with a LAWN state at any depth, as for `describe`, outside
        `jit`.
      params: Parameters as the optimizer gets them; shapes suffice
        (`jax.ShapeDtypeStruct`).
      groups: Weights that share one norm, as given to the optimizer.

    Returns:
      A dictionary from the names that `describe` prints to a scalar array, or an array
      with one entry per slice. 0 means that no norm is captured: in the free phase, and
      for groups that are free for good.

    Raises:
      TypeError: If the two are swapped.
      ValueError: If `state` has no LAWN state, none that was made for these groups,
        several with different norms, or that of several members; if `params` has more
        than parameters.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> params = {"dense": {"kernel": jnp.array([3.0, 4.0])}}
      >>> tx = optax.chain(lawn.wrap(optax.sgd(0.1)))
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> print(*lawn.captured_norms(state, params).items())
      ('dense', array(5., dtype=float32))
    """
    check_order(params, "call `lawn.captured_norms(state, params)`")
    first, *others = find_states(state, resolve_reported(groups, params))
    if not all(np.array_equal(first.norms, one.norms) for one in others):
        raise ValueError(
            f"The optimizer state has {1 + len(others)} LAWN states for these groups, "
            "with different norms: pass the part of it that holds one of them."
        )
    return diagnostics.by_name(first.norms, params, groups=groups)


def _free_phase(phase: PhaseState, count: int) -> str:
    """What a run in the free phase waits for."""
    line = f"free phase after {count} updates: "
    if np.asarray(phase.constrained).flat[0]:
        return line + "the next update captures the norms"
    line += "no norm is captured yet"
    watched = Fields(phase.watched)
    if not watched.has("count", "smoothed", "threshold"):
        return line
    seen, value, threshold = (
        np.asarray(watched[name]).flat[0] for name in ("count", "smoothed", "threshold")
    )
    if not seen:
        return line + "; the watched statistic had no finite value yet"
    line += f"; the watched statistic is {value:.6g} on average, "
    if value < threshold:
        return line + f"and the switch waits for {threshold:.6g}"
    return line + f"past {threshold:.6g}, and the switch waits for a plateau"


def distance(kept: np.ndarray, now: np.ndarray, at_most: bool) -> np.ndarray:
    """Relative distance of the norms from what a state keeps; NaN stays NaN."""
    off = now / kept - 1
    return np.maximum(off, 0) if at_most else np.abs(off)


def _norm_cells(captured: np.ndarray, now: np.ndarray, at_most: bool) -> list[str]:
    live = captured > 0
    off = np.max(distance(captured[live], now[live], at_most))
    note = f"{off:.1e}" + ("" if live.all() else f" ({(~live).sum()} free)")
    return [span(captured[live]), span(now[live]), note]


def span(norms: np.ndarray, digits: int = 6) -> str:
    """The number that all norms are, or the least and the greatest."""
    low, high = norms.min(), norms.max()
    if low == high:
        return f"{low:.{digits}g}"
    digits = min(digits, 4)
    return f"{low:.{digits}g} to {high:.{digits}g}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def aligned(rows: list[list[str]], left: set[int]) -> list[str]:
    """The lines of a table; columns that are not `left` end at the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
