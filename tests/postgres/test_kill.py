"""After "stopped" nothing of a server commits, and the next start succeeds."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from pgbastion.platform import processes
from pgbastion.postgres.guard_client import GuardClient, kill_by_directory
from pgbastion.postgres.guard_link import CHILD_DIED_CODE
from pgbastion.postgres.guard_messages import Exited, Gone, Stopped
from support.guard_lab import alive, python_beside, until
from support.guard_server import (
    EPOCH,
    ServerLab,
    Writers,
    fresh_cluster,
    newest_server,
    server_lab,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WRITERS = 8
# A process that waits for a disk ends when the disk has answered.
KILLED_S = 20.0


@pytest.fixture(scope="module")
def bin_dir() -> Iterator[Path]:
    with newest_server() as found:
        yield found


@pytest.fixture(scope="module")
def template(bin_dir: Path) -> Iterator[Path]:
    with fresh_cluster(bin_dir) as made:
        yield made


@pytest.fixture
async def lab(bin_dir: Path, template: Path) -> AsyncIterator[ServerLab]:
    async with server_lab(bin_dir, template) as made:
        yield made


async def kill_and_restart(lab: ServerLab) -> set[str]:
    """Kill, check that all is dead for good, and return the rows after a start."""
    below = lab.below()
    outcome = await lab.client.kill()
    assert outcome.stopped, outcome
    assert not any(map(alive, below))
    await lab.is_dead_for_good()
    return await lab.rows_after_restart()


# What was under way


async def test_a_long_insert_does_not_commit_after_a_kill(lab: ServerLab) -> None:
    await lab.start()
    lab.run(
        "insert into acks select n::text from generate_series(1, 300) n, "
        "lateral (select pg_sleep(0.01 + 0 * n)) s"
    )
    await until(lambda: busy(lab, "insert%"))

    assert await kill_and_restart(lab) == set()


async def test_what_eight_writers_were_told_is_there_and_nothing_comes_later(
    lab: ServerLab,
) -> None:
    await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()

    rows = await kill_and_restart(lab)
    await writers.join()

    assert writers.acknowledged <= rows <= writers.attempted


@pytest.mark.parametrize(
    "program",
    [
        "exec sleep 600",
        # A session of its own, another directory, every polite signal ignored.
        "cd /; trap '' QUIT TERM HUP INT; setsid sleep 600 & wait",
        # Its parent is gone before the kill.
        "(cd /; setsid sleep 600 &) ; exec sleep 600",
    ],
)
async def test_a_program_of_copy_dies_with_its_server(
    lab: ServerLab, program: str
) -> None:
    await lab.start()
    quoted = program.replace("'", "''")
    lab.run(f"copy bulk from program '{quoted}'")
    await until(lambda: lab.program_runs(b"sleep"))

    await kill_and_restart(lab)


async def test_a_running_archive_command_dies_with_its_server(lab: ServerLab) -> None:
    lab.configure(archive_mode="on", archive_command="sleep 600; false")
    await lab.start()
    with lab.connect() as connection:
        connection.execute("insert into acks values ('archived')")
        connection.execute("select pg_switch_wal()")
    await until(lambda: lab.program_runs(b"sleep"))

    assert await kill_and_restart(lab) == {"archived"}


async def test_a_parallel_query_dies_with_its_server(lab: ServerLab) -> None:
    lab.configure(
        min_parallel_table_scan_size="0",
        parallel_setup_cost="0",
        parallel_tuple_cost="0",
    )
    await lab.start()
    with lab.connect() as connection:
        connection.execute("insert into bulk select n from generate_series(1, 9999) n")
        connection.execute("analyze bulk")
    lab.run("select count(pg_sleep(0.01)) from bulk")
    await until(lambda: worker_runs(lab))

    await kill_and_restart(lab)


async def test_what_is_frozen_is_killed(lab: ServerLab) -> None:
    await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()
    stop_all(lab.below())

    rows = await kill_and_restart(lab)
    await writers.join()

    assert writers.acknowledged <= rows


async def test_a_postmaster_killed_alone_leaves_no_backend_that_commits(
    lab: ServerLab,
) -> None:
    postmaster = await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()
    below = lab.below()
    os.kill(postmaster, signal.SIGKILL)

    exited = await lab.guard.event(Exited)

    assert (exited.pid, exited.signal) == (postmaster, signal.SIGKILL)
    assert exited.stopped
    assert not any(map(alive, below))
    await lab.is_dead_for_good()
    await writers.join()
    assert writers.acknowledged <= await lab.rows_after_restart()


async def test_a_killed_session_ends_its_server_and_the_code_tells(
    lab: ServerLab,
) -> None:
    lab.configure(restart_after_crash="off")
    postmaster = await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()
    with lab.connect() as session:
        os.kill(session.info.backend_pid, signal.SIGKILL)

    exited = await lab.guard.event(Exited)
    await writers.join()

    assert (exited.pid, exited.code) == (postmaster, CHILD_DIED_CODE)
    assert lab.client.exit_code == CHILD_DIED_CODE
    assert writers.acknowledged <= await lab.rows_after_restart()


async def test_the_end_of_the_lease_ends_the_writes(lab: ServerLab) -> None:
    await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()
    lab.guard.lease(EPOCH, left_ms=300, lead_ms=200)

    await lab.guard.event(Stopped)
    await lab.is_dead_for_good()
    await writers.join()

    assert (await lab.client.status()).ended == EPOCH


async def test_a_fast_stop_is_reported_with_its_code(lab: ServerLab) -> None:
    postmaster = await lab.start()
    await lab.client.signal("INT")

    exited = await lab.guard.event(Exited)

    assert (exited.pid, exited.code, exited.stopped) == (postmaster, 0, True)
    assert await lab.rows_after_restart() == set()


# The guard is killed


async def new_guard(lab: ServerLab) -> GuardClient:
    await lab.guard.event(Gone)
    await lab.client.close()
    lab.guard.client = await GuardClient.connect_or_spawn(
        lab.guard.run_dir, on_event=lab.events.append
    )
    await lab.client.hello(write=True)
    return lab.client


async def test_without_its_guard_a_server_stops(lab: ServerLab) -> None:
    await lab.start()
    writers = Writers(lab, WRITERS)
    await writers.begin()
    below = lab.below()

    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await until(lambda: not any(map(alive, below)), 3)

    await lab.is_dead_for_good()
    await writers.join()
    client = await new_guard(lab)
    assert (await client.kill(directory=lab.where)).stopped
    assert writers.acknowledged <= await lab.rows_after_restart()


async def test_orphans_of_guard_and_postmaster_end_by_directory(
    lab: ServerLab,
) -> None:
    postmaster = await lab.start()
    # A backend that waits for its client sees its postmaster's end; one at work
    # does not.
    for number in range(WRITERS):
        lab.run(
            "do $$ begin for n in 1 .. 1000000 loop "
            f"insert into acks values ('{number}-' || n); commit; "
            "end loop; end $$"
        )
    await until(lambda: counts(lab, "query like %s and state = 'active'", "do%", 8))
    below = lab.below()
    os.kill(lab.client.guard_pid, signal.SIGSTOP)
    os.kill(postmaster, signal.SIGKILL)
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await asyncio.sleep(0.3)
    assert any(map(alive, below))

    assert await kill_by_directory(*lab.where, deadline_s=KILLED_S) == ()

    await until(lambda: not any(map(alive, below)))
    await lab.is_dead_for_good()
    await lab.join()
    client = await new_guard(lab)
    assert (await client.kill(directory=lab.where)).stopped
    assert len(await lab.rows_after_restart()) >= WRITERS


async def test_a_frozen_server_without_guard_ends_by_directory(
    lab: ServerLab,
) -> None:
    await lab.start()
    below = lab.below()
    stop_all(below)
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.guard.event(Gone)
    assert any(map(alive, below))

    assert await kill_by_directory(*lab.where, deadline_s=KILLED_S) == ()
    await until(lambda: not any(map(alive, below)))


DAEMON = """
import asyncio, sys
from pathlib import Path
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_writer import become_writer
async def main():
    run_dir, pgdata, program, user = sys.argv[1:]
    client = await GuardClient.connect_or_spawn(Path(run_dir), on_event=print)
    await become_writer(client, Path(run_dir) / "page")
    pid = await client.start([program, "-D", pgdata], user=user, pgdata=Path(pgdata),
                             log=Path(run_dir) / "log", primary_epoch=None)
    print(client.guard_pid, pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_daemon_and_guard_killed_by_name_take_the_server_along(
    lab: ServerLab,
) -> None:
    # `pkill -9 -f pgbastion`, for the processes of this test only.
    run_dir = lab.guard.run_dir / "of-the-daemon"
    run_dir.mkdir()
    program, user = str(lab.bin_dir / "postgres"), lab.guard.account.pw_name
    daemon = python_beside(DAEMON, str(run_dir), str(lab.pgdata), program, user)
    try:
        assert daemon.stdout is not None
        said = await asyncio.to_thread(daemon.stdout.readline)
        guard, postmaster = map(int, said.split())
        await lab.answers()
        below = processes.descendants(guard)
        writers = Writers(lab, WRITERS)
        await writers.begin()

        everybody = (daemon.pid, guard, *below)
        named = [pid for pid in everybody if is_named(pid, b"pgbastion")]
        for pid in named:
            os.kill(pid, signal.SIGKILL)

        await until(lambda: not any(map(alive, below)), 3)
        assert named == [daemon.pid, guard]
        assert postmaster in below
        await writers.join()
        await lab.is_dead_for_good()
    finally:
        daemon.kill()
        await asyncio.to_thread(daemon.communicate)


# What a server may do


async def test_server_and_its_programs_have_no_capability(lab: ServerLab) -> None:
    postmaster = await lab.start()
    shown = process_capabilities(postmaster)
    with lab.connect() as connection:
        connection.execute(
            "copy bulk from program 'grep ^Cap /proc/self/status' with (delimiter '~')"
        )
        rows = connection.execute("select n from bulk").fetchall()
    of_program = dict(row[0].split(":\t") for row in rows)

    for found in (shown, of_program):
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(found[name], 16) == 0, name
        if os.geteuid() == 0:
            assert int(found["CapBnd"], 16) == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="has no secret that the user cannot read")
