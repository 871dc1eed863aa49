# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""What happens to an optimizer's moments at the switch."""

import math
from collections.abc import Callable
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
from lawn_optax._types import as_transformation, check_params, check_static, select
from lawn_optax._versions import tree_map_params
from lawn_optax.groups._resolve import absent

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
    _refuse_unknown(marks, _size(params), reset)

    def walk(mark: Any, old: Any, new: Any) -> Any:
        if _is_all_moments(mark) or (reset == "restart" and _restarts(mark)):
            return select(first, new, old)
        if jax.tree_util.all_leaves([mark]):
            return old  # this leaf is not part of any moment
        children, treedef = _one_level(mark)
        parts = zip(
            children,
            treedef.flatten_up_to(old),
            treedef.flatten_up_to(new),
            strict=True,
        )
        return treedef.unflatten([walk(*part) for part in parts])

    return walk(marks, state, fresh)


def map_moments(
    f: Callable[[str, Any], Any],
    inner: optax.GradientTransformation,
    state: optax.OptState,
    params: Any,
) -> optax.OptState:
    """The state with ``f(name, part)`` for each part shaped like the parameters.

    The name is that of the field or the entry that holds the part.
    """
    marks = _mark_moments(inner, state, params)
    paths, treedef = jax.tree_util.tree_flatten_with_path(marks)
    parts = treedef.flatten_up_to(state)
    names = [jax.tree_util.keystr(path[-1:]).strip(".[]'\"") for path, _ in paths]
    found = [
        f(name, part) if mark is _MOMENTS else part
        for (_, mark), name, part in zip(paths, names, parts, strict=True)
    ]
    return treedef.unflatten(found)


def _mark_moments(
    inner: optax.GradientTransformation, state: optax.OptState, params: Any
) -> Any:
    """The state with `_MOMENTS` for each part that is shaped like the parameters."""
    try:
        marks = tree_map_params(
            inner, lambda _: _MOMENTS, state, is_leaf=lambda _: True
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        # Optax calls `init` with a tree that has no leaves. L-BFGS then raises
        # IndexError; an `init` that expects the structure of its own parameters raises
        # one of the other errors. In these cases the shapes of the leaves decide.
        marks = _mark_by_shape(state, params)

    size = _size(params)

    def flat(leaf: Any) -> bool:  # `optax.flatten` gives `inner` one vector
        shape = jnp.shape(leaf) if leaf is not _MOMENTS else ()
        return shape[-1:] == (size,) and size > 1 and _is_float(leaf)

    return jax.tree.map(lambda leaf: _MOMENTS if flat(leaf) else leaf, marks)


def _mark_by_shape(state: optax.OptState, params: Any) -> Any:
    treedef, shapes = jax.tree.structure(params), _shapes(params)

    def shaped_like_params(part: Any) -> bool:
        try:
            leaves = treedef.flatten_up_to(part)  # `masked` leaves out some of them
        except ValueError:
            return False
        pairs = [(x, s) for x, s in zip(leaves, shapes, strict=True) if not absent(x)]
        return (
            bool(pairs)
            and all(
                jax.tree_util.all_leaves([x])
                # L-BFGS stacks several in one array.
                and jnp.shape(x)[jnp.ndim(x) - len(shape) :] == shape
                for x, shape in pairs
            )
        )

    return jax.tree.map(
        lambda part: _MOMENTS if shaped_like_params(part) else part,
        state,
        is_leaf=shaped_like_params,
    )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _size(params: Any) -> int:
    return sum(math.prod(shape) for shape in _shapes(params))


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact)


def forget_point(state: optax.OptState, left: jax.Array) -> optax.OptState:
    """The inner state without the loss of a point, if the parameters have `left` it.

    Optax's line searches keep value and gradient at the end of their step, which the
    retraction then moves. For an infinite value, `optax.value_and_grad_from_state`
    evaluates the function again.
    """

    def is_search(node: Any) -> bool:
        return {"value", "grad"} <= set(getattr(node, "_fields", ()))

    def forget(node: Any) -> Any:
        if not is_search(node):
            return node
        return node._replace(value=jnp.where(left, jnp.inf, node.value))

    return jax.tree.map(forget, state, is_leaf=is_search)


# --- What restarts with the moments ---------------------------------------------------


def _is_plain(node: Any) -> bool:
    """Whether a node is a container of Python, not a state of its own kind."""
    return isinstance(node, dict | list) or type(node) is tuple


