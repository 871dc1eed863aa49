"""Comparisons that fail on NaN."""

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

import lawn_optax as lawn


def close(
    actual: ArrayLike, expected: ArrayLike, rtol: float = 1e-6, atol: float = 0.0
) -> None:
    """Arrays within the tolerances; their shapes may broadcast."""
    np.testing.assert_allclose(
        wide(actual), wide(expected), rtol=rtol, atol=atol, equal_nan=False
    )


def assert_close(actual: Any, expected: Any, *, rtol: float, atol: float = 0) -> None:
    """Same structure and values within the tolerances; NaN is close to nothing."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, a, e in _pairs(actual, expected):
        np.testing.assert_allclose(wide(a), wide(e), rtol, atol, False, path)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Same structure, types and bits: NaN is NaN, 0 is not -0."""
    assert signature(actual, weak=False) == signature(expected, weak=False)
    for path, a, e in _pairs(actual, expected):
        same = np.asarray(a).tobytes() == np.asarray(e).tobytes()
        assert same, f"{path}: {a} is not {e}"


def _pairs(actual: Any, expected: Any):
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), e in zip(leaves, jax.tree.leaves(expected), strict=True):
        yield jax.tree_util.keystr(path), a, e


def signature(tree: Any, weak: bool = True) -> tuple:
    """What a compiled function depends on: structure, shapes, dtypes, weak types."""
    types = [
        (x.shape, x.dtype, weak and getattr(x, "weak_type", False))
        for x in map(jax.typeof, jax.tree.leaves(tree))
    ]
    return jax.tree.structure(tree), types


def wide(x: Any) -> np.ndarray:
    """As NumPy float64 or complex128, which bfloat16 can be compared in."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def moved(before: Any, after: Any) -> bool:
    """Whether every leaf changed: a test of a step must not pass without a step."""
    return all(np.any(wide(a) != wide(b)) for _, a, b in _pairs(before, after))


def norms_of(params: Any, groups: Any = "layer") -> np.ndarray:
    return np.asarray(lawn.diagnostics.group_norms(params, groups=groups))
