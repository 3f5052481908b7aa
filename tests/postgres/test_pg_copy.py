"""Copies: of the primary's data, into the place of what a node had."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from pgbastion.errors import PostgresError
from pgbastion.postgres import rejoin, staging
from pgbastion.postgres.directory import DataDirectory
from support.postgres import Lab, until
from support.rejoining import fail_over, pair, return_to

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

FULL: Final = SimpleNamespace(free=0, total=1 << 30)


async def test_a_copy_is_the_last_resort_and_leaves_the_old_directory(
    one_lab: Lab,
) -> None:
    n1, n2 = await pair(one_lab)
    await fail_over(n1, n2, timeline=3)
    await n1.stop()
    old = await n1.mark()
    new = n1.renewed(old)
    await n1.files.write(n1.paths.work_flag, "interrupted")
    assert await n1.offline.wal_end(await n1.offline.control()) is None
    step = await n1.ladder.decide(n2.replication_address())
    assert isinstance(step, rejoin.Copy)
    assert await n1.ladder.take(step, n2.upstream, new) is None
    assert await n1.mark() == replace(new, backup=(await n1.mark()).backup)
    # A copy that this node has made keeps its data id.
    directory = DataDirectory(n1.paths, n1.files, n1.mark_file, n1.offline)
    assert (await directory.inspect("test", running=False)).data_id == new.data_id
    assert not n1.paths.work_flag.exists()
    kept = n1.paths.data_dir.with_name("data.pgbastion-old")
    assert (kept / "PG_VERSION").exists()
    await return_to(n1, n2)


async def test_a_failed_copy_leaves_the_directory_as_it_was(one_lab: Lab) -> None:
    n1, n2 = await pair(one_lab)
    await n2.stop()
    before = await n2.mark()
    await n1.stop()
    home = n2.paths.data_dir.parent
    names = sorted(p.name for p in home.iterdir())
    with pytest.raises(PostgresError, match="pg_basebackup failed"):
        await n2.source.copy(n1.upstream, n2.renewed(before))
    assert await n2.mark() == before
    assert sorted(p.name for p in home.iterdir()) == names
    await n2.start()


@pytest.mark.parametrize("room", [True, False], ids=["room", "no room"])
async def test_a_copy_saves_wal_that_waits_for_the_archive(
    one_lab: Lab, monkeypatch: pytest.MonkeyPatch, *, room: bool
) -> None:
    archiving = {"archive_mode": "on", "archive_command": "false"}
    n1, n2 = await pair(one_lab, **archiving)
    await fail_over(n1, n2, timeline=3)
    await n1.rows("SELECT pg_switch_wal()")
    await n1.stop()
    waiting = {path.stem for path in n1.ready_segments()}
    assert waiting
    if not room:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL)

    await n1.source.copy(n2.upstream, n1.renewed(await n1.mark()))

    kept = n1.paths.data_dir.with_name("data.pgbastion-unarchived")
    found = {path.name for path in kept.iterdir()} if kept.exists() else set()
    assert found == (waiting if room else set())
    await return_to(n1, n2)


async def test_wal_on_a_disk_of_its_own_stays_there(
    one_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    n1, n2 = await pair(one_lab)
    await n2.stop()
    disk = n2.paths.state_dir / "disk"
    shutil.move(n2.paths.wal_dir, disk)
    n2.paths.wal_dir.symlink_to(disk)
    copies = [disk]
    for room in (True, True, False, True):
        with monkeypatch.context() as patch:
            if not room:
                patch.setattr(shutil, "disk_usage", lambda _: FULL)
            await n2.copy_from(n1)
        copies.append(n2.paths.wal_dir.resolve())
        await n2.start()
        written = await n1.primary.write_position()
        await until(partial(n2.has_flushed, written))
        await n2.stop()
        # The WAL of the directory that is kept stays with it, and no other.
        wanted = {copies[-1], copies[-2]} if room else {copies[-1]}
        found = {path for path in disk.glob("pgbastion-wal-*") if path.is_dir()}
        assert found == wanted - {disk}
        assert any(path.is_file() for path in disk.iterdir()) == (disk in wanted)
    assert len(set(copies)) == 5
    shutil.rmtree(disk)
    with pytest.raises(PostgresError, match="mount its file system"):
        await n2.copy_from(n1)


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "inside"])
async def test_what_was_emptied_for_want_of_room_is_copied_again(
    one_lab: Lab, monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    """An empty directory is no invitation, but this one was emptied by the node."""
    n1, n2 = await pair(one_lab)
    await n2.stop()
    await n1.stop()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL)
    monkeypatch.setattr(staging, "can_rename", lambda _: beside)
    place = n2.paths.state_dir / "place" / "PG_15_202209061"
    place.mkdir(parents=True)
    link = n2.paths.data_dir / "pg_tblspc" / "16400"
    link.symlink_to(place.parent)
    directory = DataDirectory(n2.paths, n2.files, n2.mark_file, n2.offline)
    with pytest.raises(PostgresError, match="pg_basebackup failed"):
        await n2.source.copy(n1.upstream, n2.renewed(await n2.mark()))

    facts = await directory.inspect("test", running=False)
    # What the copy that failed has left in a tablespace is known for its own.
    (place / "left").mkdir(parents=True)
    await n1.start()
    await n2.copy_from(n1)

    assert (facts.empty, facts.emptied, facts.problem) == (True, True, None)
    assert not place.exists()
    facts = await directory.inspect("test", running=False)
    assert (facts.ours, facts.emptied) == (True, False)
    assert not (n2.paths.data_dir / staging.EMPTIED).exists()
    assert n2.source.elsewhere().tablespaces == []
    await n2.start()


async def test_room_is_looked_for_where_the_copy_is_made(
    one_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data directory that is a mount point has more, or less, than its parent."""
    n1, n2 = await pair(one_lab)
    await n2.stop()
    asked: list[Path] = []
    usage = shutil.disk_usage

    def notice(path: Path) -> object:
        asked.append(path)
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", notice)
    monkeypatch.setattr(staging, "can_rename", lambda _: False)
    await n2.copy_from(n1)

    assert set(asked) == {n2.paths.data_dir}
