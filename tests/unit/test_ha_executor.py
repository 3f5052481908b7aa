"""What the executor tells the observer of what it did, and what it looks at again."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgbastion.control.apply import Outcome
from pgbastion.errors import PostgresError, TimelineTaken
from pgbastion.ha.executor import Executor, Server
from pgbastion.ha.host import Host
from pgbastion.ha.job import Job
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.actions import (
    ApplySyncSet,
    Checkpoint,
    Promote,
    Propose,
    StartPrimary,
    StartStandby,
)
from pgbastion.model.cluster import NOBODY, SyncSet
from pgbastion.model.commands import SetSync
from pgbastion.model.ids import Epoch, Incarnation, Revision, Timeline
from pgbastion.model.wal import WalEnd
from pgbastion.testing.views import end

EPOCH = Epoch(3)
SYNC = SyncSet(names=("n2",), num_sync=1)
BOTH = SyncSet(names=("n2", "n3"), num_sync=2)


class Observer:
    """Counts what somebody else changes."""

    def __init__(self) -> None:
        self.drifts = 0
        self.changing = False
        self.applied: list[SyncSet] = []

    def on_sync_changing(self) -> None:
        self.changing = True

    def on_sync_applied(self, sync: SyncSet, *, confirmed: bool) -> None:
        assert confirmed
        self.applied.append(sync)


def executor_on(
    database: Any,
    observer: Any,
    host: Any = None,
    *,
    guard: Any = None,
    lease_held: bool = False,
) -> Executor:
    server = SimpleNamespace(database=database, observer=observer, guard=guard)
    return Executor(
        host=cast("Host", host),
        engine=cast("RaftEngine", None),
        server=cast("Server", server),
        job=Job(),
        stop_ms=0,
        latch_release=lambda _: None,
        lease_held=lambda _: lease_held,
        hold=lambda _: None,
    )


def applied(*, changed_meanwhile: bool) -> list[SyncSet]:
    """Have a set applied; return what the observer was told of it."""
    observer = Observer()

    async def apply_sync(_sync: SyncSet, *, first: bool) -> bool:
        assert first
        observer.drifts += changed_meanwhile
        return True

    executor = executor_on(SimpleNamespace(apply_sync=apply_sync), observer)
    assert asyncio.run(executor.perform(ApplySyncSet(sync=SYNC, first=True)))
    return observer.applied


def test_a_set_that_was_applied_is_noted() -> None:
    assert applied(changed_meanwhile=False) == [SYNC]


def test_a_set_that_somebody_else_changed_meanwhile_is_not_taken_for_applied() -> None:
    """S2: else a failover would count on confirmations that nobody gives."""
    assert applied(changed_meanwhile=True) == []


def test_the_last_set_is_not_confirmed_after_a_change_that_failed_half_way() -> None:
    """S2: else it is promised again, and the server may go by the other one."""
    observer = Observer()

    async def apply_sync(_sync: SyncSet, *, first: bool) -> bool:
        assert observer.changing
        assert not first
        raise PostgresError("it was reloaded, and did not say what it has now")

    executor = executor_on(SimpleNamespace(apply_sync=apply_sync), observer)
    with pytest.raises(PostgresError):
        asyncio.run(executor.perform(ApplySyncSet(sync=NOBODY)))


def test_a_checkpoint_that_fails_at_once_is_not_asked_for_without_a_pause() -> None:
    """The simulator's seed 3144: until the guard tells, the server seems to run."""
    asked = 0

    async def checkpoint() -> None:
        nonlocal asked
        asked += 1
        raise PostgresError("the server does not run")

    async def passes() -> None:
        observer = SimpleNamespace(look_soon=lambda: None)
        executor = executor_on(SimpleNamespace(checkpoint=checkpoint), observer)
        for _ in range(50):
            if not executor.checkpointing:
                await executor.perform(Checkpoint())
            await asyncio.sleep(0)

    asyncio.run(passes())

    assert asked == 1


def promoted_on(database: Any, *, times: int) -> Epoch:
    """Ask so often for a promotion that fails; return whose epoch is given up."""
    observer = SimpleNamespace(data_changed_epoch=Epoch(0), note_mark=lambda **_: None)

    async def ask(_epoch: Epoch) -> None:
        return None

    guard = SimpleNamespace(ask=ask, facts=lambda: SimpleNamespace(pid=7))
    promote = Promote(epoch=EPOCH, timeline=Timeline(5), surveyed=None)

    async def passes() -> None:
        executor = executor_on(database, observer, guard=guard, lease_held=True)
        for _ in range(times):
            with pytest.raises(PostgresError):
                await executor.perform(promote)

    asyncio.run(passes())
    given_up: Epoch = observer.data_changed_epoch
    return given_up


async def taken(_epoch: Epoch, _timeline: Timeline) -> None:
    raise TimelineTaken("timeline 5 is known here")


