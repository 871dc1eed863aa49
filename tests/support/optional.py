"""What tests use and older versions of JAX and Optax lack or name differently."""

from typing import Any

import jax
import jax.experimental
import optax
import pytest

from lawn_optax._versions import OPTAX

try:
    from flax import nnx
except ModuleNotFoundError:
    nnx = None

# Goes with jax 0.8.0.
if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:
    enable_x64 = jax.experimental.enable_x64

# Goes with optax 0.2.4.
partition = getattr(optax, "partition", None) or optax.multi_transform

# Goes with jax 0.8.0.
set_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh

# Goes with flax 0.12.0. (Tests that use it are not collected without Flax.)
NnxList = getattr(nnx, "List", list) if nnx else list


def needs_optax(*version: int) -> None:
    """Skips the test if this version of Optax is older."""
    if version > OPTAX:
        pytest.skip(f"Optax {optax.__version__} cannot do what this test is about")


def tree_map_params(*arguments: Any, **options: Any) -> Any:
    """Optax's function of this name; skips the test where it does not run."""
    needs_optax(0, 2, 3)
    return optax.tree_utils.tree_map_params(*arguments, **options)


def from_optax(name: str) -> Any:
    """`optax.name`; skips the test if this version of Optax does not have it."""
    found = optax
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        pytest.skip(f"Optax {optax.__version__} has no {name}")
    return found
