"""When a node answers a survey, and when it says nothing."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgbastion.errors import GuardError
from pgbastion.ha.cutter import NodeCutter
from pgbastion.ha.executor import Server
from pgbastion.ha.job import Job
from pgbastion.ha.ports import DataFacts, GuardFacts, StoppedEnd
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.views import SurveyAnswer
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.testing.views import end

DATA = DataFacts(empty=False, ours=True, data_id=DataId("a"), epoch=Epoch(3))
STANDBY = GuardFacts(running=True, pid=7)
STOPPED = GuardFacts(running=False)


class Node:
    """A node's data, server and guard, in the order in which they are asked."""

    def __init__(self, data: DataFacts, facts: GuardFacts) -> None:
        self.data = data
        self._facts = facts
        self.done: list[str] = []
        self.stopped = StoppedEnd(wal_end=end(5))
        self.refuses = False
        self.following: object = "n1"

    # Its guard

    def facts(self) -> GuardFacts:
        return self._facts

    async def end_epoch(self, epoch: Epoch) -> None:
        self.done.append(f"end {epoch}")
        if self.refuses:
            raise GuardError("what runs may be its primary")

    # Its server and directory

    async def cut(self, epoch: Epoch) -> WalEnd | None:
        self.done.append(f"cut {epoch}")
        return self.stopped.wal_end

    async def cut_stopped(self, epoch: Epoch) -> StoppedEnd:
        self.done.append(f"cut {epoch}, stopped")
        return self.stopped

    async def timeline_begin(self, timeline: Timeline) -> Lsn | None:
        del timeline
        return Lsn(2)

    async def newest_timeline(self) -> Timeline:
        return Timeline(6)

    # Its observer

    def note_mark(self, **changes: Any) -> None:
        self.data = replace(self.data, **changes)


def asked(node: Node, job: Job | None = None) -> SurveyAnswer | None:
    server = SimpleNamespace(database=node, guard=node, observer=node)
    cutter = NodeCutter(
        node=NodeId("n2"), server=cast("Server", server), job=job or Job()
    )
    return asyncio.run(cutter.cut(Epoch(3)))


@pytest.mark.parametrize(
    ("facts", "done"), [(STANDBY, "cut 3"), (STOPPED, "cut 3, stopped")]
)
def test_a_node_latches_the_end_of_the_epoch_is_cut_and_tells_what_it_has(
    facts: GuardFacts, done: str
) -> None:
    node = Node(DATA, facts)

    assert asked(node) == SurveyAnswer(
        node=NodeId("n2"),
        data_id=DataId("a"),
        wal_end=end(5),
        timeline_begin=Lsn(2),
        newest_timeline=Timeline(6),
    )
    assert node.done == ["end 3", done]
    assert node.data.cut_epoch == 3
    assert node.following is None


def test_a_stopped_server_that_strayed_says_so() -> None:
    node = Node(DATA, STOPPED)
    node.stopped = replace(node.stopped, has_strayed=True)

    told = asked(node)

    assert told is not None
    assert told.has_strayed


def test_a_server_that_may_write_is_not_surveyed() -> None:
    """S2: a commit after the answer would be missing on whoever is chosen by it."""
    node = Node(DATA, replace(STANDBY, started_as_primary=True))

    assert asked(node) is None
    assert node.done == []


def test_who_follows_a_later_epoch_is_not_cut_from_an_older_one() -> None:
    node = Node(replace(DATA, epoch=Epoch(4)), STANDBY)

    assert asked(node) is None
    assert node.done == []


def test_nobody_answers_whose_guard_cannot_latch_the_end() -> None:
    node = Node(DATA, STOPPED)
    node.refuses = True

    assert asked(node) is None
    assert node.done == ["end 3"]


def test_data_that_are_replaced_meanwhile_are_not_told_of() -> None:
    node = Node(DATA, STOPPED)
    known = node.note_mark

    def copied(**changes: Any) -> None:
        known(**changes, data_id=DataId("b"))

    node.note_mark = copied  # type: ignore[method-assign]

    assert asked(node) is None


def test_data_that_are_being_replaced_are_not_told_of() -> None:
    job = Job()
    job.name = "copy"

    assert asked(Node(DATA, STOPPED), job) is None


def test_a_server_that_is_started_meanwhile_may_stream_and_is_not_told_of() -> None:
    """S2: it has read its files before they were cut, and goes on confirming."""
    node = Node(DATA, STOPPED)
    known = node.cut_stopped

    async def started(epoch: Epoch) -> StoppedEnd:
        node._facts = STANDBY
        return await known(epoch)

    node.cut_stopped = started  # type: ignore[method-assign]

    assert asked(node) is None


def test_data_that_begin_to_be_replaced_meanwhile_are_not_told_of() -> None:
    node, job = Node(DATA, STOPPED), Job()
    known = node.cut_stopped

    async def begun(epoch: Epoch) -> StoppedEnd:
        job.name = "rewind"
        return await known(epoch)

    node.cut_stopped = begun  # type: ignore[method-assign]

    assert asked(node, job) is None
