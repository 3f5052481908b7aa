"""What every test may ask for, and how properties are searched."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy must not make a property fail: tests have their own time-outs.
settings.register_profile(
    "quick",
    deadline=None,
    max_examples=100,
    # A failure prints what repeats it; nothing is kept in the tree.
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "full", parent=settings.get_profile("quick"), max_examples=2_000
)
settings.load_profile("full" if os.environ.get("PGBASTION_TEST_FULL") else "quick")


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked with anyio run on asyncio, as the daemon does."""
    return "asyncio"
