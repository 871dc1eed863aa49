# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""States between two updates: checked, captured again, or adopted in mid-run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lawn_optax._constraint import Sphere, has_value
from lawn_optax._describe import distance
from lawn_optax._radius import Radius
from lawn_optax._reset import ResetState
from lawn_optax._states import (
    Fields,
    Found,
    check_order,
    check_values,
    find_states,
    phase_of,
    replace_norms,
    states_with_norms,
)
from lawn_optax._types import AxisName, Groups, PyTree
from lawn_optax._wrap import LawnState
from lawn_optax.diagnostics._step import moving_norms
from lawn_optax.groups._resolve import Grouping, resolve
from lawn_optax.groups._select import matches
from lawn_optax.groups._tree import path_string


def check(
    state: optax.OptState,
    params: PyTree,
    *,
    groups: Groups = "layer",
    rtol: float | None = None,
    grads: PyTree | None = None,
    allow_free: bool = True,
) -> None:
    """Raises an error if a state does not fit the parameters, or a norm is not kept.

    Call it outside `jit`: once after a restore, where it finds renamed modules and
    other groups, and once after the first constrained updates, where it finds a
    transformation behind `wrap` that changes updates. (An `update` outside `jit` finds
    the former by itself.)

    Args:
      state: Optimizer state with a LAWN state at any depth.
      params: Parameters as the last update left them.
      groups: Weights that share one norm, as given to the optimizer.
      rtol: Largest relative distance of a norm from the captured one. None is 1e-4, or
        twice the machine epsilon of the narrowest parameter if that is more.
      grads: Gradients, where some of them are None: a leaf without a gradient is no
        part of its group's norm. None stands for gradients of all leaves.
      allow_free: Whether a group may be free for good because it had no norm at the
        switch, as a projection that starts at zero. True by default, because biases
        that are groups by themselves often start at zero. What `groups` leaves free
        always may.

    Raises:
      TypeError: If the first two are swapped.
      ValueError: If there is no LAWN state, none was made for these groups, the state
        has an axis of replicas, a norm is off, or a group is free that may not be.
        Norms are compared in the constrained phase only, and not those of
        `project_tangent` alone, which nothing keeps.

    Returns:
      None.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> tx = optax.chain(lawn.wrap(optax.sgd(0.1)), optax.scale(2.0))  # wrong order
      >>> w = jnp.array([3.0, 4.0])
      >>> updates, state = tx.update(jnp.array([4.0, -3.0]), tx.init(w), w)
      >>> lawn.check(state, w + updates)
      Traceback (most recent call last):
      ValueError: 1 of 1 norms left their spheres:
        /: captured 5, now 5.04938
      A transformation behind `lawn.wrap` changed the updates, or the parameters were
      changed. Put transformations inside: `lawn.wrap(optax.chain(...))`. If you
      changed the parameters yourself, use `lawn.recapture(state, params)`. A new
      radius holds from the next update on. If gradients are None, pass `grads=`.
    """
    check_order(params, "call `lawn.check(state, params)`")
    grouping = resolve(groups, params)
    if any(jnp.ndim(found.norms) != 1 for found in states_with_norms(state)):
        raise ValueError(
            "The optimizer state has an axis of replicas: pass one of them, "
            "`jax.tree.map(lambda x: x[0], state)`, with its parameters."
        )
    states = find_states(state, grouping)
    now = moving_norms(grads, params, groups)
    check_values(now)
    now = np.asarray(now)
    if rtol is None:
        leaves = [i for block in grouping.blocks for i in block.leaves]
        types = [jnp.result_type(jax.tree.leaves(params)[i]) for i in leaves]
        rtol = max([1e-4, *(2 * float(jnp.finfo(t).eps) for t in types)])
    for found in states:
        bound = found.norms > 0 if found.kept else np.zeros(len(now), bool)
        captured = np.where(bound, found.norms, 1)
        # `not <=`, so that NaN counts.
        off = bound & ~(distance(captured, now, found.at_most) <= rtol)
        if off.any():
            raise ValueError(
                f"{off.sum()} of {len(off)} norms left their "
                f"{'balls' if found.at_most else 'spheres'}:\n"
                + _listed(grouping, off, captured, now)
                + "A transformation behind `lawn.wrap` changed the updates, or the "
                "parameters were\nchanged. Put transformations inside: "
                "`lawn.wrap(optax.chain(...))`. If you\nchanged the parameters "
                "yourself, use `lawn.recapture(state, params)`. A new\nradius holds "
                "from the next update on. If gradients are None, pass `grads=`."
            )
        free = (found.norms == 0) & bool(found.phase.switched_at >= 0)
        if not allow_free and free.any():
            raise ValueError(
                f"{free.sum()} of {len(free)} norms are free, because they were zero "
                "or not finite at the switch:\n"
                + _listed(grouping, free, found.norms, now)
                + "Give them free updates to grow in (`switch_step`), or let "
                "`lawn.recapture(state,\nparams)` read their norms now. If they are to "
                "be free, say so in `groups`."
            )


