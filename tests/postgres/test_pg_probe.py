"""The probe: alive, alive with a reason, silent; it never waits longer than told."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pgbastion.clock import boottime_ns
from pgbastion.postgres.connection import (
    Connection,
    ServerAnsweredError,
    ServerSilentError,
)
from pgbastion.postgres.disk import DiskWorker
from pgbastion.postgres.hello import hello
from pgbastion.postgres.probe import Probe
from pgbastion.postgres.side_queries import SideQueries
from support.postgres import Lab, Server, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]


@asynccontextmanager
async def probing(server: Server) -> AsyncIterator[Probe]:
    disk = DiskWorker(server.paths, server.files)
    probe = Probe(server.address(), disk)
    try:
        yield probe
    finally:
        await probe.close()
        await disk.close()


async def test_a_primary_tells_its_timeline_and_end_of_wal(any_lab: Lab) -> None:
    n1 = await any_lab.primary("n1")
    async with probing(n1) as probe:
        before = boottime_ns()
        result = await probe.look(deadline_s=5, fresh=True)
    facts = result.facts
    assert facts is not None
    assert (facts.in_recovery, facts.timeline) == (False, 2)
    assert facts.flush_lsn is not None
    assert facts.replayed is None
    assert n1.process is not None
    assert facts.postmaster_pid == n1.process.pid
    assert result.evidence_ns is not None
    assert before <= result.evidence_ns < result.answered_ns
    assert result.postmaster is not None
    assert result.disk.free_bytes is not None
    assert min(result.disk.free_bytes.values()) > 0


async def test_what_endangers_commits_is_taken_back_whoever_has_it_read(
    one_lab: Lab,
) -> None:
    """S2: until the next start, or set, it would hold."""
    n1 = await one_lab.primary("n1")
    safe = {
        "fsync": "on",
        "full_page_writes": "on",
        "restart_after_crash": "off",
        "work_mem": "4MB",
    }
    for setting in ("fsync = off", "full_page_writes = off", "work_mem = '5MB'"):
        await n1.rows(f"ALTER SYSTEM SET {setting}")
    await n1.rows("ALTER SYSTEM SET restart_after_crash = on")
    await n1.rows("ALTER SYSTEM SET synchronous_commit = local")
    await n1.rows("SELECT pg_reload_conf()")

    async def has(settings: dict[str, str]) -> bool:
        return all([await n1.value(f"SHOW {n}") == v for n, v in settings.items()])

    await until(lambda: has({"fsync": "off", "restart_after_crash": "on"}))
    side = SideQueries(n1.primary, n1.standby, look_s=5.0)
    async with probing(n1) as probe:

        async def has_taken_back() -> bool:
            facts = (await probe.look(deadline_s=5)).facts
            assert facts is not None
            await side.ask((), in_recovery=False, loaded_at=facts.loaded_at)
            return await has({**safe, "work_mem": "5MB"})

        await until(has_taken_back)
    await side.forget()
    left = "SELECT name FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'"
    assert await n1.rows(left) == [("work_mem",)]


async def test_a_standby_tells_what_it_receives(one_lab: Lab) -> None:
    n2 = one_lab.server("n2")
    n1 = await one_lab.primary("n1", n2)
    await n1.primary.open()
    await n1.primary.slots.keep([n2.name])
    await n2.copy_from(n1)
    await n2.start()
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))
    async with probing(n2) as probe:
        facts = (await probe.look(deadline_s=5)).facts
    assert facts is not None
    assert facts.in_recovery
    assert facts.receiver is not None
    assert facts.receiver.is_streaming
    assert (facts.receiver.host, facts.receiver.port) == (n1.host, n1.port)
    assert facts.timeline == 2
    assert facts.receive_lsn is not None
    assert facts.receive_lsn >= written
    assert facts.replayed is not None
    assert facts.replay_lsn is not None
    assert facts.replayed.timeline == 2
    assert facts.replayed.lsn <= facts.replay_lsn


async def test_an_idle_session_of_ours_is_not_ended(one_lab: Lab) -> None:
    """Else each look would find its session gone, and the server silent."""
    n1 = await one_lab.primary("n1")
    await n1.rows("ALTER SYSTEM SET idle_session_timeout = '100ms'")
    await n1.rows("SELECT pg_reload_conf()")
    async with probing(n1) as probe:
        for _ in range(2):
            result = await probe.look(deadline_s=5)
            assert result.session_answered
            await asyncio.sleep(0.3)


async def test_a_frozen_server_gives_no_evidence_and_costs_no_more_than_asked(
    one_lab: Lab,
) -> None:
    n1 = await one_lab.primary("n1")
    async with probing(n1) as probe:
        await probe.look(deadline_s=5)
        with frozen(n1):
            for _ in range(3):
                start = time.monotonic()
                result = await probe.look(deadline_s=0.3, fresh=True)
                assert time.monotonic() - start < 0.3 + 0.7
                assert result.evidence_ns is None
                assert result.postmaster_silent
                assert result.disk.is_good
        result = await probe.look(deadline_s=5, fresh=True)
        assert result.evidence_ns is not None


class frozen:  # noqa: N801 - reads as a statement
    """All processes of a server, stopped as by SIGSTOP."""

    def __init__(self, server: Server) -> None:
        assert server.process is not None
        postmaster = server.process.pid
        children = f"/proc/{postmaster}/task/{postmaster}/children"
        text = Path(children).read_text(encoding="utf-8")
        self._pids = [postmaster, *map(int, text.split())]

    def __enter__(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        for pid in reversed(self._pids):
            os.kill(pid, signal.SIGCONT)


async def test_too_many_clients_is_alive_with_a_reason(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1", max_connections="8", max_worker_processes="2")
    crowd = [Connection(n1.address()) for _ in range(8)]
    try:
        for one in crowd:
            try:
                await one.open(deadline_s=5)
            except ServerSilentError:
                break
        greeting = await hello(n1.address(), deadline_s=5)
        assert greeting is not None
        assert greeting.sqlstate == "53300"
        async with probing(n1) as probe:
            result = await probe.look(deadline_s=5)
        assert result.evidence_ns is not None
        assert result.facts is None
        assert result.reason.startswith("53300")
    finally:
        for one in crowd:
            await one.close()


async def test_a_wrong_password_is_alive_with_a_reason(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    disk = DiskWorker(n1.paths, n1.files)
    probe = Probe(n1.address(password="wrong"), disk)
    result = await probe.look(deadline_s=5)
    await probe.close()
    await disk.close()
    assert result.evidence_ns is not None
    assert "password authentication failed" in result.reason


async def test_nobody_there_is_no_evidence(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    async with probing(n1) as probe:
        result = await probe.look(deadline_s=5, fresh=True)
    assert result.evidence_ns is None
    assert result.postmaster_silent


async def test_a_disk_that_refuses_is_named_and_gives_no_evidence(
    one_lab: Lab,
) -> None:
    n1 = await one_lab.primary("n1")
    (n1.paths.data_dir / "pgbastion.probe").symlink_to("/dev/full")
    async with probing(n1) as probe:
        result = await probe.look(deadline_s=5)
    assert result.evidence_ns is None
    assert str(n1.paths.data_dir) in result.reason
    assert result.facts is not None


async def test_without_its_wal_no_server_has_evidence(one_lab: Lab) -> None:
    """One that runs goes on until it needs the next segment, and then loses all."""
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    wal = n1.paths.data_dir / "pg_wal"
    disk = DiskWorker(n1.paths, n1.files)
    before = await disk.check(deadline_s=5)
    away = wal.rename(wal.with_name("away"))
    without = await disk.check(deadline_s=5)
    away.rename(wal)
    after = await disk.check(deadline_s=5)
    await disk.close()
    assert before.is_good
    assert without.error == f"{n1.paths.data_dir}: pg_wal is gone"
    assert after.is_good


async def test_a_disk_that_hangs_has_one_fsync_under_way(one_lab: Lab) -> None:
    n1 = one_lab.server("n1")
    await n1.bootstrap()
    disk = DiskWorker(n1.paths, n1.files)
    assert (await disk.check(deadline_s=5)).is_good
    worker = disk.pid
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    first = await disk.check(deadline_s=0.2)
    second = await disk.check(deadline_s=0.2)
    assert first.answered_ns is None
    assert second.sent_ns == first.sent_ns
    os.kill(worker, signal.SIGCONT)
    assert (await disk.check(deadline_s=5)).sent_ns == first.sent_ns
    os.kill(worker, signal.SIGKILL)
    assert not (await disk.check(deadline_s=5)).is_good
    assert (await disk.check(deadline_s=5)).is_good
    assert disk.pid != worker
    await disk.close()


async def test_a_query_that_is_late_is_given_up_at_once(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    start = time.monotonic()
    with pytest.raises(ServerSilentError, match="no answer within"):
        await n1.connection.rows("SELECT pg_sleep(20)", deadline_s=0.2)
    assert time.monotonic() - start < 1.2
    assert not n1.connection.is_open
    await n1.connection.open(deadline_s=5)
    with pytest.raises(ServerAnsweredError) as caught:
        await n1.connection.rows("SELECT 1 / 0", deadline_s=5)
    assert caught.value.sqlstate == "22012"
    assert n1.connection.is_open


async def test_a_cancelled_query_leaves_no_connection_behind(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    query = asyncio.create_task(
        n1.connection.rows("SELECT pg_sleep(20)", deadline_s=20)
    )
    await asyncio.sleep(0.2)
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    assert not n1.connection.is_open
