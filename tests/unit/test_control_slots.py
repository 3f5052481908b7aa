"""For whom WAL is kept, on a primary and on its standbys."""

from dataclasses import replace

import pytest

from pgbastion.control.node import decide_node
from pgbastion.control.slots import carried_slots
from pgbastion.model.actions import KeepSlots
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, SlotRow, Vitals
from pgbastion.model.views import NodeView, Received
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    NOW_MS,
    cluster_state,
    holder_view,
    node_name,
    primary_report,
    primary_server,
    report,
)

TTL_MS = 1_000
N1, N2, N3 = (node_name(number) for number in (1, 2, 3))


def view(
    *, heard_ms: int | None, ttl_ms: int = TTL_MS, watched_ms: int = 0
) -> NodeView:
    """Return a primary's view, whose ``n3`` was last heard of at ``heard_ms``."""
    made = holder_view(
        postgres=primary_server(slots=(N2, N3), watched_ms=watched_ms),
    )
    heard = dict(made.reports)
    if heard_ms is None:
        del heard[N3]
    else:
        heard[N3] = Received(report=report(3), at_ms=heard_ms)
    return replace(
        made, reports=heard, limits=replace(made.limits, slots_ttl_ms=ttl_ms)
    )


def test_the_wal_of_a_missing_member_is_kept_for_a_time() -> None:
    kept = decide_node(view(heard_ms=NOW_MS - TTL_MS + 1))
    let_go = decide_node(view(heard_ms=NOW_MS - TTL_MS))

    assert kept.reason is Reason.PRIMARY_RUNNING
    assert let_go.reason is Reason.KEEPING_SLOTS
    assert let_go.actions == (KeepSlots(nodes=(N2,)),)


def test_who_was_never_heard_of_is_missing_since_this_daemon_watches() -> None:
    kept = decide_node(view(heard_ms=None, watched_ms=NOW_MS - TTL_MS + 1))
    let_go = decide_node(view(heard_ms=None, watched_ms=NOW_MS - TTL_MS))

    assert kept.reason is Reason.PRIMARY_RUNNING
    assert let_go.actions == (KeepSlots(nodes=(N2,)),)


def test_without_a_limit_it_is_kept_as_long_as_it_is_a_member() -> None:
    assert decide_node(view(heard_ms=0, ttl_ms=0)).reason is Reason.PRIMARY_RUNNING


def test_a_member_that_speaks_again_has_its_slot_again() -> None:
    made = view(heard_ms=NOW_MS)
    back = replace(made, postgres=replace(made.postgres, slots=(N2,)))

    assert decide_node(back).actions == (KeepSlots(nodes=(N2, N3)),)


def telling(*slots: SlotRow) -> NodeReport:
    return primary_report(vitals=Vitals(probe_ms=1, slots=slots))


def slot(number: int, lsn: int | None, **changes: object) -> SlotRow:
    made = SlotRow(
        name=f"pgbastion_n{number}",
        kind="physical",
        active=True,
        restart_lsn=None if lsn is None else Lsn(lsn),
        wal_status="reserved",
        retained_bytes=0,
        node=node_name(number),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_standby_has_the_others_slots_where_the_primary_has_them() -> None:
    foreign = slot(7, 50, node=None, kind="logical")

    ends = carried_slots(
        cluster_state(), telling(slot(2, 90), slot(3, 80), foreign), own=N2
    )

    assert ends == {N1: None, N3: Lsn(80)}


@pytest.mark.parametrize("third", [(), (slot(3, None),)])
def test_no_wal_is_kept_for_whom_the_primary_keeps_none(
    third: tuple[SlotRow, ...],
) -> None:
    ends = carried_slots(cluster_state(), telling(slot(2, 90), *third), own=N2)

    assert ends == {N1: None}


def test_a_primary_that_says_nothing_of_slots_changes_nothing() -> None:
    assert carried_slots(cluster_state(), primary_report(), own=N2) is None
    assert carried_slots(cluster_state(), telling(), own=N2) is None
