# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""States with captured norms, found at any depth of an optimizer state.

A state may also be a mapping, as checkpoints and `nnx.state` have it, and its arrays
may be in boxes, such as nnx's variables.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.core import Tracer

from lawn_optax._reset import ResetState
from lawn_optax._switch import PhaseState
from lawn_optax._types import PyTree
from lawn_optax.groups._resolve import Grouping
from lawn_optax.groups._tree import path_string

NO_STATE = (
    "There is no LAWN state in the optimizer state: pass the state of an optimizer "
    "that has `lawn.wrap` or another constraint in it. `lawn.brake` and "
    "`lawn.min_update` keep no norms; watch them with `lawn.monitor`."
)


class Found(NamedTuple):
    """The captured norms of one state, and the phase that they belong to."""

    phase: PhaseState
    norms: Any  # as in the state; from `find_states` an array [num_norms]
    fingerprint: Any
    kept: bool = True  # False for norms that only tell which groups are free
    axes: tuple[int, ...] = ()  # sizes of the axes of replicas in front of the norms
    at_most: bool = False  # whether they are bounds, as in `max_norm`


def find_states(state: optax.OptState, grouping: Grouping) -> list[Found]:
    """The states with norms that were made for these groups; raises if none was.

    Those of `project_tangent` are among them only if no other keeps norms.
    """
    everything = list(states_with_norms(state))
    if not everything:
        raise ValueError(NO_STATE)
    check_values(everything)
    found = [
        _of_one_member(one)
        for one in everything
        if np.all(np.asarray(one.fingerprint) == grouping.fingerprint)
    ]
    if not found:
        sizes = dict.fromkeys(str(np.shape(one.norms)[-1]) for one in everything)
        raise ValueError(
            "The optimizer state was made for other groups than these: it has "
            f"{' and '.join(sizes)} norms, and these groups have {grouping.num_norms}. "
            "Pass the `groups` and the parameters that the optimizer was made with "
            "(under `optax.masked` or `optax.partition` with None for what they mask "
            "out, under `lawn.unfuse` those of `lawn.unfused`). If modules were "
            "renamed since, `lawn.recapture(state, params)` reads the norms anew."
        )
    return [one for one in found if one.kept] or found


def _of_one_member(found: Found) -> Found:
    """With the norms of one replica; raises if the members of the state differ."""
    norms = np.asarray(found.norms)
    axes, rows = norms.shape[:-1], norms.reshape(-1, *norms.shape[-1:])
    if not axes:
        return found._replace(norms=norms)
    for x in (rows, *(np.asarray(x).reshape(len(rows), 1) for x in found.phase[:2])):
        if not np.array_equal(x, np.repeat(x[:1], len(x), 0), equal_nan=True):
            raise ValueError(one_member(axes))
    return found._replace(norms=rows[0], axes=axes)


def one_member(axes: tuple[int, ...]) -> str:
    """The error for a state with axes of replicas."""
    return (
        "State and parameters must be those of one member, but begin with axes of the "
        f"sizes {axes}, as under `jax.vmap` or `jax.pmap`: pass "
        "`jax.tree.map(lambda x: x[0], ...)` of both."
    )


def states_with_norms(node: Any, phase: PhaseState | None = None) -> Iterator[Found]:
    """All states with norms; `phase` is that of a switch around the node."""
    fields = Fields(node)
    if name := fields.norms_name():
        yield Found(
            phase or phase_of(fields["phase"]),
            fields[name],
            fields["fingerprint"],
            name == "norms",
            at_most=fields.has("at_most"),
        )
    # `switch_at` knows the step, the state inside it does not.
    if fields.has("phase", "transform_state", "before_state"):
        outer = phase_of(fields["phase"])
        yield from states_with_norms(fields["transform_state"], outer)
        yield from states_with_norms(fields["before_state"])
        return
    for child in jax.tree.leaves(node, is_leaf=lambda x: x is not node):
        if child is not node:
            yield from states_with_norms(child, phase)


def outermost_phases(node: Any) -> Iterator[PhaseState]:
    """The phases of the states that no other LAWN state contains.

    A state inside `switch_at` begins to count when it first runs.
    """
    fields = Fields(node)
    if (
        fields.norms_name()
        or fields.has("phase", "transform_state", "before_state")
        or isinstance(node, ResetState)
    ):
        yield phase_of(fields["phase"])
        return
    for child in jax.tree.leaves(node, is_leaf=lambda x: x is not node):
        if child is not node:
            yield from outermost_phases(child)


def replace_norms(node: Any, change: Callable[[Any], dict[str, Any]]) -> Any:
    """The same state, with what `change` gives for the fields of states with norms.

    Containers and boxes stay what they are.
    """
    if jax.tree_util.all_leaves([node]):
        return node
    new = change(node) if Fields(node).norms_name() else {}
    children, treedef = jax.tree_util.tree_flatten_with_path(
        node, is_leaf=lambda x: x is not node
    )
    return treedef.unflatten(
        jax.tree.unflatten(jax.tree.structure(child), [new[name]])
        if (name := path_string(path)) in new
        else replace_norms(child, change)
        for path, child in children
    )


class Fields:
    """Fields of a state, arrays without their boxes."""

    def __init__(self, node: Any):
        self.node, self.keyed = node, isinstance(node, Mapping)

    def has(self, *names: str) -> bool:
        """Whether it has all of these fields."""
        if self.keyed:
            return set(names) <= self.node.keys()
        return all(hasattr(self.node, name) for name in names)

    def norms_name(self) -> str:
        """The name of the field with the captured norms; "" if it has none."""
        names = ("captured", "norms")
        found = [name for name in names if self.has("phase", name, "fingerprint")]
        return found[0] if found else ""

    def __getitem__(self, name: str) -> Any:
        value = self.node[name] if self.keyed else getattr(self.node, name)
        leaves = jax.tree.leaves(value)
        boxed = len(leaves) == 1 and not isinstance(value, Mapping | tuple | list)
        return leaves[0] if boxed else value


def phase_of(node: Any) -> PhaseState:
    """A `PhaseState` of a phase in any form."""
    fields = Fields(node)
    watched = fields["watched"] if fields.has("watched") else ()
    return PhaseState(
        fields["count"], fields["switched_at"], fields["constrained"], watched
    )


def check_values(tree: Any) -> None:
    """Raises an error if there are no values to report: under `jit`, or of shapes."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Tracer | jax.ShapeDtypeStruct):
            raise ValueError(
                "Reports read the values of states and parameters: call them outside "
                f"`jit`, with arrays, not with {type(leaf).__name__}."
            )


def check_order(params: PyTree, call: str) -> None:
    """Raises an error if an optimizer state was passed in the place of parameters.

    Train states, which hold both, have an error of their own.
    """
    if not Fields(params).has("opt_state") and any(states_with_norms(params)):
        raise TypeError(f"Got an optimizer state in the place of parameters: {call}.")
