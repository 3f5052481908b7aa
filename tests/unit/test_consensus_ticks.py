"""Heartbeats and election time-outs of any profile, whichever the engine began with."""

from itertools import product

import pytest

from pgbastion.config.timings import PROFILES, Timings
from pgbastion.consensus.engine import TICKS_A_HEARTBEAT
from pgbastion.consensus.ticks import ticks_of

PAIRS = [
    pytest.param(PROFILES[first], PROFILES[later], id=f"{first}-{later}")
    for first, later in product(PROFILES, repeat=2)
]


@pytest.mark.parametrize(("first", "later"), PAIRS)
def test_heartbeats_have_the_share_of_the_profile(
    first: Timings, later: Timings
) -> None:
    election_ticks = first.election_ms // (first.heartbeat_ms // TICKS_A_HEARTBEAT)

    tick_ms, heartbeat_ticks = ticks_of(
        later.heartbeat_ms, later.election_ms, election_ticks=election_ticks
    )

    assert 0 <= later.election_ms - tick_ms * election_ticks < election_ticks
    assert 0 <= later.heartbeat_ms - tick_ms * heartbeat_ticks < tick_ms


def test_there_is_at_most_one_heartbeat_a_tick() -> None:
    assert ticks_of(50, 400, election_ticks=5) == (80, 1)
    assert ticks_of(1, 3, election_ticks=10) == (1, 1)
