"""What tests of benchmarks share."""

import pytest

from benchmarks import step_overhead
from benchmarks.throughput import images, ncf


@pytest.fixture
def short_samples(monkeypatch):
    """Samples of one call; arms with one device, and programs that need not be fast."""
    for module in (step_overhead, images, ncf):
        monkeypatch.setattr(module, "MIN_SECONDS", 1e-9)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # and back again
