# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""What differs between the versions of JAX and Optax that the library runs with.

Each entry says with which lower bound in `pyproject.toml` it can go.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import optax

from lawn_optax._types import LearningRate, Mask

JAXLIB, OPTAX = (
    tuple(map(int, re.findall(r"\d+", package.__version__)[:3]))
    for package in (jaxlib, optax)
)

# Goes with optax 0.2.4.
safe_increment = getattr(optax, "safe_increment", None) or optax.safe_int32_increment


def add_decayed_weights(
    weight_decay: LearningRate, mask: Mask
) -> optax.GradientTransformation:
    """Weight decay whose coefficient may be a schedule."""
    if OPTAX >= (0, 2, 6) or not callable(weight_decay):
        return optax.add_decayed_weights(weight_decay, mask)
    # Goes with optax 0.2.6.
    decay = optax.inject_hyperparams(optax.add_decayed_weights, static_args="mask")
    return decay(weight_decay, mask)


def tree_map_params(
    tx: optax.GradientTransformation,
    f: Callable[[Any], Any],
    state: optax.OptState,
    is_leaf: Callable[[Any], bool],
) -> optax.OptState:
    """Maps the parts of a state that are shaped like the parameters."""
    if OPTAX >= (0, 2, 3):
        return optax.tree_utils.tree_map_params(tx, f, state, is_leaf=is_leaf)
    # Goes with optax 0.2.3: the function before it does not run with jax 0.6 and newer.
    utils: Any = optax.tree_utils
    stand_in = utils._state_utils._ParamsPlaceholder
    return jax.tree.map(
        lambda of_init, part: (
            jax.tree.map(f, part, is_leaf=is_leaf)
            if isinstance(of_init, stand_in)
            else part
        ),
        tx.init(stand_in()),
        state,
        is_leaf=lambda node: isinstance(node, stand_in),
    )


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The mesh axes that an array varies on inside `shard_map`."""
    kind: Any = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return kind.manual_axis_type.varying
    return kind.vma  # Goes with jax 0.10.0.


def inner_product(
    x: jax.Array, y: jax.Array, kept: tuple[int, ...], summed: tuple[int, ...]
) -> jax.Array:
    """The sum of x y over some axes; the others stay, in the order of `kept`."""
    # On a CPU, sum(x * y) is accumulated term by term for some shapes, with an error of
    # 5e-6 where the weights are alike.
    contract = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=((summed, summed), (kept, kept)),
        precision=jax.lax.Precision.HIGHEST,
    )
    if JAXLIB >= (0, 10, 2):
        return contract(x, y)
    # Goes with jaxlib 0.10.2: until then, `dot_general` is accumulated term by term for
    # all shapes, with an error of 1e-2 in the sum of two million terms that are alike.
    in_stages = functools.partial(_sum_in_stages, kept=kept, summed=summed)
    return jax.lax.platform_dependent(x, y, cpu=in_stages, default=contract)


def _sum_in_stages(
    x: jax.Array, y: jax.Array, kept: tuple[int, ...], summed: tuple[int, ...]
) -> jax.Array:
    """`inner_product` by three sums, each of about the cube root of all terms."""
    terms = jnp.transpose(x * y, (*kept, *summed))
    size = math.prod(terms.shape[len(kept) :])
    terms = terms.reshape(*terms.shape[: len(kept)], size)
    for stages in (3, 2) if size > 32 else ():
        rows = math.ceil(size ** (1 / stages))
        short = rows * -(-size // rows) - size
        terms = jnp.pad(terms, [(0, 0)] * len(kept) + [(0, short)])
        size = (size + short) // rows
        terms = terms.reshape(*terms.shape[:-1], rows, size).sum(-2)
        # Without a barrier, XLA makes one sum of all stages.
        terms = jax.lax.optimization_barrier(terms)
    return terms.sum(-1)