def test_an_epoch_whose_timeline_stays_taken_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L1: after a crash in the middle of its promotion it could never be promoted."""
    database = SimpleNamespace(promote=taken)
    assert promoted_on(database, times=2) == 0

    monkeypatch.setattr("pgbastion.ha.executor.TIMELINE_TAKEN_MAX_MS", 0)
    assert promoted_on(database, times=1) == 0
    assert promoted_on(database, times=2) == EPOCH


def test_an_epoch_is_not_given_up_for_another_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silent(_epoch: Epoch, _timeline: Timeline) -> None:
        raise PostgresError("nobody answers")

    monkeypatch.setattr("pgbastion.ha.executor.TIMELINE_TAKEN_MAX_MS", 0)
    assert promoted_on(SimpleNamespace(promote=silent), times=3) == 0


def asked_with(*, lease_held: bool, now: WalEnd) -> tuple[bool, Epoch]:
    """Ask for a promotion; return whether the server was asked, and who is given up."""
    asked: list[Epoch] = []

    async def promote(epoch: Epoch, _timeline: Timeline) -> None:
        asked.append(epoch)

    async def wal_end() -> WalEnd:
        return now

    async def ask(_epoch: Epoch) -> None:
        return None

    observer = SimpleNamespace(
        data_changed_epoch=Epoch(0),
        note_mark=lambda **_: None,
        look_soon=lambda: None,
    )
    guard = SimpleNamespace(ask=ask, facts=lambda: SimpleNamespace(pid=7))
    database = SimpleNamespace(promote=promote, wal_end=wal_end)
    order = Promote(epoch=EPOCH, timeline=Timeline(5), surveyed=end(9))

    async def passes() -> None:
        executor = executor_on(database, observer, guard=guard, lease_held=lease_held)
        await executor.perform(order)

    asyncio.run(passes())
    return bool(asked), observer.data_changed_epoch


def test_only_what_was_surveyed_is_promoted_and_only_under_the_lease() -> None:
    """S1, S2: both are looked at again just before it."""
    assert asked_with(lease_held=True, now=end(9)) == (True, 0)
    assert asked_with(lease_held=False, now=end(9)) == (False, 0)
    assert asked_with(lease_held=True, now=end(8)) == (False, EPOCH)


def started_with(*, outcome: Outcome | None) -> SyncSet | None:
    """Restart a primary after a promise was proposed; return whom its commits wait for.

    Args:
        outcome: What became of the promise; None: nobody knows.
    """
    prepared: list[SyncSet | None] = []

    async def prepare_primary(sync: SyncSet | None) -> None:
        prepared.append(sync)

    async def propose(_command: object, *, timeout_s: float) -> Outcome | None:
        del timeout_s
        return outcome

    async def passes() -> None:
        opened = SimpleNamespace(sync=SYNC, epoch=EPOCH)
        host = SimpleNamespace(propose=propose, state=SimpleNamespace(opened=opened))
        database = SimpleNamespace(prepare_primary=prepare_primary)
        executor = executor_on(database, SimpleNamespace(), host)
        promise = SetSync(
            revision=Revision(7), epoch=EPOCH, incarnation=Incarnation(1), sync=BOTH
        )
        await executor.perform(Propose(command=promise))
        await executor.perform(StartPrimary(epoch=EPOCH))

    asyncio.run(passes())
    return prepared[0]


def test_a_primary_is_restarted_with_the_set_that_is_promised() -> None:
    assert started_with(outcome=Outcome.OK) == SYNC
    assert started_with(outcome=Outcome.STALE_REVISION) == SYNC


def test_nobody_confirms_on_a_restarted_primary_while_a_promise_is_on_its_way() -> None:
    """S2: it may promise more than the set that is known, which commits go by then."""
    assert started_with(outcome=None) is None


@pytest.mark.parametrize("primary", [True, False])
def test_where_a_server_ended_counts_no_more_once_it_is_started(
    *, primary: bool
) -> None:
    """S2: it may confirm commits and end again before it was looked at."""
    observer = SimpleNamespace(ended_at=end(9), look_soon=lambda: None)

    async def done(*_args: object, **_named: object) -> None:
        return None

    guard = SimpleNamespace(facts=lambda: SimpleNamespace(armed_epoch=0), start=done)
    database = SimpleNamespace(
        prepare_primary=done, prepare_standby=done, command=lambda: ()
    )
    host = SimpleNamespace(state=SimpleNamespace(opened=None, servers=()))
    start: StartPrimary | StartStandby = StartPrimary(epoch=EPOCH)
    if not primary:
        start = StartStandby(primary=None, epoch=EPOCH)

    async def started() -> None:
        executor = executor_on(database, observer, host, guard=guard, lease_held=True)
        assert await executor.perform(start)

    asyncio.run(started())

    assert observer.ended_at is None
