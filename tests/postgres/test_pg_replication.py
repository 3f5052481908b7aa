"""Bootstrap, copy, stream, cut, promote, follow: on every PostgreSQL that is here."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline, standby_name
from pgbastion.model.wal import Lsn, WalEnd, format_lsn, parse_lsn
from pgbastion.postgres.parse import segment_name
from pgbastion.postgres.render import Upstream
from pgbastion.postgres.side_queries import SideQueries
from pgbastion.postgres.slots import CarriedSlots
from pgbastion.postgres.standby import Unknown
from pgbastion.postgres.sync_change import SyncChange
from support.postgres import Lab, Server, until

MADE_AHEAD_MAX = 200
AHEAD = """
SELECT count(*) FROM pg_stat_replication
 WHERE state = 'streaming' AND flush_lsn >= '{}'
"""
REDO = "SELECT redo_lsn::text FROM pg_control_checkpoint()"

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


async def three(lab: Lab) -> tuple[Server, Server, Server]:
    """Give a primary and two standbys that stream from it over their slots."""
    n2, n3 = lab.server("n2"), lab.server("n3")
    return await begin(lab, n2, n3), n2, n3


async def two(lab: Lab) -> tuple[Server, Server]:
    """Give a primary and a standby that streams from it over its slot."""
    n2 = lab.server("n2")
    return await begin(lab, n2), n2


async def begin(lab: Lab, *standbys: Server) -> Server:
    n1 = await lab.primary("n1", *standbys)
    await n1.primary.open()
    await n1.primary.slots.keep([standby.name for standby in standbys])
    for standby in standbys:
        await standby.copy_from(n1)
        await standby.start()
    await until(lambda: streams(n1, *standbys))
    return n1


async def streams(primary: Server, *standbys: Server) -> bool:
    rows = await primary.primary.senders()
    names = {row.name for row in rows if row.state == "streaming"}
    return names >= {await s.standby_name() for s in standbys}


async def test_a_cluster_lives_on_the_promoted_standby(any_lab: Lab) -> None:
    n1, n2, n3 = await three(any_lab)
    await n1.set_sync(ReplicationMode.QUORUM, 1, n2, n3)
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.rows("INSERT INTO public.t SELECT generate_series(1, 1000)")
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))
    await until(lambda: n3.has_flushed(written))
    await n1.crash()

    ends = [await s.standby.cut(Epoch(1), deadline_s=5) for s in (n2, n3)]
    assert all(isinstance(end, WalEnd) and end.lsn >= written for end in ends)

    await n2.standby.promote(Epoch(2), Timeline(7))
    promoted = await n2.standby.promoted(deadline_s=10)
    assert promoted is not None
    assert promoted.timeline == 7
    await n2.primary.open()
    await n2.primary.slots.keep([n1.name, n3.name])
    await n3.standby.follow(n2.upstream, Epoch(2))
    await until(lambda: streams(n2, n3))
    await n2.set_sync(ReplicationMode.QUORUM, 1, n3)
    await n2.rows("INSERT INTO public.t VALUES (1001)")
    assert await n2.value("SELECT count(*) FROM public.t") == 1001
    assert (await n2.mark()).promoted_epoch == 2
    assert (await n3.mark()).epoch == 2


async def test_wal_of_another_history_is_no_wal_of_ours(one_lab: Lab) -> None:
    """S2: it tries again and again, and tells each time what it has replayed."""
    n1, n2, n3 = await three(one_lab)
    await n1.set_sync(ReplicationMode.QUORUM, 0)
    await n2.standby.cut(Epoch(1), deadline_s=5)
    written = Lsn(0)
    for _ in range(20):
        written = await n1.primary.write_position()
    await until(lambda: n3.has_replayed(written))
    await n1.crash()
    await n2.standby.promote(Epoch(2), Timeline(7))
    promoted = await n2.standby.promoted(deadline_s=10)
    assert promoted is not None
    assert promoted.lsn < written
    await n2.primary.open()
    await n2.primary.slots.keep([n1.name, n3.name])
    await n3.standby.follow(n2.upstream, Epoch(2))

    said = 0
    while said < 5:
        said += int(str(await n2.value(AHEAD.format(format_lsn(promoted.lsn)))))
        for sender in await n2.primary.senders():
            assert sender.flush_lsn < promoted.lsn


async def test_a_commit_waits_until_the_promoted_server_has_a_set(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1")
    with pytest.raises(PostgresError, match="no answer"):
        await n1.client("CREATE TABLE public.t (i int)", deadline_s=0.5)
    await n1.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), await n1.data_id())
    await n1.client("CREATE TABLE public.u (i int)", deadline_s=5)


async def test_a_first_set_is_in_force_when_commits_wait(one_lab: Lab) -> None:
    """What has sessions wait is the checkpointer: here it is too busy to."""
    n1, n2 = await two(one_lab)
    await n1.set_sync(ReplicationMode.QUORUM, 0)
    await n1.client("CREATE TABLE public.t (i int)", deadline_s=5)
    change, own = SyncChange(n1.primary), await n1.data_id()
    one = SyncSet(names=(await n2.standby_name(),), num_sync=1)

    async def in_force() -> bool:
        return await change.apply(ReplicationMode.QUORUM, one, own, first=True)

    checkpointer = await n1.value(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    )
    assert isinstance(checkpointer, int)
    os.kill(checkpointer, signal.SIGSTOP)
    try:
        assert not await in_force()
        # The setting is there, and nobody goes by it.
        await n1.client("INSERT INTO public.t VALUES (1)", deadline_s=5)
        assert not await in_force()
    finally:
        os.kill(checkpointer, signal.SIGCONT)
    await until(in_force)

    await n2.crash()
    with pytest.raises(PostgresError, match="no answer"):
        await n1.client("INSERT INTO public.t VALUES (2)", deadline_s=0.5)


async def test_a_set_is_in_force_only_when_every_walsender_has_it(one_lab: Lab) -> None:
    n1, n2, n3 = await three(one_lab)
    mode = ReplicationMode.QUORUM
    both = SyncSet(names=(await n2.standby_name(), await n3.standby_name()), num_sync=1)
    assert not (await n1.primary.sync_effect(mode, both)).effective
    await n1.set_sync(mode, 1, n2, n3)
    assert (await n1.primary.sync_effect(mode, both)).effective

    await n1.set_sync(mode, 1, n3)
    assert not (await n1.primary.sync_effect(mode, both)).effective
    priorities = {row.name: row.sync_priority for row in await n1.primary.senders()}
    assert priorities == {await n2.standby_name(): 0, await n3.standby_name(): 1}


async def test_names_of_another_data_directory_do_not_count(one_lab: Lab) -> None:
    n1, n2 = await two(one_lab)
    stranger = SyncSet(names=(standby_name(n2.name, DataId("0" * 32)),), num_sync=1)
    await n1.primary.set_sync(ReplicationMode.SYNC, stranger, await n1.data_id())
    await until(lambda: n1.in_force(ReplicationMode.SYNC, stranger))
    with pytest.raises(PostgresError, match="no answer"):
        await n1.client("CREATE TABLE public.t (i int)", deadline_s=0.5)


async def test_walsenders_that_are_ended_are_replaced(
    one_lab: Lab,
) -> None:
    n1, n2, n3 = await three(one_lab)
    await n1.set_sync(ReplicationMode.QUORUM, 1, n2, n3)
    old = {row.pid for row in await n1.primary.senders()}
    await n1.set_sync(ReplicationMode.QUORUM, 2, n2, n3)
    await n1.primary.end_walsenders(old)

    async def replaced() -> bool:
        new = {row.pid for row in await n1.primary.senders()}
        return len(new) == 2 and not old & new

    await until(replaced)


async def test_a_cut_standby_receives_nothing_more(any_lab: Lab) -> None:
    n1, n2 = await two(any_lab)
    end = await n2.standby.cut(Epoch(1), deadline_s=5)
    await n1.primary.write_position()
    await asyncio.sleep(0.5)
    assert await n2.standby.wal_end(deadline_s=2) == end
    assert await n2.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0

    with pytest.raises(PostgresError, match="epoch 1 must not be followed"):
        await n2.standby.follow(n1.upstream, Epoch(1))
    await n2.stop()
    await n2.start()
    assert await n2.value("SHOW primary_conninfo") == ""
    restarted = await n2.standby.wal_end(deadline_s=5)
    assert isinstance(restarted, WalEnd)
    assert isinstance(end, WalEnd)
    assert restarted.timeline == end.timeline
    # A message that was received only in part is of no use to anybody.
    assert end.lsn - 8192 < restarted.lsn <= end.lsn


async def test_an_end_read_from_files_is_the_one_that_the_server_tells(
    one_lab: Lab,
) -> None:
    n1, n2 = await two(one_lab)
    await n1.rows("SET synchronous_commit = local; CREATE TABLE public.t (i int)")
    told = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(told))
    end = await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.crash()
    assert await n2.offline.wal_end(await n2.offline.control()) == end


async def test_what_was_told_to_shut_down_ends_with_the_shutdown_checkpoint(
    one_lab: Lab,
) -> None:
    n1, n2 = await two(one_lab)
    await n1.stop()
    control = await n1.offline.control()
    end = await n1.offline.shutdown_end(control)
    assert end is not None
    assert await n1.offline.wal_end(control) == WalEnd(timeline=Timeline(2), lsn=end)
    answer = await n2.standby.cut(Epoch(1), deadline_s=5)
    assert answer == WalEnd(timeline=Timeline(2), lsn=end)


async def test_a_segment_made_ahead_hides_no_end(one_lab: Lab) -> None:
    """A checkpoint makes the next segment, all zeros, if this one is nearly full."""
    n1 = await begin(one_lab)
    await n1.stop()
    control = await n1.offline.control()
    end = await n1.offline.wal_end(control)
    assert end is not None

    make_ahead(n1.paths.wal_dir, end, control.wal_segment_bytes)

    assert await n1.offline.wal_end(control) == end


def make_ahead(wal_dir: Path, end: WalEnd, segment_bytes: int) -> None:
    """Make segments until the directory lists one of them before those with WAL."""
    made = set()
    for ahead in range(1, MADE_AHEAD_MAX):
        lsn = Lsn(end.lsn + ahead * segment_bytes)
        path = wal_dir / segment_name(end.timeline, lsn, segment_bytes)
        with path.open("xb") as segment:
            segment.truncate(segment_bytes)
        made.add(path.name)
        listed = [each.name for each in wal_dir.iterdir()]
        if next(name for name in listed if len(name) == len(path.name)) in made:
            return
    pytest.fail("no order of the directory shows the fault")


async def test_a_timeline_that_is_known_already_is_not_taken(one_lab: Lab) -> None:
    _, n2 = await two(one_lab)
    await n2.standby.cut(Epoch(1), deadline_s=5)
    with pytest.raises(PostgresError, match="cannot be taken"):
        await n2.standby.promote(Epoch(2), Timeline(2))
    assert await n2.value("SELECT pg_is_in_recovery()") is True


async def test_a_standby_whose_primary_never_answers_is_cut_at_once(
    one_lab: Lab,
) -> None:
    _, n2 = await two(one_lab)
    # The kernel accepts for a server that never reads.
    with socket.create_server((n2.host, 0)) as silent:
        upstream = Upstream(host=n2.host, port=silent.getsockname()[1])
        await n2.standby.follow(upstream, Epoch(1))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(3):
            assert isinstance(await n2.standby.cut(Epoch(1), deadline_s=3), WalEnd)


async def slots_of(server: Server) -> dict[str, Lsn]:
    await server.primary.open()
    ours = await server.primary.slots.ours()
    return {slot.name: slot.restart_lsn or Lsn(0) for slot in ours}


async def test_a_standby_carries_slots_up_to_what_it_has_replayed(one_lab: Lab) -> None:
    n1, n2 = await two(one_lab)
    slots = CarriedSlots(n2.address())
    redo = parse_lsn(str(await n2.value(REDO)))

    await slots.carry({n1.name: None, NodeId("n3"): Lsn(0)})
    assert await slots_of(n2) == {"pgbastion_n1": redo, "pgbastion_n3": redo}

    await n1.rows("CREATE TABLE public.t AS SELECT generate_series(1, 1000)")
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))
    await until(lambda: has_replayed(n2, written))
    await slots.carry({n1.name: None, NodeId("n3"): written})
    assert await slots_of(n2) == {"pgbastion_n1": redo, "pgbastion_n3": written}

    await slots.carry({n1.name: None, NodeId("n3"): Lsn(written + (1 << 40))})
    replayed = parse_lsn(str(await n2.value("SELECT pg_last_wal_replay_lsn()")))
    assert written <= (await slots_of(n2))["pgbastion_n3"] <= replayed

    await slots.carry({n1.name: None})
    assert set(await slots_of(n2)) == {"pgbastion_n1"}


async def test_a_promoted_server_keeps_the_slots_that_it_has(one_lab: Lab) -> None:
    _, n2 = await two(one_lab)
    await CarriedSlots(n2.address()).carry({NodeId("n3"): Lsn(0)})
    await n2.rows("SELECT pg_promote()")

    await CarriedSlots(n2.address()).carry({})

    assert set(await slots_of(n2)) == {"pgbastion_n3"}


async def test_a_standbys_slot_keeps_no_rows_from_being_vacuumed(one_lab: Lab) -> None:
    """One of its time as primary does, when the standby had sent feedback."""
    n3 = one_lab.server("n3", hot_standby_feedback="on")
    n2 = await begin(one_lab, n3)
    held = "SELECT count(*) FROM pg_replication_slots WHERE xmin IS NOT NULL"
    await until(lambda: is_one(n2, held))
    await n3.stop()
    await n2.stop()
    await n2.config.mark_standby()
    await n2.start()
    assert await n2.value(held) == 1

    await CarriedSlots(n2.address()).carry({n3.name: None})

    assert await n2.value(held) == 0
    assert set(await slots_of(n2)) == {"pgbastion_n3"}


async def is_one(server: Server, text: str) -> bool:
    return await server.value(text) == 1


async def has_replayed(server: Server, lsn: Lsn) -> bool:
    text = await server.value("SELECT pg_last_wal_replay_lsn()::text")
    return parse_lsn(str(text)) >= lsn


async def test_a_promoted_standby_has_the_wal_that_another_one_lacks(
    one_lab: Lab,
) -> None:
    """Without a slot for it, only a copy would bring the other one back."""
    small: dict[str, str | int] = {
        "wal_keep_size": 0,
        "min_wal_size": "32MB",
        "max_wal_size": "32MB",
    }
    n2, n3 = one_lab.server("n2", **small), one_lab.server("n3")
    n1 = await begin(one_lab, n2, n3)
    await n3.stop()
    confirmed = (await slots_of(n1))["pgbastion_n3"]
    await CarriedSlots(n2.address()).carry({n1.name: None, n3.name: confirmed})
    for _ in range(4):
        await n1.rows("SELECT pg_logical_emit_message(false, '', 'x'), pg_switch_wal()")
        await n1.rows("CHECKPOINT")
    written = await n1.primary.write_position()
    await until(lambda: has_replayed(n2, written))
    await n2.rows("CHECKPOINT")
    await n1.crash()
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.standby.promote(Epoch(2), Timeline(7))
    assert await n2.standby.promoted(deadline_s=10) is not None
    await n2.rows("CHECKPOINT")

    await n3.standby.follow_files(n2.upstream, Epoch(2))
    await n3.start()
    await until(lambda: streams(n2, n3))


async def test_a_human_who_overrides_the_source_does_not_undo_a_cut(
    one_lab: Lab,
) -> None:
    n1, n2 = await two(one_lab)
    source = f"host={n1.host} port={n1.port} user=replicator"
    await n2.rows(f"ALTER SYSTEM SET primary_conninfo = '{source}'")
    assert isinstance(await n2.standby.cut(Epoch(1), deadline_s=5), WalEnd)
    assert await n2.value("SHOW primary_conninfo") == ""


async def test_a_standby_that_a_human_leads_elsewhere_comes_back(
    one_lab: Lab,
) -> None:
    _, n2 = await two(one_lab)
    source = await n2.value("SHOW primary_conninfo")
    await n2.rows("ALTER SYSTEM SET primary_conninfo = 'host=nowhere'")
    await n2.rows("SELECT pg_reload_conf()")
    side = SideQueries(n2.primary, n2.standby, look_s=5.0)

    async def comes_back() -> bool:
        loaded_at = await n2.primary.loaded_at()
        await side.ask((), in_recovery=True, loaded_at=loaded_at)
        return await n2.value("SHOW primary_conninfo") == source

    await until(comes_back)
    await side.forget()


async def test_a_standby_that_would_acknowledge_alone_is_not_promoted(
    one_lab: Lab,
) -> None:
    _, n2 = await two(one_lab)
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.rows("ALTER SYSTEM SET synchronous_standby_names = ''")
    await n2.rows("SELECT pg_reload_conf()")

    async def in_effect() -> bool:
        current = "SELECT current_setting('synchronous_standby_names')"
        return await n2.value(current) == ""

    await until(in_effect)
    with pytest.raises(PostgresError, match="acknowledge commits alone"):
        await n2.standby.promote(Epoch(2), Timeline(3))
    assert await n2.value("SELECT pg_is_in_recovery()") is True
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.standby.promote(Epoch(2), Timeline(3))
    assert await n2.standby.promoted(deadline_s=10) is not None


async def test_who_was_promoted_by_hand_tells_no_end_of_wal(one_lab: Lab) -> None:
    """S2: the id of its timeline may be one that the cluster gave to another node."""
    _, n2 = await two(one_lab)
    await n2.rows("SELECT pg_promote()")
    assert isinstance(await n2.standby.cut(Epoch(1), deadline_s=5), Unknown)
