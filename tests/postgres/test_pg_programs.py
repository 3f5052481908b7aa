"""Programs run as the server's user, without rights, and never longer than told."""

import asyncio
import os
import re
import time
from pathlib import Path

import pytest

from pgbastion.errors import PostgresError
from pgbastion.postgres.archive import expand_command
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import resolve_account
from pgbastion.postgres.programs import ProgramError
from pgbastion.postgres.standby import is_alive
from support.postgres import Lab, Server, os_user

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(60)]

SHELL = "/bin/sh"


@pytest.fixture
def server(one_lab: Lab) -> Server:
    return one_lab.server("n1")


async def test_a_program_has_the_servers_user_and_no_capability(
    server: Server,
) -> None:
    output = await server.programs.run(
        SHELL, "-c", "cat /proc/self/status", deadline_s=10
    )
    status = dict(re.findall(r"(\w+):\t(.*)", output.stdout))
    assert status["Uid"].split() == [str(server.paths.account.uid)] * 4
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["NoNewPrivs"] == "1"


async def test_a_program_inherits_no_secret_of_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGBASTION_SECRET", "hidden")
    monkeypatch.setenv("PGPASSWORD", "hidden")
    output = await server.programs.run(SHELL, "-c", "env", deadline_s=10)
    assert "hidden" not in output.stdout
    assert "LC_ALL=C" in output.stdout


async def test_a_late_program_ends_with_everything_that_it_started(
    server: Server,
) -> None:
    start = time.monotonic()
    with pytest.raises(ProgramError) as caught:
        await server.programs.run(
            SHELL, "-c", "sleep 30 & echo $!; wait", deadline_s=0.5
        )
    assert time.monotonic() - start < 5
    assert caught.value.timed_out
    await is_gone(int(caught.value.output.stdout))


async def test_a_cancelled_program_ends(server: Server, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)  # noqa: PTH101
    note = server.paths.run_dir / "pid"
    run = asyncio.create_task(
        server.programs.run(SHELL, "-c", f"echo $$ > {note}; sleep 30", deadline_s=30)
    )
    async with asyncio.timeout(10):
        while not note.exists() or not note.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await is_gone(int(note.read_text()))


async def is_gone(pid: int) -> None:
    async with asyncio.timeout(5):
        while is_alive(pid):  # noqa: ASYNC110 - nobody tells of a stranger's end
            await asyncio.sleep(0.02)


async def test_of_a_long_output_the_end_is_kept(server: Server) -> None:
    output = await server.programs.run(
        SHELL,
        "-c",
        "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done",
        deadline_s=20,
        keep_bytes=1000,
    )
    assert len(output.stdout) == 1000
    assert output.stdout.endswith("line 19999\n")


async def test_of_long_lines_the_beginning_is_kept(server: Server) -> None:
    output = await server.programs.run(
        SHELL,
        "-c",
        r"printf %070000d 1; printf '\nshort\nabc'; printf defghi; printf '\njkl'",
        deadline_s=20,
        line_bytes=5,
    )
    assert output.stdout == "00000\nshort\nabcde\njkl"


async def test_a_failure_says_what_the_program_said(server: Server) -> None:
    with pytest.raises(ProgramError, match=r"exit code 7.*no such thing"):
        await server.programs.run(
            SHELL, "-c", "echo no such thing >&2; exit 7", deadline_s=10
        )
    with pytest.raises(PostgresError, match="nonexistent"):
        await server.programs.run("nonexistent", deadline_s=10)


async def test_waiting_segments_are_archived_or_kept(one_lab: Lab) -> None:
    n1 = await one_lab.primary("n1", archive_mode="on", archive_command="false")
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.rows("SELECT pg_switch_wal()")
    await n1.stop()
    waiting = {path.stem for path in n1.ready_segments()}
    assert waiting
    await n1.source.archive.hand_over()
    kept = n1.paths.data_dir.with_name("data.pgbastion-unarchived")
    assert {path.name for path in kept.iterdir()} == waiting

    archive = n1.paths.state_dir / "archive"
    archive.mkdir()
    os.chown(archive, n1.paths.account.uid, n1.paths.account.gid)
    (n1.paths.data_dir / "postgresql.auto.conf").write_text(
        f"archive_command = 'cp %p {archive}/%f'\n"
    )
    await n1.source.archive.hand_over()
    assert {path.name for path in archive.iterdir()} == waiting
    assert n1.ready_segments() == []


async def test_a_former_primary_archives_as_a_standby_what_it_owes(
    one_lab: Lab,
) -> None:
    """PostgreSQL takes a standby's segments for archived, and removes them."""
    n1 = await one_lab.primary("n1", archive_mode="on", archive_command="false")
    await n1.rows("CREATE TABLE public.t (i int)")
    await n1.rows("SELECT pg_switch_wal()")
    await n1.stop()
    waiting = {path.stem for path in n1.ready_segments()}
    archive = n1.paths.state_dir / "archive"
    archive.mkdir()
    os.chown(archive, n1.paths.account.uid, n1.paths.account.gid)
    await n1.configure()
    await n1.start()
    backlog = n1.source.archive

    assert await backlog.catch_up(lambda: True) == 0
    (n1.paths.data_dir / "postgresql.auto.conf").write_text(
        f"archive_command = 'cp %p {archive}/%f'\n"
    )
    assert await backlog.catch_up(lambda: False) == 0
    assert await backlog.catch_up(lambda: True) == len(waiting)
    assert {path.name for path in archive.iterdir()} == waiting
    assert n1.ready_segments() == []


def test_an_archive_command_is_filled_in_as_the_server_does() -> None:
    assert expand_command("cp %p /a/%f 100%%", "0A") == "cp pg_wal/0A /a/0A 100%"
    assert expand_command("x %% f %f", "0A") == "x % f 0A"
    assert expand_command("plain %x %", "0A") == "plain %x %"


async def test_our_part_of_a_tablespace_is_told_from_others(server: Server) -> None:
    data, place = server.paths.data_dir, server.paths.state_dir / "place"
    (data / "pg_tblspc").mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    for name in ("PG_15_202209061", "PG_16_202307071", "theirs"):
        (place / name).mkdir(parents=True)
    (data / "pg_tblspc" / "16400").symlink_to(place)
    (data / "pg_tblspc" / "16401").mkdir()
    assert server.source.elsewhere().tablespaces == [place / "PG_15_202209061"]


async def test_writes_are_done_in_the_order_in_which_they_were_asked_for(
    tmp_path: Path,
) -> None:
    """A write that nobody waits for any more never comes after a later one."""
    files = Files(resolve_account(os_user()), deadline_s=0.1)
    path = tmp_path / "file"
    slow = asyncio.create_task(files.run("sleep", lambda: time.sleep(0.5)))
    old = asyncio.create_task(files.write(path, "old"))
    with pytest.raises(PostgresError, match="did not answer"):
        await slow
    with pytest.raises(PostgresError, match="did not answer"):
        await old
    await asyncio.sleep(0.6)
    await files.write(path, "new")
    assert path.read_text() == "new"
    files.close()


def test_root_is_no_user_for_a_server() -> None:
    with pytest.raises(PostgresError, match="root"):
        resolve_account("root")
    with pytest.raises(PostgresError, match="no user 'nobody-at-all'"):
        resolve_account("nobody-at-all")
