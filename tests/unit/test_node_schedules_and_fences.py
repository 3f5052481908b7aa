"""Schedules and fences on their way into the log."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pgbastion.api.ports import Done, Outcome, Refused, Unknown, When
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.model.cluster import OrderOutcome
from pgbastion.model.commands import (
    ScheduleOrder,
    SetFence,
    SettleOrder,
    Unschedule,
)
from pgbastion.model.wal import Lsn
from pgbastion.node.ordering import Ordering
from pgbastion.node.schedules_and_fences import SchedulesAndFences
from pgbastion.testing.views import (
    cluster_state,
    member,
    primary_report,
    report,
)
from support.ordering import N1, N2, order
from support.proposing import FakeHost

pytestmark = pytest.mark.anyio


def schedules_and_fences(host: FakeHost) -> SchedulesAndFences:
    ordering = Ordering(host, fresh_ms=60_000, drain_ms=lambda: 700)  # type: ignore[arg-type]
    return ordering.schedules_and_fences


def whole() -> FakeHost:
    return FakeHost(primary_report(), report(2, replay_lsn=Lsn(100)))


def when(in_s: float, valid_ms: int = 30_000) -> When:
    due = datetime.now(UTC) + timedelta(seconds=in_s)
    return When(due=due, valid_ms=valid_ms)


async def schedule(host: FakeHost, in_s: float) -> Outcome:
    return await schedules_and_fences(host).schedule(N2, None, when(in_s))


async def test_a_switchover_for_later_is_kept_with_its_window() -> None:
    host = whole()

    outcome = await schedule(host, 60)

    [command] = host.proposed
    assert isinstance(command, ScheduleOrder)
    wish = command.schedule
    assert (wish.target, wish.drain_ms) == (N2, 700)
    assert wish.at < wish.due_at < wish.expires_at
    window = datetime.fromisoformat(wish.expires_at)
    assert window - datetime.fromisoformat(wish.due_at) == timedelta(seconds=30)
    assert isinstance(outcome, Done)
    assert outcome.facts["id"] == wish.order_id


async def test_a_time_that_is_over_is_refused() -> None:
    host = whole()

    outcome = await schedule(host, -1)

    assert isinstance(outcome, Refused)
    assert outcome.code == "in_the_past"
    assert host.proposed == []


@pytest.mark.parametrize(
    ("said", "kind"), [(None, Unknown), (LogOutcome.TOO_MANY_SCHEDULED, Refused)]
)
async def test_what_became_of_it_is_told(said: LogOutcome | None, kind: type) -> None:
    host = whole()
    host.outcome = said

    assert isinstance(await schedule(host, 60), kind)


async def scheduled() -> FakeHost:
    host = whole()
    await schedule(host, 60)
    [command] = host.proposed
    assert isinstance(command, ScheduleOrder)
    host.state = cluster_state(scheduled=(command.schedule,), orders=(order(),))
    host.proposed.clear()
    return host


async def test_everything_that_has_not_begun_is_cancelled() -> None:
    host = await scheduled()
    wish = host.state.scheduled[0]

    outcome = await schedules_and_fences(host).cancel(None)

    assert outcome == Done(facts={"cancelled": [wish.order_id, "o1"]})
    first, second = host.proposed
    assert isinstance(first, Unschedule)
    assert isinstance(second, SettleOrder)
    assert first.outcome is second.outcome is OrderOutcome.CANCELLED


async def test_one_is_cancelled_by_its_id() -> None:
    host = await scheduled()

    await schedules_and_fences(host).cancel("o1")

    [command] = host.proposed
    assert isinstance(command, SettleOrder)


async def test_a_refused_cancel_is_told() -> None:
    host = await scheduled()
    host.outcome = LogOutcome.NO_SUCH_ORDER

    assert isinstance(await schedules_and_fences(host).cancel(None), Refused)


@pytest.mark.parametrize("order_id", [None, "x"])
async def test_without_anything_to_cancel_it_is_refused(order_id: str | None) -> None:
    host = whole()
    host.state = cluster_state(orders=(order(begun=True),))

    outcome = await schedules_and_fences(host).cancel(order_id)

    assert isinstance(outcome, Refused)
    assert outcome.code == "nothing_to_cancel"


async def test_a_node_is_fenced_and_freed() -> None:
    host = whole()

    fenced = await schedules_and_fences(host).fence(N2, force=False, drain_ms=None)
    freed = await schedules_and_fences(host).unfence(N2)

    first, second = host.proposed
    assert isinstance(first, SetFence)
    assert isinstance(second, SetFence)
    assert (first.fenced, first.force, first.drain_ms) == (True, False, 700)
    assert not second.fenced
    assert fenced == Done(facts={"node": N2, "fenced": True, "changed": True})
    assert freed == Done(facts={"node": N2, "fenced": False, "changed": True})


@pytest.mark.parametrize("fenced", [True, False])
async def test_a_witness_is_refused_as_one_and_not_as_unknown(fenced: bool) -> None:
    host = whole()
    witness = replace(member(9, joined=True), postgres_port=None)
    host.state = replace(host.state, members=(*host.state.members, witness))
    people = schedules_and_fences(host)

    outcome = await (
        people.fence(witness.name, force=False, drain_ms=None)
        if fenced
        else people.unfence(witness.name)
    )

    assert isinstance(outcome, Refused)
    assert outcome.message == f"{witness.name} is not a member with PostgreSQL"
    assert host.proposed == []


async def test_a_fence_that_stops_writes_needs_force() -> None:
    host = FakeHost(primary_report())

    refused = await schedules_and_fences(host).fence(N1, force=False, drain_ms=0)
    assert isinstance(refused, Refused)
    assert refused.code == "would_stop_writes"
    assert host.proposed == []

    await schedules_and_fences(host).fence(N1, force=True, drain_ms=0)
    [command] = host.proposed
    assert isinstance(command, SetFence)
    assert command.force
