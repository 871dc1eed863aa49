# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Types and checks that the modules share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Scalar = float | jax.Array
LearningRate = Scalar | optax.Schedule
Mask = optax.Params | Callable[[optax.Params], optax.Params] | None
GroupsFn = Callable[[PyTree], PyTree]
Groups = str | GroupsFn
AxisName = None | str | tuple[str, ...] | Callable[[PyTree], PyTree]


def check_params(params: Any, name: str) -> None:
    if params is None:
        raise ValueError(
            f"{name} needs `params`: it is a function of the current weights. Call "
            "`tx.update(grads, state, params)`."
        )


def select(pred: jax.Array, on_true: Any, on_false: Any) -> Any:
    return jax.tree.map(lambda t, f: jnp.where(pred, t, f), on_true, on_false)
