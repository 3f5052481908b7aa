"""The guard as a process: what it starts and what it outlives."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.guard import page as words
from pgbastion.platform import processes
from pgbastion.platform.choice import current
from pgbastion.platform.clock import boottime_ns
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_messages import Exited, Gone, Stopped
from pgbastion.postgres.guard_writer import become_writer
from support.guard_lab import (
    SERVER,
    STUBBORN,
    GuardLab,
    alive,
    guard_lab,
    lab_directories,
    of_linux,
    python_beside,
    refused,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

# Signals 32 and 33: glibc keeps them to itself, and posix_spawn leaves them ignored.
OF_THE_C_LIBRARY = 0x1_8000_0000
# Starts the guard as a daemon does, then a server under it, and waits to be killed.
BE_A_DAEMON = """
import asyncio, sys
from pathlib import Path
from support.guard_lab import SERVER, server_account
from pgbastion.postgres.guard_client import GuardClient
async def main():
    run_dir, pgdata = map(Path, sys.argv[1:])
    client = await GuardClient.connect_or_spawn(run_dir, on_event=print)
    await client.hello(write=True)
    pid = await client.start(SERVER, user=server_account().pw_name, pgdata=pgdata,
                             log=run_dir / "log", primary_epoch=None)
    print(client.guard_pid, pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


def content(path: Path | str) -> bytes:
    return Path(path).read_bytes()


def entries(path: str) -> set[str]:
    return {entry.name for entry in Path(path).iterdir()}


def process_status(pid: int) -> dict[str, str]:
    lines = content(f"/proc/{pid}/status").decode().splitlines()
    return dict(line.split(":\t") for line in lines if ":\t" in line)


@contextmanager
def sitting_in(directory: Path, name: str) -> Iterator[int]:
    """Run a process of that name whose working directory is ``directory``."""
    code = """
import os, sys
os.chdir(sys.argv[1])
open("/proc/self/comm", "w").write(sys.argv[2])
print("sits", flush=True)
sys.stdin.read()
"""
    sitter = python_beside(code, str(directory), name)
    try:
        assert sitter.stdout is not None
        assert sitter.stdout.readline() == "sits\n"
        yield sitter.pid
    finally:
        sitter.kill()
        sitter.communicate()


# What it starts


async def test_a_server_inherits_three_descriptors_and_no_secret(
    lab: GuardLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = await lab.start()

    environment = content(f"/proc/{pid}/environ")
    names = {line.partition(b"=")[0] for line in environment.split(b"\0") if line}
    # A program that has just begun still has its libraries open.
    await until(lambda: entries(f"/proc/{pid}/fd") == {"0", "1", "2"})
    assert b"PGDATA=" + os.fsencode(lab.pgdata) in environment
    assert names <= {
        *(b"PATH HOME USER LOGNAME PGDATA PWD OLDPWD SHLVL _ LANG LANGUAGE TZ").split(),
        *(b"LC_ALL LC_CTYPE PG_OOM_ADJUST_FILE PG_OOM_ADJUST_VALUE").split(),
        b"LD_LIBRARY_PATH",
    }


async def test_the_guard_does_not_keep_the_daemon_s_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGBASTION_SECRET", "a secret of sixteen bytes")
    async with guard_lab() as lab:
        environment = content(f"/proc/{lab.client.guard_pid}/environ")

    assert b"PGBASTION_SECRET" not in environment


async def test_a_server_carries_its_bare_name(lab: GuardLab) -> None:
    script = "sleep 600 & wait"
    pid = await lab.client.start(
        ["/bin/sh", "-c", script, "-D", str(lab.pgdata)],
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=lab.run_dir / "server.log",
        primary_epoch=None,
    )
    await until(lambda: processes.descendants(pid))

    assert content(f"/proc/{pid}/cmdline").split(b"\0") == [
        *(b"sh", b"-c", script.encode(), b"")
    ]


@of_linux
async def test_a_server_has_a_session_of_its_own_and_default_signals(
    lab: GuardLab,
) -> None:
    pid = await lab.start()

    masks = process_status(pid)
    assert os.getsid(pid) == pid
    assert os.getsid(lab.client.guard_pid) == lab.client.guard_pid
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & ~OF_THE_C_LIBRARY == 0
    assert masks["NoNewPrivs"] == "1"
    assert int(masks["CapEff"], 16) == 0


async def test_a_program_that_cannot_be_run_is_reported_as_exited(
    lab: GuardLab,
) -> None:
    await lab.client.start(
        ["/no/such/program"],
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=lab.run_dir / "server.log",
        primary_epoch=None,
    )

    exited = await lab.event(Exited)
    assert (exited.code, exited.stopped) == (127, True)
    assert b"program" in content(lab.run_dir / "server.log")


async def test_a_log_that_cannot_be_opened_does_not_keep_a_server_from_starting(
    lab: GuardLab,
) -> None:
    pid = await lab.client.start(
        SERVER,
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=Path("/proc/no/such/log"),
        primary_epoch=None,
    )

    await until(lambda: processes.descendants(pid))
    assert Path(f"/proc/{pid}/fd/1").samefile(os.devnull)  # noqa: ASYNC240


async def test_only_one_server_runs(lab: GuardLab) -> None:
    await lab.start()

    with refused("running"):
        await lab.start()


async def test_nothing_starts_beside_a_server_that_sits_in_the_directory(
    lab: GuardLab,
) -> None:
    with sitting_in(lab.pgdata, "postgres") as beside:
        await until(lambda: current().directory(beside) == str(lab.pgdata))
        with refused("occupied"):
            await lab.start()


async def test_a_signal_reaches_the_postmaster_alone(lab: GuardLab) -> None:
    pid = await lab.start(STUBBORN)
    await lab.client.signal("TERM")

    exited = await lab.event(Exited)
    assert (exited.pid, exited.signal, exited.stopped) == (pid, signal.SIGTERM, True)
    with refused("not_running"):
        await lab.client.signal("HUP")


# What it outlives


async def test_guard_and_server_outlive_the_daemon() -> None:
    with lab_directories() as (run_dir, pgdata):
        daemon = python_beside(BE_A_DAEMON, str(run_dir), str(pgdata))
        try:
            assert daemon.stdout is not None
            said = await asyncio.to_thread(daemon.stdout.readline)
        finally:
            daemon.kill()
            await asyncio.to_thread(daemon.communicate)
        guard, server = map(int, said.split())

        began = time.monotonic()
        client = await GuardClient.connect(run_dir, on_event=lambda _: None)
        status = await client.status()
        took_s = time.monotonic() - began

        assert (client.guard_pid, status.postmaster) == (guard, server)
        assert status.state == "running"
        assert took_s < 0.5
        assert await become_writer(client, run_dir / "page") == 2
        assert (await client.kill()).stopped
        await client.quit()
        await until(lambda: not alive(guard))
        await client.close()


async def test_sigterm_does_not_end_a_guard_under_which_something_runs(
    lab: GuardLab,
) -> None:
    await lab.start()
    os.kill(lab.client.guard_pid, signal.SIGTERM)
    assert (await lab.client.status()).state == "running"

    with refused("running"):
        await lab.client.quit()

    await lab.client.kill()
    assert (await lab.client.status()).state == "idle"
    os.kill(lab.client.guard_pid, signal.SIGTERM)
    assert await lab.event(Gone) == Gone(is_dead=True)


async def test_the_guard_ends_when_nothing_runs_and_nobody_is_connected() -> None:
    with lab_directories() as (run_dir, _):
        # The same process with ten seconds made a third of one.
        code = (
            "import sys; from pgbastion.guard import main, server; "
            "server.LONELY_NS = 300_000_000; sys.exit(main.main(sys.argv[1]))"
        )
        guard = python_beside(code, str(run_dir))
        assert guard.stdout is not None
        assert await asyncio.to_thread(guard.stdout.readline) == "ready\n"
        client = await GuardClient.connect(run_dir, on_event=lambda _: None)
        await asyncio.sleep(0.6)
        assert (await client.status()).state == "idle"
        await client.close()

        assert await asyncio.to_thread(guard.wait, 10) == 0
        guard.communicate()
        assert not (run_dir / "guard.sock").exists()


async def test_the_guard_is_small_and_idle(lab: GuardLab) -> None:
    def used_ticks() -> int:
        line = content(f"/proc/{lab.client.guard_pid}/stat")
        fields = line.rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])

    rollup = content(f"/proc/{lab.client.guard_pid}/smaps_rollup")
    sizes = dict(line.split()[:2] for line in rollup.splitlines()[1:])
    before = used_ticks()
    await asyncio.sleep(1)

    # Its own; what it shares with other interpreters depends on who else runs.
    assert int(sizes[b"Anonymous:"]) < 10 * 1024
    assert used_ticks() - before <= 2


async def test_the_guards_heartbeat_goes_on(lab: GuardLab) -> None:
    before = boottime_ns()
    await lab.client.status()

    assert lab.page[words.GUARD_BEAT_NS] >= before


async def test_stopped_follows_a_kill(lab: GuardLab) -> None:
    await lab.start(STUBBORN)
    guard = lab.client.guard_pid
    below = processes.descendants(guard)
    assert len(below) == 2

    outcome = await lab.client.kill()

    assert outcome.stopped
    assert not any(map(alive, below))
    assert (await lab.event(Exited)).signal == signal.SIGKILL
    assert (await lab.event(Stopped)).pgdata == str(lab.pgdata)
    assert lab.page[words.POSTMASTER_PID] == 0
