"""The profiles and the relation that they keep."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.config.timings import (
    PROFILES,
    smallest_lease_ms,
    timing_faults,
    timings_of,
    timings_on_node,
)
from pgbastion.model.profile import Profile

NORMAL = PROFILES[Profile.NORMAL]


@pytest.mark.parametrize("profile", list(Profile))
def test_every_profile_keeps_the_relation_between_its_timings(profile: Profile) -> None:
    assert timing_faults(timings_of(profile)) == []


@pytest.mark.parametrize("profile", list(Profile))
def test_a_lease_one_millisecond_too_short_is_refused(profile: Profile) -> None:
    timings = timings_of(profile)
    short = replace(timings, lease_ms=smallest_lease_ms(timings) - 1)

    assert "lease" in timing_faults(short)[0]


@given(
    renew=st.integers(1, 5_000),
    election=st.integers(1, 5_000),
    deadline=st.integers(1, 5_000),
    stop=st.integers(1, 5_000),
)
def test_after_the_slowest_election_the_stop_still_fits(
    renew: int, election: int, deadline: int, stop: int
) -> None:
    """A renewal answered at the last moment extends a lease before its holder stops."""
    timings = replace(
        NORMAL, renew_ms=renew, election_ms=election, deadline_ms=deadline, stop_ms=stop
    )
    timings = replace(timings, lease_ms=smallest_lease_ms(timings))
    sent_ms = 0
    answered_ms = sent_ms + renew + 2 * election + deadline

    assert answered_ms <= sent_ms + timings.lease_ms - stop - timings.margin_ms


def test_an_election_time_out_near_the_heartbeat_is_refused() -> None:
    timings = timings_of(Profile.NORMAL, heartbeat_ms=200, election_ms=500)

    assert ["heartbeats" in fault for fault in timing_faults(timings)] == [True]


def test_a_margin_that_does_not_cover_the_drift_is_refused() -> None:
    timings = replace(NORMAL, lease_ms=600_000)

    assert ["drift" in fault for fault in timing_faults(timings)] == [True]


def test_evidence_that_one_late_probe_ends_is_refused() -> None:
    timings = replace(NORMAL, evidence_max_ms=NORMAL.probe_ms)

    assert ["probe" in fault for fault in timing_faults(timings)] == [True]


def test_raft_timings_of_the_file_override_the_profile() -> None:
    timings = timings_of(Profile.WIDE, heartbeat_ms=300, election_ms=2_000)

    assert timings == replace(
        PROFILES[Profile.WIDE], heartbeat_ms=300, election_ms=2_000
    )


def test_what_was_written_for_another_profile_and_does_not_fit_is_left_out() -> None:
    slow = {"heartbeat_ms": 400, "election_ms": 2_500}

    assert timings_on_node(Profile.WIDE, **slow).election_ms == 2_500
    assert timings_on_node(Profile.FAST, **slow) == PROFILES[Profile.FAST]
