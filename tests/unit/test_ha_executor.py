"""What the executor tells the observer of what it did."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from pgbastion.errors import PostgresError
from pgbastion.ha.executor import Executor, Job, Server
from pgbastion.ha.host import Host
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.actions import ApplySyncSet, Checkpoint
from pgbastion.model.cluster import SyncSet

SYNC = SyncSet(names=("n2",), num_sync=1)


class Observer:
    """Counts what somebody else changes."""

    def __init__(self) -> None:
        self.drifts = 0
        self.applied: list[SyncSet] = []

    def on_sync_applied(self, sync: SyncSet, *, confirmed: bool) -> None:
        assert confirmed
        self.applied.append(sync)


def executor_on(database: Any, observer: Any) -> Executor:
    return Executor(
        host=cast("Host", None),
        engine=cast("RaftEngine", None),
        server=cast("Server", SimpleNamespace(database=database, observer=observer)),
        job=Job(),
        stop_ms=0,
        latch_release=lambda _: None,
        lease_held=lambda _: True,
        hold=lambda _: None,
    )


def applied(*, changed_meanwhile: bool) -> list[SyncSet]:
    """Have a set applied; return what the observer was told of it."""
    observer = Observer()

    async def apply_sync(_sync: SyncSet) -> bool:
        observer.drifts += changed_meanwhile
        return True

    executor = executor_on(SimpleNamespace(apply_sync=apply_sync), observer)
    assert asyncio.run(executor.perform(ApplySyncSet(sync=SYNC)))
    return observer.applied


def test_a_set_that_was_applied_is_noted() -> None:
    assert applied(changed_meanwhile=False) == [SYNC]


def test_a_set_that_somebody_else_changed_meanwhile_is_not_taken_for_applied() -> None:
    """S2: else a failover would count on confirmations that nobody gives."""
    assert applied(changed_meanwhile=True) == []


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
