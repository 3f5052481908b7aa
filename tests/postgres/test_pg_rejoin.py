"""The ways back behind the primary: follow, crash recovery, rewind, copy."""

import asyncio
import signal
from functools import partial

import pytest

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import Epoch, Timeline
from pgbastion.model.wal import Lsn, WalEnd, parse_lsn
from pgbastion.postgres import rejoin
from pgbastion.postgres.mark import MARK_NAME, render_mark
from pgbastion.postgres.parse import ControlData, ControlState, segment_name
from pgbastion.postgres.programs import ProgramError, unprivileged
from pgbastion.postgres.rejoin_ladder import ask_primary
from support.postgres import Lab, Server, until
from support.rejoining import fail_over, pair, pair_and_third, return_to

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]


async def test_a_crashed_primary_recovers_is_rewound_and_streams(any_lab: Lab) -> None:
    n1, n2 = await pair(any_lab)
    await fail_over(n1, n2, timeline=3)
    await n1.crash()
    old = await n1.mark()

    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.CrashRecover)
    new = n1.renewed(old)
    assert await n1.ladder.take(step, n2.upstream, new) is None
    control = await n1.offline.control()
    assert control.state is ControlState.SHUT_DOWN
    assert await n1.offline.recover() is False

    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.Rewind)
    seen: list[int] = []
    done = await n1.ladder.take(
        step, n2.upstream, new, progress=lambda now, _: seen.append(now)
    )
    assert done is None
    assert seen
    assert await n1.mark() == new
    # Rewound and not started yet: it tells no end before the data are consistent.
    control = await n1.offline.control()
    end = await n1.offline.wal_end(control)
    assert control.min_recovery is not None
    assert end is None or end >= control.min_recovery
    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.Follow)
    await return_to(n1, n2)
    assert await n1.value("SELECT count(*) FROM public.t WHERE node = 'n1 alone'") == 0


async def test_what_is_in_the_history_is_followed_without_a_rewind(
    one_lab: Lab,
) -> None:
    n1, n2 = await pair(one_lab)
    await n1.stop()
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n2.standby.promote(Epoch(2), Timeline(5))
    assert await n2.standby.promoted(deadline_s=10) is not None
    await n2.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), await n2.data_id())
    await n2.primary.slots.keep([n1.name])
    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.Follow)
    await return_to(n1, n2)


@pytest.mark.parametrize("forks", ["one_position", "two_positions"])
async def test_orphans_of_two_promotions_never_share_a_timeline(
    one_lab: Lab, forks: str
) -> None:
    """Two standbys were promoted, from one position or not; neither knew of the other.

    By themselves both would take the same timeline id, and in the first case with the
    same history: then nothing would tell the two apart.
    """
    n1, n2, n3 = await pair_and_third(one_lab)
    if forks == "two_positions":
        await n2.standby.cut(Epoch(1), deadline_s=5)
        await n1.rows("INSERT INTO public.t VALUES ('n3 too')")
    await n1.stop()
    ends = [await s.standby.cut(Epoch(1), deadline_s=5) for s in (n2, n3)]
    assert (ends[0] == ends[1]) == (forks == "one_position")

    # The first is promoted and dies before anybody hears of it; the second is assigned
    # an id above it.
    await n2.standby.promote(Epoch(2), Timeline(3))
    assert await n2.standby.promoted(deadline_s=10) is not None
    await n2.crash()
    await n3.standby.promote(Epoch(3), Timeline(4))
    promoted = await n3.standby.promoted(deadline_s=10)
    assert promoted is not None
    assert promoted.timeline == 4
    await n3.standby.close()
    await n3.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), await n3.data_id())
    await n3.primary.slots.keep([n2.name, n1.name])
    await n3.primary.checkpoint()
    await n3.config.write_access([n1.host, n2.host, n3.host])

    step = await n2.ladder.decide(n3.replication_address())
    assert isinstance(step, rejoin.CrashRecover)
    mark = n2.renewed(await n2.mark())
    await n2.ladder.take(step, n3.upstream, mark)
    step = await n2.ladder.decide(n3.replication_address())
    assert isinstance(step, rejoin.Rewind)
    assert await n2.ladder.take(step, n3.upstream, mark) is None
    await return_to(n2, n3, epoch=3)
    # The node that was away finds the history of every id in between.
    step = await n1.ladder.decide(n3.replication_address())
    assert isinstance(step, rejoin.Follow)
    await return_to(n1, n3, epoch=3)