def _listed(grouping: Grouping, off: Any, captured: Any, now: Any) -> str:
    lines = []
    for block in grouping.blocks:
        for k in range(block.start, block.start + block.size):
            if off[k]:
                index = f"[{k - block.start}]" if block.size > 1 else ""
                name = f"{block.name}{index}"
                lines.append(f"  {name}: captured {captured[k]:.6g}, now {now[k]:.6g}")
    rest = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
    return "\n".join([*lines[:5], *rest, ""])


_NO_STATE = (
    "No LAWN state in the optimizer state has the norms of these groups: pass the "
    "`groups` and the parameters that the optimizer was made with (under "
    "`optax.masked` or `optax.partition`, with None for what they mask out)."
)


def recapture(
    state: optax.OptState,
    params: PyTree,
    *,
    paths: tuple[str, ...] | None = None,
    groups: Groups = "layer",
    radius: Radius = None,
    axis_name: AxisName = None,
    grads: PyTree | None = None,
) -> optax.OptState:
    """The same state with norms read anew from the parameters.

    Use it after you changed weights in mid-run, by a new initialisation of a layer for
    example: with its old norm in the state, the layer would jump back to it in the next
    update. A group that is zero is free from then on; a group that was free because it
    was zero is constrained. In the free phase nothing changes, since no norm is
    captured yet. Moments stay as they are.

    Args:
      state: Optimizer state with LAWN states at any depth.
      params: Parameters with the new weights.
      paths: Whole path components of the leaves that changed, such as "decoder/head";
        their whole groups are captured again. None is all of them, and then, outside
        `jit`, modules may have other names than those that the state was made with.
        (The moments of the inner optimizer keep the old names: rename them too.)
      groups: Weights that share one norm, as given to the optimizer.
      radius: Norms that are given instead of read, as given to the optimizer. The next
        update moves the weights there; `to_norms` does it at once.
      axis_name: Mesh axes over which parameters are sharded; see `project_tangent`.
      grads: Gradients, where some of them are None; see `check`.

    Returns:
      A state of the same structure, also of the `opt_state` or the `nnx.state` of an
      `nnx.Optimizer`. Works under `jit` and `vmap`, where only states that were made
      for these very groups change.

    Raises:
      TypeError: If `paths` is one string, or state and parameters are swapped.
      ValueError: If no LAWN state has the norms of these groups, if a path matches no
        leaf, or for `reparametrize` and `bounded_weight_norm`, whose states hold the
        weights too.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> params = {"body": jnp.array([[3.0, 4.0]]), "head": jnp.array([[6.0, 8.0]])}
      >>> tx = lawn.wrap(optax.sgd(0.1), groups="leaf")
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> params["head"] = jnp.array([[0.6, 0.8]])
      >>> state = lawn.recapture(state, params, paths=("head",), groups="leaf")
      >>> print(state.norms)
      [5. 1.]
    """
    if isinstance(paths, str):
        raise TypeError(f"`paths` must be a tuple of paths, got {paths!r}.")
    check_order(params, "call `lawn.recapture(state, params)`")
    grouping = resolve(groups, params)
    chosen = np.ones(grouping.num_norms, bool)
    if paths is not None:
        leaves = matches(params, paths)
        for block in grouping.blocks:
            own = slice(block.start, block.start + block.size)
            chosen[own] = any(leaves[i] for i in block.leaves)

    def as_long(norms: Any) -> bool:
        return jnp.shape(norms) == (grouping.num_norms,)

    marks = [x.fingerprint for x in states_with_norms(state) if as_long(x.norms)]
    traced = not all(map(has_value, marks))
    found = set() if traced else {int(mark) for mark in marks}
    own = grouping.fingerprint
    renamed = not traced and own not in found and paths is None
    if not marks or not (traced or renamed or own in found):
        raise ValueError(_NO_STATE)
    if renamed and len(found) > 1:
        raise ValueError(
            f"The optimizer state has {len(found)} LAWN states for other groups than "
            "these, with as many norms: pass the part of it that holds one of them."
        )

    def renew(node: Any) -> dict[str, Any]:
        fields = Fields(node)
        name = fields.norms_name()
        old, mark = fields[name], fields["fingerprint"]
        if not (as_long(old) and (traced or renamed or int(mark) == own)):
            return {}
        if fields.has("trained"):
            raise ValueError(
                f"A {type(node).__name__} holds the weights themselves: start with a "
                "new state, `tx.init(params)`."
            )
        new_mark, on = jnp.asarray(own, jnp.int32), jnp.ones([], bool)
        mine = renamed | (mark == new_mark)
        phase = phase_of(fields["phase"])
        known: Any = Found(phase, old, new_mark)
        sphere, _ = Sphere.capture(
            grouping,
            axis_name,
            params,
            params if grads is None else grads,
            known,
            on,
            on,
            radius,
        )
        new = chosen & (phase.switched_at >= 0) & mine
        return {
            name: jnp.where(new, sphere.norm_vector(), old),
            "fingerprint": jnp.where(mine, new_mark, mark),
        }

    return replace_norms(state, renew)


