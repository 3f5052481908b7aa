"""A node goes by the cluster's profile as soon as its lease and its server allow it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pytest

from pgbastion.clock import NS_PER_MS, boottime_ns
from pgbastion.config.timings import PROFILES, Timings
from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page, create
from pgbastion.model.cluster import ClusterState
from pgbastion.model.profile import Profile
from pgbastion.node.pacing import Pacing
from pgbastion.node.page import SharedPage
from pgbastion.node.parts import policy_of
from pgbastion.testing.views import cluster_state

pytestmark = pytest.mark.anyio

FAST, NORMAL, WIDE = Profile
TURNS: Final = 5


@dataclass
class FakeSight:
    """The node's lease, and what it tells the others."""

    policy_revision: int = 0
    unpaced: str = ""
    left_ms: int = 0

    def lease_left_ms(self) -> int:
        return self.left_ms


@dataclass
class Stage:
    """A node that goes by NORMAL, and what happens to it."""

    page: Page
    sight: FakeSight = field(default_factory=FakeSight)
    state: ClusterState = field(default_factory=cluster_state)
    taken: list[Timings] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    refused: str = ""
    broken: bool = False

    def __post_init__(self) -> None:
        async def prepare(timings: Timings) -> None:
            if self.broken:
                raise GuardError("it does not answer")
            assert timings not in self.taken

        self.pacing = Pacing(
            cast("Any", self.sight),
            SharedPage(self.page, 0),
            state=lambda: self.state,
            is_confirmed=lambda: True,
            timings=PROFILES[NORMAL],
            timings_of=lambda profile: PROFILES[profile],
            look=self.looks.append,
            refuses=lambda _: self.refused,
            prepare=prepare,
            take=self.taken.append,
        )

    def answered(self, *, ago_ms: int) -> None:
        self.page[words.EVIDENCE_NS] = boottime_ns() - ago_ms * NS_PER_MS

    async def hear(self, profile: Profile, revision: int) -> None:
        policy = policy_of(profile, revision=revision)
        self.state = cluster_state(policy=policy)
        await self.look_again()

    async def look_again(self) -> None:
        running = asyncio.create_task(self.pacing.run())
        self.pacing.note()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        running.cancel()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    page = create(str(tmp_path / "page"))
    yield Stage(page)
    page.close()


async def test_a_node_knows_no_policy_before_it_has_heard_of_one(stage: Stage) -> None:
    assert stage.sight.policy_revision == -1


async def test_a_node_without_a_lease_goes_by_the_profile_at_once(stage: Stage) -> None:
    for revision, profile in enumerate((WIDE, FAST), start=1):
        await stage.hear(profile, revision)

        assert stage.taken[-1] == PROFILES[profile]
        assert stage.sight.policy_revision == revision
        assert stage.page[words.POLICY_REVISION] == revision


async def test_timings_that_are_the_files_own_are_taken_once(stage: Stage) -> None:
    """Until then they are no more than what a file says."""
    await stage.hear(NORMAL, 0)
    await stage.hear(NORMAL, 1)

    assert stage.taken == [PROFILES[NORMAL]]
    assert stage.sight.policy_revision == 1


async def test_slower_timings_wait_until_the_lease_is_as_long(stage: Stage) -> None:
    """Its stop would else be due before the lease ends: a holder would stop for it."""
    stage.sight.left_ms = 4_900
    await stage.hear(WIDE, 1)
    assert stage.taken == []
    assert stage.sight.policy_revision == -1

    stage.sight.left_ms = 29_000
    await stage.look_again()

    assert stage.taken == [PROFILES[WIDE]]


async def test_quicker_timings_wait_for_an_answer_that_is_as_fresh(
    stage: Stage,
) -> None:
    """An answer that was young enough before would look like a server that hangs."""
    stage.sight.left_ms = 4_900
    stage.answered(ago_ms=700)
    await stage.hear(FAST, 1)
    assert stage.taken == []
    assert stage.looks == [PROFILES[FAST].probe_ms]

    stage.answered(ago_ms=20)
    await stage.look_again()

    assert stage.taken == [PROFILES[FAST]]


async def test_a_node_that_cannot_go_by_it_says_so_until_it_may(stage: Stage) -> None:
    stage.refused = "its watchdog counts seconds"
    await stage.hear(FAST, 1)
    assert stage.taken == []
    assert (stage.sight.unpaced, stage.sight.policy_revision) == (stage.refused, -1)

    await stage.hear(NORMAL, 2)

    assert (stage.sight.unpaced, stage.sight.policy_revision) == ("", 2)


async def test_what_a_silent_guard_did_not_take_is_tried_again(stage: Stage) -> None:
    stage.broken = True
    await stage.hear(WIDE, 1)
    assert stage.taken == []

    stage.broken = False
    await stage.look_again()

    assert stage.taken == [PROFILES[WIDE]]
