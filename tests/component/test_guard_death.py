"""When the guard is dead: nothing of its server goes on, or is found and killed."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgbastion.guard import kill as recipe
from pgbastion.guard import page as words
from pgbastion.guard.kill import describe, kill_by_directory
from pgbastion.guard.launch import Launch
from pgbastion.platform import processes
from pgbastion.platform.clock import boottime_ns
from pgbastion.platform.interface import Account
from pgbastion.platform.linux import Linux
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_client import kill_by_directory as kill_from_loop
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.guard_messages import Gone
from support.guard_lab import (
    MS,
    GuardLab,
    alive,
    guard_lab,
    lab_directories,
    of_linux,
    refused,
    server_account,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FAR_NS = 10_000 * MS


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


@pytest.fixture
def pgdata() -> Iterator[Path]:
    with lab_directories() as (_, made):
        yield made


# The guard is dead


async def test_orphans_of_guard_and_postmaster_are_killed_by_directory(
    lab: GuardLab,
) -> None:
    pid = await lab.start()
    orphans = processes.descendants(pid)
    os.kill(lab.client.guard_pid, signal.SIGSTOP)  # it must not reap them first
    os.kill(pid, signal.SIGKILL)
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.event(Gone)
    assert all(map(alive, orphans))

    left = await kill_from_loop(str(lab.pgdata), lab.account.pw_uid, deadline_s=5)

    assert left == ()
    await until(lambda: not any(map(alive, orphans)))


def test_a_kill_by_directory_spares_the_caller_and_the_rest(pgdata: Path) -> None:
    beside = subprocess.Popen(["sleep", "600"], cwd=pgdata.parent)
    spared = subprocess.Popen(["sleep", "600"], cwd=pgdata)
    inside = subprocess.Popen(["sleep", "600"], cwd=pgdata)
    before = Path.cwd()
    os.chdir(pgdata)
    try:
        left = kill_by_directory(
            str(pgdata),
            server_account().pw_uid,
            deadline_ns=boottime_ns() + FAR_NS,
            spare=frozenset({spared.pid}),
        )
        assert left == []
        assert inside.wait() == -signal.SIGKILL
        assert beside.poll() is None
        assert spared.poll() is None
    finally:
        os.chdir(before)
        for process in (beside, spared, inside):
            process.kill()
            process.wait()


def test_a_pid_that_is_another_process_by_now_is_not_killed(pgdata: Path) -> None:
    process = subprocess.Popen(["sleep", "600"], cwd=pgdata)
    try:
        start = processes.start_of(process.pid)
        assert not recipe.send(
            process.pid, signal.SIGKILL, recipe._has_start(start + 1)
        )
        assert process.poll() is None
        assert recipe.send(process.pid, signal.SIGKILL, recipe._has_start(start))
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_what_is_left_is_described_by_pid_state_and_wait_channel() -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        time.sleep(0.05)
        said = describe(process.pid).split()
        assert said[:4] == ["not", "stopped:", str(process.pid), "S"]
        assert said[4]
    finally:
        process.kill()
        process.wait()


async def test_a_server_does_not_start_beside_its_predecessor_s_zombie(
    lab: GuardLab,
) -> None:
    zombie = subprocess.Popen(["true"])  # noqa: ASYNC220 - nobody is to reap it
    await until(lambda: not alive(zombie.pid))
    lab.page[words.POSTMASTER_PID] = zombie.pid
    os.kill(lab.client.guard_pid, signal.SIGKILL)
    await lab.event(Gone)
    await lab.client.close()
    lab.client = await GuardClient.connect_or_spawn(
        lab.run_dir, on_event=lab.events.append
    )
    await lab.client.hello(write=True)

    with refused("unreaped"):
        await lab.start()

    zombie.wait()
    await lab.start()


async def test_the_server_of_a_dead_guard_is_reaped_where_nobody_else_does(
    lab: GuardLab,
) -> None:
    """A container's first process inherits it: it would be a zombie for ever."""
    zombie = subprocess.Popen(["true"])  # noqa: ASYNC220 - nobody is to reap it
    await until(lambda: not alive(zombie.pid))
    assert processes.stat(zombie.pid) is not None
    status = replace(await lab.client.status(), state="running", postmaster=zombie.pid)
    link = GuardLink(
        run_dir=lab.run_dir,
        data_dir=lab.pgdata,
        user=lab.account.pw_name,
        uid=lab.account.pw_uid,
        on_stopped=lambda: None,
        on_event=lambda: None,
    )
    dead: Any = SimpleNamespace(latest=status, exit_code=None)
    link._client = dead

    link._take(Gone(is_dead=True))

    await until(lambda: processes.stat(zombie.pid) is None)
    await until(lambda: link.facts().pid == 0 and link.generation)
    await link.close()
    zombie.wait()