def adopt(state: optax.OptState, running: optax.OptState) -> optax.OptState:
    """A new LAWN state around the state of an optimizer that is in mid-run.

    With it you switch LAWN on in a run that began without: moments, counts and
    schedules of the running optimizer go on, and the switch counts from here. For
    ``switch_step=0`` the next update captures the norms and treats the moments as
    `reset` says, as if `wrap` had been there from the start with a switch at this
    update.

    Args:
      state: New state, ``tx.init(params)``, of an optimizer with `wrap` in it.
      running: State of the same optimizer without `wrap`.

    Returns:
      The state to go on with.

    Raises:
      ValueError: If the two optimizers differ in more than `wrap`.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> w = jnp.array([3.0, 4.0])
      >>> _, running = (adam := optax.adam(0.1)).update(w, adam.init(w), w)
      >>> tx = lawn.wrap(optax.adam(0.1), switch_step=10)
      >>> state = lawn.adopt(tx.init(w), running)
      >>> int(state.inner_state[0].count), int(state.phase.count)
      (1, 0)
    """
    found = 0

    def walk(new: Any, old: Any, path: tuple = ()) -> Any:
        nonlocal found
        if isinstance(new, LawnState | ResetState):
            found += 1
            return new._replace(inner_state=walk(new.inner_state, old, path))
        (children, treedef), (others, other) = (
            jax.tree_util.tree_flatten_with_path(
                node, is_leaf=lambda x, node=node: x is not node
            )
            for node in (new, old)
        )
        leaf = jax.tree_util.all_leaves([new])
        if leaf:
            same = jax.tree_util.all_leaves([old]) and _named(new) == _named(old)
        else:
            same = treedef == other
        if not same:
            static = " with other static fields" if _named(old) == _named(new) else ""
            raise ValueError(
                "The running state must be that of the same optimizer without "
                f"`lawn.wrap`, but at {path_string(path) or 'the top'} it has "
                f"{_named(old)}, where the new state has {_named(new)}{static}. (Of "
                "train states, pass the `opt_state`.)"
            )
        if leaf:
            return old
        return treedef.unflatten(
            walk(x, y, (*path, *key))
            for (key, x), (_, y) in zip(children, others, strict=True)
        )

    out = walk(state, running)
    if not found:
        raise ValueError("There is no state of `lawn.wrap` in the new state.")
    return out


def _named(node: Any) -> str:
    if jax.tree_util.all_leaves([node]):
        return f"{getattr(node, 'dtype', type(node))} of the shape {jnp.shape(node)}"
    children, _ = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    names = [path_string(path) for path, _ in children]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"a {type(node).__name__} of {', '.join(names[:5]) or 'nothing'}{more}"
