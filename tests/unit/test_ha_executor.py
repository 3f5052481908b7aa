"""What the executor tells the observer of what it did."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from pgbastion.ha.executor import Executor, Job, Server
from pgbastion.ha.host import Host
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.actions import ApplySyncSet
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


def applied(*, changed_meanwhile: bool) -> list[SyncSet]:
    """Have a set applied; return what the observer was told of it."""
    observer = Observer()

    async def apply_sync(_sync: SyncSet) -> bool:
        observer.drifts += changed_meanwhile
        return True

    database: Any = SimpleNamespace(apply_sync=apply_sync)
    executor = Executor(
        host=cast("Host", None),
        engine=cast("RaftEngine", None),
        server=cast("Server", SimpleNamespace(database=database, observer=observer)),
        job=Job(),
        stop_ms=0,
        latch_release=lambda _: None,
        lease_held=lambda _: True,
        hold=lambda _: None,
    )
    assert asyncio.run(executor.perform(ApplySyncSet(sync=SYNC)))
    return observer.applied


def test_a_set_that_was_applied_is_noted() -> None:
    assert applied(changed_meanwhile=False) == [SYNC]


def test_a_set_that_somebody_else_changed_meanwhile_is_not_taken_for_applied() -> None:
    """S2: else a failover would count on confirmations that nobody gives."""
    assert applied(changed_meanwhile=True) == []
