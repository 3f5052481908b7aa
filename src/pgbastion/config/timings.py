"""The profiles' timings, and the relation that they have to keep.

Pure. All values are whole milliseconds.
"""

from dataclasses import dataclass, replace
from typing import Final

from pgbastion.model.profile import Profile

DRIFT_PPM: Final = 1_000
# An election time-out below this many heartbeats makes elections of lost packets.
HEARTBEATS_PER_ELECTION: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long everything may take that the lease depends on."""

    lease_ms: int
    """How long a grant lasts."""
    renew_ms: int
    """The holder sends a renewal this often."""
    deadline_ms: int
    """A renewal without an answer after this long has failed."""
    probe_ms: int
    """PostgreSQL and its disks are asked this often."""
    evidence_max_ms: int
    """A renewal needs evidence that is not older than this."""
    stop_ms: int
    """A stop may take this long: fast, then immediate, then kill."""
    margin_ms: int
    """Room for clock drift over one lease and for late scheduling."""
    heartbeat_ms: int
    """A Raft leader sends a heartbeat this often."""
    election_ms: int
    """A follower waits [t, 2t) without a leader before it asks for votes."""
    sync_silent_ms: int
    """A synchronous standby silent for this long leaves the set."""
    drift_ppm: int = DRIFT_PPM
    """The most by which two nodes' clock rates differ, in parts per million."""


PROFILES: Final = {
    Profile.FAST: Timings(
        lease_ms=2_000,
        renew_ms=250,
        deadline_ms=400,
        probe_ms=250,
        evidence_max_ms=800,
        stop_ms=350,
        margin_ms=200,
        heartbeat_ms=50,
        election_ms=400,
        sync_silent_ms=600,
    ),
    Profile.NORMAL: Timings(
        lease_ms=5_000,
        renew_ms=750,
        deadline_ms=1_000,
        probe_ms=500,
        evidence_max_ms=2_000,
        stop_ms=1_700,
        margin_ms=500,
        heartbeat_ms=100,
        election_ms=500,
        sync_silent_ms=1_000,
    ),
    Profile.WIDE: Timings(
        lease_ms=30_000,
        renew_ms=5_000,
        deadline_ms=5_000,
        probe_ms=2_000,
        evidence_max_ms=10_000,
        stop_ms=12_000,
        margin_ms=2_000,
        heartbeat_ms=500,
        election_ms=3_000,
        sync_silent_ms=10_000,
    ),
}


def timings_of(
    profile: Profile, *, heartbeat_ms: int | None = None, election_ms: int | None = None
) -> Timings:
    """Return the timings of ``profile``, with Raft's own two replaced where given."""
    timings = PROFILES[profile]
    if heartbeat_ms is not None:
        timings = replace(timings, heartbeat_ms=heartbeat_ms)
    if election_ms is not None:
        timings = replace(timings, election_ms=election_ms)
    return timings


def timings_on_node(
    profile: Profile, *, heartbeat_ms: int | None, election_ms: int | None
) -> Timings:
    """Return a profile's timings on a node whose file replaces Raft's own two.

    What was written for another profile and does not fit this one is left out.
    """
    timings = timings_of(profile, heartbeat_ms=heartbeat_ms, election_ms=election_ms)
    return PROFILES[profile] if timing_faults(timings) else timings


def smallest_lease_ms(timings: Timings) -> int:
    """Return the shortest lease under which a new Raft leader stops no primary.

    The worst case, counted from the instant at which the last answered renewal was
    sent: the leader dies just before the next renewal leaves (``renew_ms``); the
    followers notice after at most two election time-outs, since each draws its own from
    [t, 2t); the renewal, sent anew to the new leader, takes its full deadline. What is
    left of the lease then must still hold the stop and the margin, since the holder
    begins to stop that long before its expiry.

    Source:
        docs/explanation/safety.md, rules 4 and S3.
    """
    return (
        timings.renew_ms
        + 2 * timings.election_ms
        + timings.deadline_ms
        + timings.stop_ms
        + timings.margin_ms
    )


def timing_faults(timings: Timings) -> list[str]:
    """Return what does not fit together, one sentence each; empty when all does."""
    least_ms = smallest_lease_ms(timings)
    drift_ms = -(-timings.lease_ms * timings.drift_ppm // 1_000_000)
    faults = []
    if timings.lease_ms < least_ms:
        faults.append(
            f"the lease of {timings.lease_ms} ms is too short: renew "
            f"{timings.renew_ms} + 2 x election {timings.election_ms} + deadline "
            f"{timings.deadline_ms} + stop {timings.stop_ms} + margin "
            f"{timings.margin_ms} = {least_ms} ms"
        )
    if timings.election_ms < HEARTBEATS_PER_ELECTION * timings.heartbeat_ms:
        faults.append(
            f"an election time-out of {timings.election_ms} ms is less than "
            f"{HEARTBEATS_PER_ELECTION} heartbeats of {timings.heartbeat_ms} ms"
        )
    if timings.margin_ms <= drift_ms:
        faults.append(
            f"the margin of {timings.margin_ms} ms does not cover a drift of "
            f"{drift_ms} ms over one lease"
        )
    if timings.evidence_max_ms < 2 * timings.probe_ms:
        faults.append(
            f"evidence may be {timings.evidence_max_ms} ms old but is renewed only "
            f"every {timings.probe_ms} ms: one late probe would end the lease"
        )
    return faults