async def test_a_server_s_program_cannot_read_the_daemon_s_secrets(
    lab: ServerLab,
) -> None:
    secret = lab.guard.run_dir / "secret"
    secret.write_text("sixteen bytes of it")
    secret.chmod(0o600)
    await lab.start()
    for path in (secret, lab.guard.run_dir / "page"):
        with lab.connect() as connection, pytest.raises(psycopg.Error) as caught:
            connection.execute(f"copy bulk from program 'cat {path}'".encode())
        assert "exit code 1" in str(caught.value)
    log = (lab.guard.run_dir / "server.log").read_text()

    assert log.count("Permission denied") >= 2


def stop_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a session that did not last
            os.kill(pid, signal.SIGSTOP)


def busy(lab: ServerLab, like: str) -> bool:
    return counts(lab, "query like %s and state = 'active'", like)


def worker_runs(lab: ServerLab) -> bool:
    return counts(lab, "backend_type = %s", "parallel worker")


def counts(lab: ServerLab, condition: str, value: str, least: int = 1) -> bool:
    question = (
        "select count(*) from pg_stat_activity "
        f"where pid <> pg_backend_pid() and {condition}"
    )
    with lab.connect() as connection:
        found = connection.execute(question.encode(), (value,)).fetchone()
    return found is not None and found[0] >= least


def is_named(pid: int, name: bytes) -> bool:
    try:
        return name in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # a session that did not last
        return False


def process_capabilities(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t") for line in lines if line.startswith("Cap"))