def _is_all_moments(mark: Any) -> bool:
    if mark is _MOMENTS or not _is_plain(mark):
        return mark is _MOMENTS
    children, _ = _one_level(mark)
    return bool(children) and all(map(_is_all_moments, children))


def _restarts(mark: Any) -> bool:
    """Whether a container directly holds moments, so that all of it restarts."""
    if _is_plain(mark):
        children, _ = _one_level(mark)
        if not any(map(_is_all_moments, children)):
            return False
        for child in children:
            _refuse_state_beside_moments(mark, child)
        return True
    fields = jax.tree_util.tree_flatten_with_path(mark, is_leaf=lambda x: x is not mark)
    return any(_holds_moments(field, path) for path, field in fields[0])


def _holds_moments(field: Any, path: tuple) -> bool:
    """Whether a field holds moments itself, not only in a state nested in it."""
    if _is_all_moments(field) or not _is_plain(field):
        return _is_all_moments(field)
    # The state of another transformation: `inner_state`, `opt_state`, `states`.
    if path and "state" in jax.tree_util.keystr(path):
        return False
    return any(_holds_moments(child, ()) for child in _one_level(field)[0])


def _goes_on(mark: Any) -> bool:
    """Whether a "restart" would leave anything in this part of a state as it is."""
    if _is_all_moments(mark) or _restarts(mark):
        return False
    return jax.tree_util.all_leaves([mark]) or any(map(_goes_on, _one_level(mark)[0]))


def _refuse_state_beside_moments(plain: Any, part: Any) -> None:
    """Raises an error if it is unclear whether a state restarts with its neighbour."""
    if _is_all_moments(part) or jax.tree_util.all_leaves([part]):
        return
    if _is_plain(part):
        for child in _one_level(part)[0]:
            _refuse_state_beside_moments(plain, child)
    elif _goes_on(part):
        raise ValueError(
            f"In the state of the inner optimizer, a {type(plain).__name__} holds "
            f"moments beside a {type(part).__name__}. `reset='restart'` cannot tell "
            "whether that belongs to them and must restart, or is another "
            "transformation's and must go on. Put moments and what belongs to them in "
            "a NamedTuple, or pass `reset='moments'` or `reset=None`."
        )


def _refuse_unknown(marks: Any, size: int, reset: Reset) -> None:
    """Raises an error if as much of a state as its moments would be is not known."""

    def count(mark: Any) -> int:
        # Norms of weights are not moments.
        if _is_all_moments(mark) or hasattr(mark, "norms"):
            return 0
        if reset == "restart" and _restarts(mark):
            return 0
        if jax.tree_util.all_leaves([mark]):
            return jnp.size(mark) if jnp.ndim(mark) and _is_float(mark) else 0
        return sum(map(count, _one_level(mark)[0]))

    if (unknown := count(marks)) >= size > 0:
        raise ValueError(
            f"The state of the inner optimizer has {unknown} numbers in arrays that "
            f"are not shaped like the parameters, which have {size}: "
            f"`reset={reset!r}` cannot tell whether they are moments. Give moments the "
            "shapes of the parameters, keep them in one flat vector, or put them "
            "beside such moments in a NamedTuple; or pass `reset=None`."
        )


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
        gives for the parameters of that moment, together with all else in the container
        that directly holds it, be it a NamedTuple, a dataclass, a dict, a tuple or
        another node (Adam's count, so that its bias correction restarts); states
        without moments, such as the count of a learning-rate schedule, go on.
        "moments" resets only the state shaped like the parameters;
        steps 3 to 7 of Adam are then several times too long. None resets nothing.

    Returns:
      A transformation with a `ResetState`, whose `update` needs `params` unless
      `reset` is None.

    Raises:
      ValueError: If `reset` is another value, or the step is negative; in `update`, if
        it is unclear which part of the inner state restarts.
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
    inner = as_transformation(inner, "inner")

    def init_fn(params):
        return ResetState(init_phase(trigger), inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if reset is not None:
            params = check_params(params, "reset_at")
        _, first = phase_now(trigger, state)
        inner_state = reset_state(inner, state.inner_state, params, first, reset)
        updates, inner_state = inner.update(updates, inner_state, params, **extra_args)
        phase = next_phase(trigger, state.phase, first, extra_args)
        return updates, ResetState(phase, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