async def test_an_emptied_node_keeps_nothing_of_what_a_dead_guard_had_latched(
    lab: GuardLab,
) -> None:
    """Else its next cluster's first epochs would be released one after the other."""
    await lab.start_primary(4)
    lock = lab.pgdata / "postmaster.pid"
    lock.touch()
    link = GuardLink(
        run_dir=lab.run_dir,
        data_dir=lab.pgdata,
        user=lab.account.pw_name,
        uid=lab.account.pw_uid,
        on_stopped=lambda: None,
        on_event=lambda: None,
    )
    guard = lab.client.guard_pid
    os.kill(guard, signal.SIGKILL)
    await until(lambda: not alive(guard))

    # What may run there may be taken over.
    await link.start_afresh()
    assert (lab.run_dir / "page").exists()

    lock.unlink()
    await link.start_afresh()
    assert not (lab.run_dir / "page").exists()


# The parent-death signal


def command_with_parent(
    guard: int, pgdata: Path, argv: tuple[str, ...] = ("/bin/echo", "runs")
) -> list[str]:
    account = server_account()
    user = Account(account.pw_name, uid=account.pw_uid, gid=account.pw_gid, home="/")
    launch = Launch(
        list(argv),
        user=user,
        pgdata=str(pgdata),
        log="/dev/null",
        environment={},
    )
    return launch._command(guard)


def test_a_server_whose_guard_died_before_the_signal_was_armed_does_not_run(
    pgdata: Path,
) -> None:
    orphan = subprocess.run(
        command_with_parent(1, pgdata), stdout=subprocess.PIPE, check=False
    )
    child = subprocess.run(
        command_with_parent(os.getpid(), pgdata), stdout=subprocess.PIPE, check=False
    )

    assert (orphan.returncode, orphan.stdout) == (75, b"")
    assert (child.returncode, child.stdout) == (0, b"runs\n")


async def test_a_start_that_loses_its_guard_at_any_moment_leaves_no_server() -> None:
    for pause_ms in (0, 1, 2, 3, 5, 8):
        async with guard_lab() as lab:
            starting = asyncio.create_task(lab.start())
            await until(lambda: processes.descendants(lab.client.guard_pid))
            await asyncio.sleep(pause_ms / 1000)
            pids = processes.descendants(lab.client.guard_pid)
            os.kill(lab.client.guard_pid, signal.SIGKILL)
            await lab.event(Gone)
            starting.cancel()
            await asyncio.wait([starting])

            await until(lambda pid=pids[0]: not alive(pid), 2)  # type: ignore[misc]


@of_linux
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives capabilities to another user")
def test_an_ordinary_user_s_capabilities_do_not_reach_its_server(
    pgdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = server_account()
    capabilities = "-all,+net_admin,+net_raw"
    as_user = [
        *("setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid)),
        *("--clear-groups", "--inh-caps", capabilities),
        *("--ambient-caps", capabilities),
    ]
    show = ("/bin/grep", "^Cap", "/proc/self/status")
    # A guard of that user decides by what it is and may.
    monkeypatch.setattr(os, "geteuid", lambda: account.pw_uid)
    monkeypatch.setattr(Linux, "has_capability", lambda *_: False)
    command = command_with_parent(os.getpid(), pgdata, show)

    before = capability_sets([*as_user, *show])
    after = capability_sets([*as_user, *command])

    assert before["CapEff:"] == before["CapAmb:"] == (1 << 12) | (1 << 13)
    for name in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:"):
        assert after[name] == 0, name


def capability_sets(command: list[str]) -> dict[str, int]:
    words = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"PATH": "/bin:/usr/bin"},
    ).stdout.split()
    return {
        name: int(value, 16)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }


# Who stops it


def is_in_state(pid: int, state: str) -> bool:
    found = processes.stat(pid)
    return found is not None and found.state == state


async def test_a_guard_that_somebody_stopped_is_continued(lab: GuardLab) -> None:
    """It would answer nobody, and end no primary at the end of a lease."""
    link = GuardLink(
        run_dir=lab.run_dir,
        data_dir=lab.pgdata,
        user=lab.account.pw_name,
        uid=lab.account.pw_uid,
        on_stopped=lambda: None,
        on_event=lambda: None,
    )
    guard = lab.client.guard_pid
    os.kill(guard, signal.SIGSTOP)
    await until(lambda: is_in_state(guard, "T"))
    await link.connect()
    watching = asyncio.create_task(link.keep_going())
    os.kill(guard, signal.SIGSTOP)

    assert (await lab.client.status()).state == "idle"

    watching.cancel()
    await link.close()