async def test_whom_a_person_promoted_under_an_id_that_was_given_later_is_copied(
    one_lab: Lab,
) -> None:
    """Both left at the same position: PostgreSQL sees one history, and would follow."""
    n1, n2, n3 = await pair_and_third(one_lab)
    await n2.mark_file.update(epoch=Epoch(1))
    await n1.stop()
    await n2.rows("SELECT pg_promote()")
    await n2.crash()
    await n3.standby.cut(Epoch(1), deadline_s=5)
    await n3.standby.promote(Epoch(2), Timeline(3))
    assert await n3.standby.promoted(deadline_s=10) is not None
    assert (await n3.mark()).promoted_timeline == 3
    await n3.standby.close()
    await n3.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), await n3.data_id())
    await n3.rows("CREATE TABLE public.more (node text)")

    source = await ask_primary(n3.replication_address())
    local = await n2.ladder.local_state()

    assert local.history == source.history
    assert local.wal_end is not None
    assert local.wal_end.lsn <= source.written
    assert isinstance(rejoin.decide_rejoin(local, source), rejoin.Copy)


async def test_a_rewind_waits_for_the_primarys_checkpoint(one_lab: Lab) -> None:
    n1, n2 = await pair(one_lab, checkpoint_timeout="1h")
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await n1.rows("INSERT INTO public.t VALUES ('n1 alone')")
    await n1.stop()
    await n2.standby.promote(Epoch(2), Timeline(3))
    assert await n2.standby.promoted(deadline_s=10) is not None
    source = await ask_primary(n2.replication_address())
    step = rejoin.decide_rejoin(await n1.ladder.local_state(), source)
    if source.checkpoint_timeline != 3:
        assert isinstance(step, rejoin.Wait)
    await n2.primary.checkpoint()
    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.Rewind)


async def test_another_cluster_is_refused(one_lab: Lab) -> None:
    n1, _ = await pair(one_lab)
    stranger = one_lab.server("stranger")
    await stranger.bootstrap(initdb=True)
    step = await stranger.ladder.decide(n1.replication_address())
    assert isinstance(step, rejoin.Refuse)
    assert "another cluster" in step.reason


async def test_a_rewind_that_was_cut_short_anywhere_ends_in_a_copy(
    one_lab: Lab,
) -> None:
    """Killed, pg_rewind leaves files empty, or the source's: our mark too."""
    n1, n2 = await pair(one_lab)
    await fail_over(n1, n2, timeline=3)
    await n1.crash()
    ours = n1.renewed(await n1.mark())
    await n1.files.write(n1.paths.work_flag, render_mark(ours))
    foreign = (n2.paths.data_dir / MARK_NAME).read_text()
    for left in ("", "{", foreign):
        (n1.paths.data_dir / MARK_NAME).write_text(left)
        assert await n1.mark_file.read() == ours
    (n1.paths.data_dir / "PG_VERSION").write_text("")

    step = await n1.ladder.decide(n2.replication_address())

    assert isinstance(step, rejoin.Copy)
    raised = await n1.mark_file.update(cut=Epoch(9))
    assert await n1.mark_file.read() == raised != ours


