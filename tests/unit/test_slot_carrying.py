"""A standby carries slots while the primary says where they are, and only then."""

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest

from pgbastion.clock import boottime_ms
from pgbastion.errors import PostgresError
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.report import NodeReport, SlotRow, Vitals
from pgbastion.model.views import Received
from pgbastion.model.wal import Lsn
from pgbastion.node.slot_carrying import SlotCarrying
from pgbastion.postgres.slots import CarriedSlots
from pgbastion.testing.views import (
    assignment,
    cluster_state,
    node_name,
    primary_report,
)

FRESH_MS = 1_000
ROW = SlotRow(
    name="pgbastion_n3",
    kind="physical",
    active=True,
    restart_lsn=Lsn(80),
    wal_status="reserved",
    retained_bytes=0,
    node=node_name(3),
)
SAID = primary_report(vitals=Vitals(probe_ms=1, slots=(ROW,)))


@dataclass
class Slots:
    refuse: bool = False
    carried: list[dict[NodeId, Lsn | None]] = field(default_factory=list)

    async def carry(self, ends: dict[NodeId, Lsn | None]) -> None:
        if self.refuse:
            raise PostgresError("no connection is left")
        self.carried.append(dict(ends))


def carry(
    slots: Slots,
    *,
    said: NodeReport | None = SAID,
    age_ms: int = 0,
    in_recovery: bool = True,
    state: ClusterState | None = None,
) -> list[dict[NodeId, Lsn | None]]:
    at_ms = boottime_ms() - age_ms
    reports = {} if said is None else {said.node: Received(report=said, at_ms=at_ms)}
    carrying = SlotCarrying(
        node_name(2),
        cast("Host", SimpleNamespace(state=state or cluster_state(), reports=reports)),
        cast(
            "Observer", SimpleNamespace(server=SimpleNamespace(in_recovery=in_recovery))
        ),
        cast("CarriedSlots", slots),
        fresh_ms=FRESH_MS,
    )
    asyncio.run(carrying.carry())
    return slots.carried


def test_what_the_primary_says_is_carried() -> None:
    assert carry(Slots()) == [{node_name(1): None, node_name(3): Lsn(80)}]


@pytest.mark.parametrize(
    "said",
    [None, replace(SAID, promoted=False), replace(SAID, epoch=Epoch(2))],
    ids=["silent", "no primary", "of an earlier epoch"],
)
def test_nothing_changes_without_the_primarys_word(said: NodeReport | None) -> None:
    assert carry(Slots(), said=said) == []


def test_nothing_changes_on_an_old_word() -> None:
    assert carry(Slots(), age_ms=FRESH_MS + 100) == []


def test_nothing_changes_before_the_epoch_is_opened() -> None:
    waiting = cluster_state(assignment=assignment(opened=False))

    assert carry(Slots(), state=waiting) == []


def test_a_primarys_own_slots_are_left_to_it() -> None:
    assert carry(Slots(), in_recovery=False) == []


def test_a_server_that_refuses_is_asked_the_next_time() -> None:
    assert carry(Slots(refuse=True)) == []
