"""Strict settings for all tests: eight CPU devices, no silent broadcasting of ranks."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def no_rank_promotion():
    """Strict in `tests/` only: the documentation's examples are ordinary code."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    """Runs a test with 64-bit types."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
    """Equal programs of a module compile once; its processes take this environment."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", folder)
    yield {"JAX_COMPILATION_CACHE_DIR": folder}
    jax.config.update("jax_compilation_cache_dir", None)
