# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Types and checks that the modules share."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

PyTree = Any
Scalar = float | jax.Array
LearningRate = Scalar | optax.Schedule
Mask = optax.Params | Callable[[optax.Params], optax.Params] | None
GroupsFn = Callable[[PyTree], PyTree]
Groups = str | GroupsFn  # a name, or a function from the parameters to labels
Projections = Literal[1, 2]  # 1: the gradient only; 2: gradient and update
AxisName = None | str | tuple[str, ...] | Callable[[PyTree], PyTree]


def check_params(params: Any, name: str) -> Any:
    """The parameters that `update` of the public function `name` got.

    Leaves that are no numbers, such as the functions in an Equinox module, become None,
    as they are in its gradients.

    Raises:
      ValueError: If there are none.
    """
    if params is None:
        raise ValueError(
            f"{name} needs `params`: it is a function of the current weights. Call "
            "`tx.update(grads, state, params)`."
        )
    leaves, treedef = jax.tree.flatten(params)
    numbers = [hasattr(x, "dtype") or isinstance(x, int | float | complex)
               for x in leaves]  # fmt: skip
    if all(numbers):
        return params
    pairs = zip(leaves, numbers, strict=True)
    return treedef.unflatten([x if is_number else None for x, is_number in pairs])


def as_transformation(inner: Any, name: str) -> optax.GradientTransformationExtraArgs:
    """An optimizer that takes extra arguments.

    Raises:
      TypeError: If the argument `name` is none.
    """
    if not (hasattr(inner, "init") and hasattr(inner, "update")):
        raise TypeError(
            f"`{name}` must be an Optax transformation, such as `optax.adam(1e-3)`, "
            f"got {inner!r}."
        )
    return optax.with_extra_args_support(inner)


def check_static(
    name: str,
    value: Any,
    must_be: str,
    *,
    types: Any = object,
    values: tuple | None = None,
) -> None:
    """Raises an error if an argument that decides the compiled program is invalid."""
    if isinstance(value, jax.Array) or not isinstance(value, types):
        raise TypeError(
            f"`{name}` must be {must_be}, got {type(value).__name__}. It is static: "
            "under `optax.inject_hyperparams` list it in `static_args`."
        )
    if values is not None and value not in values:
        raise ValueError(f"`{name}` must be {must_be}, got {value!r}.")


def select(pred: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`jnp.where` for trees."""
    return jax.tree.map(lambda t, f: jnp.where(pred, t, f), on_true, on_false)


def as_float(x: ArrayLike) -> jax.Array:
    """An array of JAX's default float type."""
    return jnp.asarray(x, jnp.result_type(float))
