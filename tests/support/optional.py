"""What tests use and older versions of JAX and Optax lack or name differently."""

from typing import Any

import jax
import jax.experimental
import optax
import pytest

# Goes with jax 0.8.0.
enable_x64 = getattr(jax, "enable_x64", None) or jax.experimental.enable_x64

# Goes with optax 0.2.4.
partition = getattr(optax, "partition", None) or optax.multi_transform


def from_optax(name: str) -> Any:
    """`optax.name`; skips the test if this version of Optax does not have it."""
    found = optax
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        pytest.skip(f"Optax {optax.__version__} has no {name}")
    return found
