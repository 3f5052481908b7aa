"""What others met in production and wrote about, on simulated clusters.

The judge looks after every event: no promise may be broken, whatever comes of it.
"""

import pytest

from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.scripts import FIVE_VOTERS, THREE
from pgbastion.testing.sim.stage import Stage
from pgbastion.testing.sim.world import ms
from support.simulated import settle, staged

FAILED_OVER_MS = 30_000
LONG_MS = 15_000
FAR_MS = 20.0
WRITES_WITHIN_MS = 2_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def holder(stage: Stage) -> Machine:
    held = stage.cluster.judge.state.assignment
    assert held is not None
    return stage.n[held.member_id]


def writes_go_on(stage: Stage) -> bool:
    since_ns = stage.world.now_ns - ms(WRITES_WITHIN_MS)
    return stage.cluster.judge.last_ack_ns > since_ns


def test_a_stale_primary_that_returns_may_not_take_the_empty_lease() -> None:
    """The role is free, a majority votes, and only who lacks commits is there."""
    with staged(FIVE_VOTERS) as stage:
        settle(stage)
        old = holder(stage)
        old.power_off()
        stage.until(lambda: stage.opened(2), limit_ms=FAILED_OVER_MS)
        new = holder(stage)
        (other,) = (m for m in (stage.n[2], stage.n[3]) if m is not new)
        stage.wait(2_000)
        # The last standby goes as well: what follows is the new primary's alone.
        other.power_off()
        stage.wait(5_000)
        assert writes_go_on(stage)
        new.power_off()

        old.power_on()
        stage.wait(LONG_MS)
        assert stage.epoch == 2
        other.power_on()
        stage.wait(LONG_MS)
        assert stage.epoch == 2

        new.power_on()
        stage.mend()


def test_of_three_data_centres_one_stalls_and_the_one_with_everything_follows() -> None:
    """A stalled centre holds up no commit, and gets no role for being there first."""
    with staged(THREE) as stage:
        settle(stage)
        for one in stage.n:
            for other in stage.n:
                if one != other:
                    stage.cluster.links.slow[one, other] = FAR_MS
        primary = holder(stage)
        kept, stalled = (m for m in stage.n.values() if m is not primary)
        stalled.stall(clock_stands=False)
        stage.wait(LONG_MS)
        assert holder(stage) is primary
        assert writes_go_on(stage)

        primary.power_off()
        stage.wait(LONG_MS)
        assert stage.epoch == 1, "two of three centres are away"
        stalled.thaw()
        stage.until(lambda: stage.opened(2), limit_ms=FAILED_OVER_MS)

        assert holder(stage) is kept
        stage.cluster.links.slow.clear()
        stage.mend()


def test_of_three_data_centres_that_of_the_raft_leader_stalls() -> None:
    """The primary keeps its role across the election, and commits go on."""
    with staged(THREE) as stage:
        settle(stage)
        primary = holder(stage)
        leader = stage.leader()
        assert leader is primary, "leadership follows the primary"
        primary.stall(clock_stands=False)
        stage.until(lambda: stage.opened(2), limit_ms=FAILED_OVER_MS)
        assert holder(stage) is not primary
        stage.wait(2_000)
        assert writes_go_on(stage)
        primary.thaw()
        stage.mend()