async def test_a_directory_in_use_is_neither_compared_nor_replaced(
    one_lab: Lab,
) -> None:
    """Another daemon may have been given the directory of a server that runs."""
    n1, n2 = await pair(one_lab)
    before = n2.paths.data_dir.stat().st_ino
    with pytest.raises(PostgresError, match="data_dir of its own"):
        await n2.ladder.decide(n1.replication_address())
    copy = rejoin.Copy(reason="it seems to be somebody else's")
    with pytest.raises(PostgresError, match="data_dir of its own"):
        await n2.ladder.take(copy, n1.upstream, n2.renewed(await n2.mark()))
    assert n2.paths.data_dir.stat().st_ino == before
    await n1.rows("INSERT INTO public.t VALUES ('n1')")
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))


async def trio(lab: Lab) -> tuple[Server, Server, Server]:
    """Give a primary with two standbys; what it writes from now on, one of them gets.

    The other one, which is the last, is cut.
    """
    n1, n2, n3 = await pair_and_third(lab)
    await n1.primary.checkpoint()
    written = await n1.primary.write_position()
    for server in (n2, n3):
        await until(partial(server.has_flushed, written))
        await until(partial(server.has_replayed, written))
    await n2.rows("CHECKPOINT")
    assert isinstance(await n3.standby.cut(Epoch(1), deadline_s=5), WalEnd)
    await n1.rows("INSERT INTO public.t VALUES ('n1 and n2')")
    written = await n1.primary.write_position()
    await until(partial(n2.has_flushed, written))
    await until(partial(n2.has_replayed, written))
    return n1, n2, n3


async def take_the_role(server: Server, *others: Server) -> None:
    """Promote a cut standby to timeline 3, ready to be the source of a rewind."""
    await server.standby.promote(Epoch(2), Timeline(3))
    assert await server.standby.promoted(deadline_s=10) is not None
    await server.standby.close()
    data_id = await server.data_id()
    await server.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), data_id)
    await server.primary.slots.keep([other.name for other in others])
    await server.config.write_access([s.host for s in (server, *others)])
    await server.primary.reload()
    await server.primary.checkpoint()


async def test_a_crashed_standby_is_rewound_without_writing_wal(any_lab: Lab) -> None:
    """A checkpoint of its own would pass for WAL of the primary that it followed."""
    n1, n2, n3 = await trio(any_lab)
    await n2.crash()
    await n1.stop()
    await take_the_role(n3, n2)
    had = await n2.offline.wal_on_disk(await n2.offline.control())
    step = await n2.ladder.decide(n3.replication_address())
    assert isinstance(step, rejoin.CrashRecover)

    mark = n2.renewed(await n2.mark())
    assert await n2.ladder.take(step, n3.upstream, mark) is None

    control = await n2.offline.control()
    assert control.state is ControlState.SHUT_DOWN_IN_RECOVERY
    assert await n2.offline.wal_on_disk(control) == had
    step = await n2.ladder.decide(n3.replication_address())
    assert isinstance(step, rejoin.Rewind)
    assert await n2.ladder.take(step, n3.upstream, mark) is None
    await return_to(n2, n3)
    assert await n2.value("SELECT count(*) FROM public.t WHERE node = 'both'") == 1


def erase_wal(server: Server, control: ControlData, lsn: Lsn) -> None:
    """Erase what the segment of ``lsn`` holds from there on."""
    name = segment_name(control.checkpoint.timeline, lsn, control.wal_segment_bytes)
    with (server.paths.wal_dir / name).open("r+b") as segment:
        segment.seek(lsn % control.wal_segment_bytes)
        segment.write(bytes(control.wal_segment_bytes - segment.tell()))


async def test_data_that_need_wal_which_nobody_has_are_copied(one_lab: Lab) -> None:
    """As after a rewind: its source had written on, and lost the role since."""
    n1, n2, n3 = await trio(one_lab)
    # Notes how far the data need WAL: up to here.
    await n2.rows("CHECKPOINT")
    await n2.crash()
    await n1.stop()
    await take_the_role(n3, n2)
    fork = (await ask_primary(n3.replication_address())).history.forks[-1]
    control = await n2.offline.control()
    assert control.min_recovery is not None
    assert control.min_recovery.lsn > fork.lsn
    erase_wal(n2, control, fork.lsn)

    step = await n2.ladder.decide(n3.replication_address())

    assert isinstance(step, rejoin.Copy)
    assert "need WAL" in step.reason


