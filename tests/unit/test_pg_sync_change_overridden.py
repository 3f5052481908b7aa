"""A setting that somebody overrides while it is being written."""

import asyncio
from typing import Any

from pgbastion.clock import boottime_ns
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.postgres.primary import SyncEffect
from pgbastion.postgres.sync_change import TAKEN_UP_NS, SyncChange

ONE = SyncSet(names=("n2_a2",), num_sync=1)


class Overridden:
    """A primary on which what is written never takes effect."""

    async def set_sync(self, *_: Any) -> None:
        return None

    async def sync_effect(self, *_: Any) -> SyncEffect:
        return SyncEffect(effective=False, reason="the server has ''")


def test_what_was_written_and_never_took_effect_was_changed_by_somebody() -> None:
    primary: Any = Overridden()
    change = SyncChange(primary)
    applying = change.apply(ReplicationMode.QUORUM, ONE, DataId("a1"), first=False)
    assert not asyncio.run(applying)

    now_ns = boottime_ns()
    soon = change.facts(ReplicationMode.QUORUM, "", now_ns)
    late = change.facts(ReplicationMode.QUORUM, "", now_ns + TAKEN_UP_NS)

    assert not soon["sync_foreign"]
    assert late["sync_foreign"]
