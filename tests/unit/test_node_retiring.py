"""How a node that is told to stop hands its role on, and when it stops waiting."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.api.ports import Done
from pgbastion.model.ids import Incarnation, MemberId
from pgbastion.model.views import RaftView
from pgbastion.node.retiring import Retiring
from pgbastion.testing.views import raft_view
from support.ordering import N2, order
from support.proposing import FakeHost

pytestmark = pytest.mark.anyio

LEASE_MS = 100
CONFIG: Any = SimpleNamespace(
    failover=SimpleNamespace(stop_timeout=60_000),
    proxy=SimpleNamespace(drain_timeout=0),
    timings=SimpleNamespace(lease_ms=LEASE_MS),
)


class LedHost(FakeHost):
    """Its cluster has begun to hand the role on; a leader is known, or none."""

    def __init__(self, leader: int) -> None:
        super().__init__()
        self.state = replace(self.state, orders=(order(),))
        self._leader = leader

    def raft(self) -> RaftView:
        return raft_view(leader=MemberId(self._leader))


class Ordered:
    """Takes the order."""

    def best(self) -> object:
        return N2

    async def switch_over(self, *_: object, **__: object) -> Done:
        return Done()


def retiring(host: FakeHost) -> Retiring:
    unused: Any = None
    fake: Any = host
    ordering: Any = Ordered()
    return Retiring(
        lambda: CONFIG,
        host=fake,
        ordering=ordering,
        guard=None,
        addresses=unused,
        page=unused,
        incarnation=Incarnation(1),
        holds_lease=lambda _epoch: True,
        hold=lambda _epoch: None,
        say_leaving=lambda: None,
    )


async def test_nobody_is_waited_for_when_all_others_have_ended_too() -> None:
    """All nodes are told to stop: the last one has nobody to hand its role to."""
    async with asyncio.timeout(10):
        await retiring(LedHost(leader=0)).hand_role_on()


async def test_a_successor_is_waited_for_while_somebody_leads() -> None:
    host = LedHost(leader=2)
    handing = asyncio.create_task(retiring(host).hand_role_on())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(handing), 5 * LEASE_MS / 1_000)

    host.state = replace(host.state, orders=())
    async with asyncio.timeout(10):
        await handing
