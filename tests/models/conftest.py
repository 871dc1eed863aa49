"""What tests of networks share."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_fast(fast_compilation):
    """What a network computes does not depend on what makes its program fast."""
