# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""What happens to an optimizer's moments at the switch."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax._switch import (
    PhaseState,
    Step,
    as_trigger,
    init_phase,
    next_phase,
    phase_now,
)
from lawn_optax._types import check_params, check_static, select
from lawn_optax._versions import tree_map_params

Reset = Literal["restart", "moments"] | None


class ResetState(NamedTuple):
    """State of the transformation returned by `reset_at`."""

    phase: PhaseState
    inner_state: optax.OptState


_MOMENTS = object()  # stands for a part of the state that is shaped like the parameters


def reset_state(
    inner: optax.GradientTransformation,
    state: optax.OptState,
    params: Any,
    first: jax.Array,
    reset: Reset,
) -> optax.OptState:
    """The inner state, with fresh moments if `first`; LAWN Algorithm 2."""
    if reset is None:
        return state
    marks = _mark_moments(inner, state, params)
    fresh = inner.init(params)

    def walk(mark: Any, old: Any, new: Any) -> Any:
        if mark is _MOMENTS or (
            reset == "restart" and _is_named(mark) and any(map(_holds_moments, mark))
        ):
            return select(first, new, old)
        children, treedef = _one_level(mark)
        if jax.tree_util.treedef_is_leaf(treedef):
            return old  # this leaf is not part of any moment
        parts = zip(
            children,
            treedef.flatten_up_to(old),
            treedef.flatten_up_to(new),
            strict=True,
        )
        return treedef.unflatten([walk(*part) for part in parts])

    return walk(marks, state, fresh)


def _mark_moments(
    inner: optax.GradientTransformation, state: optax.OptState, params: Any
) -> Any:
    """The state with `_MOMENTS` for each part that is shaped like the parameters."""
    try:
        return tree_map_params(inner, lambda _: _MOMENTS, state, is_leaf=lambda _: True)
    except (AttributeError, IndexError, TypeError, ValueError):
        # Optax calls `init` with a tree that has no leaves. L-BFGS then raises
        # IndexError; an `init` that expects the structure of its own parameters raises
        # one of the other errors. In these cases the shapes of the leaves decide.
        pass
    treedef, shapes = jax.tree.structure(params), _shapes(params)

    def shaped_like_params(part: Any) -> bool:
        return jax.tree.structure(part) == treedef and all(
            has[len(has) - len(shape) :] == shape  # L-BFGS stacks several in one array
            for has, shape in zip(_shapes(part), shapes, strict=True)
        )

    return jax.tree.map(
        lambda part: _MOMENTS if shaped_like_params(part) else part,
        state,
        is_leaf=shaped_like_params,
    )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _is_named(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _holds_moments(field: Any) -> bool:
    """Whether a field holds moments itself, not only in a state nested in it."""
    if field is _MOMENTS or _is_named(field):
        return field is _MOMENTS
    children, treedef = _one_level(field)
    leaf = jax.tree_util.treedef_is_leaf(treedef)
    return not leaf and any(map(_holds_moments, children))


def _one_level(node: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(node, is_leaf=lambda x: x is not node)


def check_reset(reset: Any) -> None:
    """Raises an error if `reset` is traced or unknown."""
    names = "'restart', 'moments' or None"
    check_static("reset", reset, names, values=("restart", "moments", None))


def reset_at(
    step: Step, inner: optax.GradientTransformation, reset: Reset = "restart"
) -> optax.GradientTransformationExtraArgs:
    """Runs `inner` and resets its moments once, before update number `step`.

    Args:
      step: Number, from 0, of the update that begins with fresh moments, possibly
        traced, or a `switch_when` trigger.
      inner: Any optimizer.
      reset: "restart" returns all state shaped like the parameters to what `inner.init`
        gives for the parameters of that moment, together with the other fields of the
        NamedTuples that directly hold it (Adam's count, so that its bias correction
        restarts); states without moments, such as the count of a learning-rate
        schedule, go on. "moments" resets only the state shaped like the parameters;
        steps 3 to 7 of Adam are then several times too long. None resets nothing.

    Returns:
      A transformation with a `ResetState`, whose `update` needs `params` unless
      `reset` is None.

    Raises:
      ValueError: If `reset` is another value, or the step is negative.
      TypeError: If `reset` is traced, or the step is not a number.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = lawn.reset_at(2, optax.trace(0.5))
      >>> w, state, out = jnp.zeros(1), None, []
      >>> state = tx.init(w)
      >>> for _ in range(4):
      ...     update, state = tx.update(jnp.ones(1), state, w)
      ...     out.append(float(update[0]))
      >>> out
      [1.0, 1.5, 1.0, 1.5]

    References:
      Gupta et al. 2021, arXiv:2108.05839, Algorithm 2 ("moments"); LAWN, ICLR
      submission, Algorithm 1, whose t begins at 1 in the constrained phase ("restart").
    """
    check_reset(reset)
    trigger = as_trigger(step)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ResetState(init_phase(trigger), inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if reset is not None:
            check_params(params, "reset_at")
        _, first = phase_now(trigger, state.phase)
        inner_state = reset_state(inner, state.inner_state, params, first, reset)
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        phase = next_phase(trigger, state.phase, first, extra_args)
        return updates, ResetState(phase, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
