"""What tests of benchmarks share."""

import pytest

from benchmarks import step_overhead
from benchmarks.throughput import images, ncf
from tests.support import compilation


@pytest.fixture
def short_samples(monkeypatch):
    """Samples of one call; arms with one device, and programs that need not be fast."""
    for module in (step_overhead, images, ncf):
        monkeypatch.setattr(module, "MIN_SECONDS", 1e-9)
    monkeypatch.setenv("XLA_FLAGS", compilation.flags())
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # and back again
