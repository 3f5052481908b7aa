"""The profile changes while clients write: the primary stays, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns
from pgbastion.config.timings import PROFILES
from pgbastion.model.profile import Profile
from support.lab_clients import post
from support.lab_faults import Clusters
from support.promises import nothing_lost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

FOLLOWED_S = 5.0
"""So soon all nodes go by another profile, and grants name its lease."""


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(Plan(profile="wide"))
    yield clusters
    clusters.close()


def policy(lab: Lab) -> dict[str, Any]:
    # Not the primary's node: a daemon that has just started knows nothing yet.
    return dict(lab.node("n2").get("/cluster/state")["policy"])


def change(lab: Lab, profile: Profile) -> None:
    said = post(lab, lab.node("n2"), "/cluster/profile", {"profile": profile})
    assert said["changed"], said


def wait_granted(lab: Lab, profile: Profile) -> None:
    lease_ms = PROFILES[profile].lease_ms

    def granted() -> bool:
        told = policy(lab)
        return told["granted_ms"] == lease_ms and not told["not_adopted"]

    waits.wait_for(f"leases of {profile}", granted, FOLLOWED_S)


def test_the_profile_changes_under_load_and_the_primary_stays(three: Clusters) -> None:
    wide_ms = PROFILES[Profile.WIDE].lease_ms
    with three.running() as lab:
        lab.wait_steady()
        assert policy(lab)["profile"] == Profile.WIDE
        primary, epoch = lab.primary(), lab.epoch()
        assert primary != "n2"
        writers = lab.writers()
        with writers:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            change(lab, Profile.NORMAL)
            wait_granted(lab, Profile.NORMAL)
            # Its file still says wide: by that its stop would be long overdue.
            holder = lab.node(primary)
            processes.kill(filter(None, [holder.daemon()]))
            holder.start()
            lab.wait_steady()
            wait_granted(lab, Profile.NORMAL)
            change(lab, Profile.FAST)
            wait_granted(lab, Profile.FAST)
            # Leases of before may run: a failover would wait for the longest of them.
            assert policy(lab)["longest_ms"] == wide_ms
            change(lab, Profile.WIDE)
            wait_granted(lab, Profile.WIDE)
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        assert (lab.primary(), lab.epoch()) == (primary, epoch)
        nothing_lost(lab.check(writers))
