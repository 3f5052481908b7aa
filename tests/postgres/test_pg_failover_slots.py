"""Logical slots that were made for failover survive it: PostgreSQL 17 and newer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.ids import Epoch, Timeline
from pgbastion.postgres.slots import CarriedSlots
from support.postgres import Lab, Server, find_servers, lab, reachable_bin_dir, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

PARAMETERS: dict[str, str | int] = {
    "wal_level": "logical",
    "hot_standby_feedback": "on",
    "sync_replication_slots": "on",
}
SYNCED = """
SELECT count(*) FROM pg_replication_slots
 WHERE slot_name = 'app' AND synced AND NOT temporary AND invalidation_reason IS NULL
"""
MADE_FOR_FAILOVER = """
SELECT pg_create_logical_replication_slot('app', 'pgoutput', failover => true)
"""
ITS_OWN = "SELECT count(*) FROM pg_replication_slots WHERE NOT synced AND failover"


@pytest.fixture(scope="module")
def bin_dir() -> Iterator[Path]:
    servers = {major: path for major, path in find_servers().items() if major >= 17}
    if not servers:
        pytest.skip("no PostgreSQL of 17 or newer is here")
    with reachable_bin_dir(servers[max(servers)]) as path:
        yield path


async def is_one(server: Server, text: str) -> bool:
    return await server.value(text) == 1


async def streams_from(standby: Server, primary: Server) -> None:
    await standby.copy_from(primary)
    await standby.start()


async def test_a_logical_slot_goes_on_at_the_promoted_standby(bin_dir: Path) -> None:
    async with lab(bin_dir) as one:
        await _goes_on(one)


async def _goes_on(one: Lab) -> None:
    n2 = one.server("n2", **PARAMETERS)
    n1 = one.server("n1", **PARAMETERS)
    await n1.bootstrap(n2.host, n1.host)
    await n1.start()
    await n1.mark_file.update(promoted=Epoch(1))
    await n1.rows("SELECT pg_promote()")
    await n1.primary.open()
    await n1.primary.slots.keep([n2.name])
    await streams_from(n2, n1)
    await n1.set_sync(ReplicationMode.QUORUM, 1, n2)
    assert await n1.value("SHOW synchronized_standby_slots") == "pgbastion_n2"
    await n1.rows(MADE_FOR_FAILOVER)
    await until(lambda: is_one(n2, SYNCED), deadline_s=60)

    await n1.stop()
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.standby.promote(Epoch(2), Timeline(7))
    assert await n2.standby.promoted(deadline_s=10) is not None
    await n2.rows("SELECT pg_replication_slot_advance('app', pg_current_wal_lsn())")

    await n1.standby.follow_files(n2.upstream, Epoch(2))
    await n1.config.mark_standby()
    await n2.primary.open()
    await n2.primary.slots.keep([n1.name])
    await n1.start()
    assert await n1.value(ITS_OWN) == 1
    await CarriedSlots(n1.address()).carry({n2.name: None})

    # Nothing is in the way of a copy any more; PostgreSQL makes it within a minute.
    assert await n1.value(ITS_OWN) == 0
