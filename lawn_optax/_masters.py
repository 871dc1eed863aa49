# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Float32 copies of narrow parameters, which keep what an update of them would lose."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lawn_optax._geometry import rounded
from lawn_optax._types import as_transformation, check_params
from lawn_optax.groups._resolve import absent


class MasterState(NamedTuple):
    """State of the transformation returned by `master_weights`."""

    masters: optax.Params  # float32; `MaskedNode` where a parameter is wide already
    inner_state: optax.OptState


def master_weights(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on float32 copies of bfloat16 or float16 parameters.

    An update that is shorter than half the distance between two bfloat16 numbers
    changes nothing, so small rotations are lost. The state keeps float32 masters of the
    narrow parameters, and the parameters follow them: after `optax.apply_updates` they
    are the masters, rounded. Norms are kept by the masters.

    A parameter that is not its rounded master, because it is new or was changed by
    others, replaces it. So nothing needs to be told after a restore or a new
    initialisation of a layer.

    Args:
      inner: The whole optimizer, `wrap` and other constraints included, and also
        `optax.apply_if_finite` or `optax.MultiSteps`. It sees float32 gradients,
        parameters and moments.

    Returns:
      A transformation whose `update` needs `params`. Its updates of narrow parameters
      are float32, for `optax.apply_updates` to add before it rounds. Extra arguments
      reach `inner`.

    Examples:
      >>> import jax.numpy as jnp, optax, lawn_optax as lawn
      >>> for tx in (optax.sgd(1e-3), lawn.master_weights(optax.sgd(1e-3))):
      ...     w = jnp.ones(2, jnp.bfloat16)
      ...     state = tx.init(w)
      ...     for _ in range(100):
      ...         updates, state = tx.update(-jnp.ones_like(w), state, w)
      ...         w = optax.apply_updates(w, updates)
      ...     print(w.astype(jnp.float32))
      [1. 1.]
      [1.1015625 1.1015625]

    References:
      Micikevicius et al. 2018, "Mixed Precision Training", arXiv:1710.03740, section
      3.1.
    """
    inner = as_transformation(inner, "inner")

    def init_fn(params):
        params = check_params(params, "master_weights")  # as `update` sees them
        return MasterState(jax.tree.map(_no_master, params), inner.init(_wide(params)))

    def update_fn(updates, state, params=None, **extra_args):
        params = check_params(params, "master_weights")
        treedef = jax.tree.structure(params)
        old = treedef.flatten_up_to(state.masters)
        weights = [
            _current(m, p) for m, p in zip(old, jax.tree.leaves(params), strict=True)
        ]
        steps, inner_state = inner.update(
            jax.tree.map(_widened, updates, params, is_leaf=absent),
            state.inner_state,
            treedef.unflatten(weights),
            **extra_args,
        )
        out, masters = [], []
        for p, master, w, u in zip(
            jax.tree.leaves(params), old, weights, treedef.flatten_up_to(steps),
            strict=True,
        ):  # fmt: skip
            if absent(master):
                out.append(u)
                masters.append(master)
                continue
            new = w if absent(u) else w + u
            out.append(u if absent(u) else rounded(new, p.dtype) - _widened(p, p))
            masters.append(new)
        return treedef.unflatten(out), MasterState(
            treedef.unflatten(masters), inner_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_narrow(p: Any) -> bool:
    dtype = getattr(p, "dtype", None)
    return (
        dtype is not None
        and jnp.issubdtype(dtype, jnp.floating)
        and jnp.finfo(dtype).bits < 32
    )


def _no_master(p: Any) -> Any:
    """Zeros, which the first update replaces: `init` reads no parameter."""
    return jnp.zeros_like(p, jnp.float32) if _is_narrow(p) else optax.MaskedNode()


def _widened(x: Any, p: Any) -> Any:
    """X in float32 if its parameter p is narrow."""
    return x if absent(x) or not _is_narrow(p) else x.astype(jnp.float32)


def _wide(params: optax.Params) -> optax.Params:
    def widen(p: Any) -> Any:
        if isinstance(p, jax.ShapeDtypeStruct) and _is_narrow(p):
            return p.update(dtype=jnp.float32)
        return _widened(p, p)

    return jax.tree.map(widen, params)


def _current(master: Any, p: Any) -> Any:
    """The master, or the parameter where that is not the rounded master."""
    if absent(master):
        return p
    return jnp.where(rounded(master, p.dtype) == p, master, _widened(p, p))