async def test_a_rewind_that_would_do_nothing_is_none(one_lab: Lab) -> None:
    n1, n2 = await pair(one_lab)
    await n1.stop()
    await n2.standby.cut(Epoch(1), deadline_s=5)
    await take_the_role(n2, n1)
    before = await n1.mark()
    failed = await n1.source.rewind(n2.upstream, n1.renewed(before))
    assert failed is not None
    assert "nothing to take back" in failed.reason
    assert await n1.mark() == before
    assert not n1.paths.work_flag.exists()


async def test_a_long_message_is_no_end_that_cannot_be_told(any_lab: Lab) -> None:
    """What it holds is listed byte by byte."""
    n1 = await any_lab.primary("n1")
    await n1.rows("CHECKPOINT")
    await n1.rows("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1048576))")
    written = parse_lsn(str(await n1.value("SELECT pg_current_wal_insert_lsn()::text")))
    # Flushes it; then the message is the last that a crash has left.
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.crash()
    control = await n1.offline.control()
    erase_wal(n1, control, written)

    end = await n1.offline.wal_on_disk(control)

    assert end is not None
    assert written - control.wal_block_bytes < end.lsn <= written


async def test_wal_ends_with_the_segment_after_a_switch(any_lab: Lab) -> None:
    n1 = await any_lab.primary("n1")
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.rows("SELECT pg_switch_wal()")
    await n1.crash()

    control = await n1.offline.control()
    end = await n1.offline.wal_on_disk(control)

    assert end is not None
    assert end.lsn % control.wal_segment_bytes == 0


async def test_crash_recovery_goes_on_although_the_pid_is_another_s(
    one_lab: Lab,
) -> None:
    """Rule 40: a pid alone says nothing."""
    n1 = await one_lab.primary("n1")
    lock = n1.paths.data_dir / "postmaster.pid"
    left = lock.read_text().split("\n")
    await n1.crash()
    stranger = await asyncio.create_subprocess_exec(
        *unprivileged(n1.paths.account), "sleep", "600"
    )
    try:
        await n1.files.write(lock, "\n".join([str(stranger.pid), *left[1:]]))
        with pytest.raises(ProgramError, match="already exists"):
            await n1.programs.run(
                "postgres", "--single", "-D", str(n1.paths.data_dir), deadline_s=30
            )

        assert await n1.offline.recover()
    finally:
        stranger.kill()
        await stranger.wait()


async def test_crash_recovery_keeps_what_a_rewind_reads(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1", wal_keep_size="0")
    await n1.rows("CREATE TABLE public.t (i int)")
    for _ in range(3):
        await n1.rows("INSERT INTO public.t VALUES (1)")
        await n1.rows("SELECT pg_switch_wal()")
    control = await n1.offline.control()
    lsn = control.checkpoint.lsn
    oldest = segment_name(control.checkpoint.timeline, lsn, control.wal_segment_bytes)
    await n1.stop(signal.SIGQUIT)

    assert await n1.offline.recover()

    assert (n1.paths.wal_dir / oldest).exists()


async def test_crash_recovery_keeps_segments_that_wait_for_the_archive(
    one_lab: Lab,
) -> None:
    n1 = await one_lab.primary(
        "n1", archive_mode="on", archive_command="false", wal_keep_size="0"
    )
    await n1.rows("CREATE TABLE public.t (i int)")
    for _ in range(3):
        await n1.rows("INSERT INTO public.t VALUES (1)")
        await n1.rows("SELECT pg_switch_wal()")
    waiting = {p.name for p in n1.ready_segments()}
    assert waiting
    await n1.stop(signal.SIGQUIT)
    assert await n1.offline.recover()
    kept = {p.name for p in n1.ready_segments()}
    assert waiting <= kept
    assert all((n1.paths.wal_dir / p.removesuffix(".ready")).exists() for p in waiting)
