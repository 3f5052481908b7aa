"""Servers for which no daemon speaks are asked themselves."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.clock import boottime_ms
from pgbastion.errors import GuardError
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.node.split_watch import SplitWatch
from pgbastion.testing.views import (
    cluster_state,
    primary_report,
    received,
    report,
)


class Probe:
    """Answers for servers."""

    def __init__(self, *primaries: str) -> None:
        self.primaries = set(primaries)
        self.asked: list[str] = []

    async def keep(self, nodes: Collection[NodeId]) -> None:
        del nodes

    async def is_primary(
        self, node: NodeId, host: str, port: int, *, deadline_s: float
    ) -> bool:
        del host, port, deadline_s
        self.asked.append(node)
        return node in self.primaries

    async def close(self) -> None:
        return


class Case:
    """A watch on n3."""

    def __init__(
        self, probe: Probe, *reports: NodeReport, may_fence: bool = True, **state: Any
    ) -> None:
        self.probe = probe
        self.fenced = 0
        self.changed = 0
        self.host = SimpleNamespace(
            state=cluster_state(**state),
            reports=received(primary_report(), *reports, at_ms=boottime_ms()),
        )
        self.fails = False
        self.watch = SplitWatch(
            self.host,  # type: ignore[arg-type]
            own=NodeId("n3"),
            probe_ms=60_000,
            probe=probe,  # type: ignore[arg-type]
            may_fence=lambda: may_fence,
            fence=self.fence,
            on_change=self.note,
        )

    async def fence(self) -> None:
        self.fenced += 1
        if self.fails:
            raise GuardError("not stopped")

    def note(self) -> None:
        self.changed += 1

    def looks(self, times: int) -> tuple[NodeId, ...]:
        async def look() -> None:
            for _ in range(times):
                await self.watch._look()

        asyncio.run(look())
        return self.watch.seen()


STANDS_STILL = report(3, state=PostgresState.STOPPED)


def test_a_server_without_a_daemon_is_asked_and_told_of_after_two_answers() -> None:
    case = Case(Probe("n2"), report(3))

    assert case.looks(1) == ()
    assert case.looks(1) == ("n2",)
    assert case.changed == 1


def test_a_server_that_ended_is_told_of_no_more() -> None:
    case = Case(Probe("n2"), report(3))
    case.looks(2)
    case.probe.primaries.clear()

    assert case.looks(1) == ()
    assert case.changed == 2


def test_whose_daemon_speaks_is_not_asked() -> None:
    case = Case(Probe("n2", "n3"), report(2), report(3))

    assert case.looks(2) == ()
    assert case.probe.asked == []


def test_a_silent_holder_is_no_second_primary() -> None:
    case = Case(Probe("n1"), report(2), report(3))
    case.host.reports.pop("n1")

    assert case.looks(2) == ()


def test_before_the_first_primary_nobody_is_asked() -> None:
    case = Case(Probe("n2"), assignment=None)

    assert case.looks(2) == ()


@pytest.mark.parametrize(("may_fence", "fenced"), [(True, 1), (False, 0)])
def test_a_server_beside_this_nodes_guard_is_ended(
    may_fence: bool, fenced: int
) -> None:
    case = Case(Probe("n3"), report(2), STANDS_STILL, may_fence=may_fence)

    assert case.looks(2) == ("n3",)
    assert case.fenced == fenced


def test_a_server_that_cannot_be_ended_stays_told_of() -> None:
    case = Case(Probe("n3"), report(2), STANDS_STILL)
    case.fails = True

    assert case.looks(3) == ("n3",)
    assert case.fenced == 2
