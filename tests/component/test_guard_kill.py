"""The kill recipe, each of its steps, with stand-ins for servers."""

import asyncio
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pgbastion.guard import kill as recipe
from pgbastion.guard import page as words
from pgbastion.guard import privileges, procfs
from pgbastion.guard.kill import Identity, Kill, describe, kill_by_directory
from pgbastion.guard.launch import Launch, User
from pgbastion.postgres.guard_client import GuardClient
from pgbastion.postgres.guard_client import kill_by_directory as kill_from_loop
from pgbastion.postgres.guard_messages import Exited, Gone, Killed, Stopped
from support.guard_lab import (
    MS,
    SERVER,
    STUBBORN,
    GuardLab,
    alive,
    boottime_ns,
    guard_lab,
    is_settled,
    lab_directories,
    refused,
    server_account,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FAR_NS = 10_000 * MS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def lab() -> AsyncIterator[GuardLab]:
    async with guard_lab() as made:
        yield made


@pytest.fixture
def pgdata() -> Iterator[Path]:
    with lab_directories() as (_, made):
        yield made


class Stranger:
    """A stand-in for a server that the guard did not start."""

    def __init__(self, pgdata: Path, argv: tuple[str, ...] = SERVER) -> None:
        account = server_account()
        self.process = subprocess.Popen(
            argv,
            env={**os.environ, "PGDATA": str(pgdata)},
            user=account.pw_uid if os.geteuid() == 0 else None,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.below: list[int] = []

    async def settle(self) -> int:
        """Wait until it has its child; return its start time."""
        await until(lambda: is_settled(self.pid))
        self.below = procfs.descendants(self.pid)
        return procfs.start_ticks(self.pid)

    def end(self) -> None:
        """End what is left of it."""
        for pid in (self.pid, *self.below):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@pytest.fixture
def stranger(pgdata: Path) -> Iterator[Stranger]:
    made = Stranger(pgdata, STUBBORN)
    yield made
    made.end()


# The recipe's order


async def test_nothing_is_killed_before_the_postmaster_is_stopped(
    monkeypatch: pytest.MonkeyPatch, stranger: Stranger, pgdata: Path
) -> None:
    start = await stranger.settle()
    sent: list[tuple[int, int, str]] = []
    real = recipe.send

    def send(pid: int, number: int, still: Callable[[int], bool]) -> bool:
        found = procfs.stat(stranger.pid)
        sent.append((pid, number, found.state if found else ""))
        return real(pid, number, still)

    monkeypatch.setattr(recipe, "send", send)
    # The test is no guard: its other children are none of this kill's business.
    monkeypatch.setattr(Kill, "_kill_children", lambda _: None)
    kill = Kill(
        str(pgdata),
        server_account().pw_uid,
        postmaster=Identity(stranger.pid, start),
        reap=lambda: stranger.process.poll() is not None,
        spare=frozenset(),
        now_ns=boottime_ns(),
    )
    await until(lambda: kill.step(boottime_ns()))

    assert sent[0][:2] == (stranger.pid, signal.SIGSTOP)
    kills = [entry for entry in sent if entry[1] == signal.SIGKILL]
    assert kills[0][2] == "T"
    # First all below it, and only then itself.
    of_tree = [pid for pid, *_ in kills if pid in (stranger.pid, *stranger.below)]
    assert set(of_tree[: len(stranger.below)]) == set(stranger.below)
    assert of_tree[len(stranger.below)] == stranger.pid
    assert not any(map(alive, stranger.below))


async def test_a_postmaster_that_restarts_its_children_is_outrun(
    lab: GuardLab,
) -> None:
    # Whenever its child dies it writes a line and starts the next one.
    restless = (
        "/bin/sh",
        "-c",
        'cd "$PGDATA"; while :; do sleep 600 & echo started; wait $!; done',
    )
    pid = await lab.client.start(
        restless,
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=lab.run_dir / "server.log",
        primary_epoch=None,
    )
    await until(lambda: procfs.descendants(pid))

    assert (await lab.client.kill()).stopped

    assert (lab.run_dir / "server.log").read_bytes() == b"started\n"


async def test_what_is_frozen_is_killed_without_being_continued(lab: GuardLab) -> None:
    pid = await lab.start()
    frozen = [pid, *procfs.descendants(pid)]
    for one in frozen:
        os.kill(one, signal.SIGSTOP)

    assert (await lab.client.kill()).stopped

    assert not any(map(alive, frozen))


async def test_a_postmaster_killed_by_others_takes_its_left_overs_along(
    lab: GuardLab,
) -> None:
    pid = await lab.start(STUBBORN)
    left = procfs.descendants(pid)
    os.kill(pid, signal.SIGKILL)

    exited = await lab.event(Exited)

    assert (exited.pid, exited.code, exited.signal) == (pid, None, signal.SIGKILL)
    assert exited.stopped
    assert left
    assert not any(map(alive, left))
    assert procfs.stat(pid) is None, "reaped"


async def test_an_orphan_that_ended_is_reaped_while_the_server_runs(
    lab: GuardLab,
) -> None:
    orphaning = (
        "/bin/sh",
        "-c",
        'cd "$PGDATA"; (sleep 0.1 & echo $! >&2); sleep 600 & exec sleep 600',
    )
    pid = await lab.start(orphaning)
    orphan = int((lab.run_dir / "server.log").read_text())
    await until(lambda: procfs.stat(orphan) is None)

    assert alive(pid)


async def test_a_kill_without_a_known_server_takes_the_directory(
    lab: GuardLab,
) -> None:
    stranger = Stranger(lab.pgdata)
    try:
        await stranger.settle()
        with refused("not_running"):
            await lab.client.kill()

        outcome = await lab.client.kill(directory=(str(lab.pgdata), lab.account.pw_uid))

        assert outcome.stopped
        assert not alive(stranger.pid)
        assert not any(map(alive, stranger.below))
    finally:
        stranger.end()


async def test_a_kill_that_cannot_look_is_no_stop_and_goes_on_when_it_can(
    lab: GuardLab,
) -> None:
    pid = await lab.start(STUBBORN)
    below = procfs.descendants(pid)
    guard = lab.client.guard_pid
    limit = resource.prlimit(guard, resource.RLIMIT_NOFILE)
    # No descriptor is free: neither a process can be looked at nor a pidfd opened.
    resource.prlimit(guard, resource.RLIMIT_NOFILE, (3, limit[1]))

    outcome = await lab.client.kill(deadline_s=0.2)
    assert not outcome.stopped
    assert "cannot be told" in outcome.left[0]
    assert (await lab.client.status()).tainted

    resource.prlimit(guard, resource.RLIMIT_NOFILE, limit)
    await lab.event(Stopped)
    assert not any(map(alive, (pid, *below)))


async def test_a_kill_of_another_directory_than_the_server_s_is_refused(
    lab: GuardLab,
) -> None:
    pid = await lab.start()

    with refused("running"):
        await lab.client.kill(directory=("/elsewhere", lab.account.pw_uid))

    assert alive(pid)


async def test_a_client_that_sits_in_the_directory_is_spared(lab: GuardLab) -> None:
    await lab.start()
    before = Path.cwd()
    os.chdir(lab.pgdata)
    try:
        assert (await lab.client.kill()).stopped
    finally:
        os.chdir(before)


# A server that was found running


async def test_an_adopted_server_is_killed_at_the_end_of_the_lease(
    lab: GuardLab,
) -> None:
    stranger = Stranger(lab.pgdata, STUBBORN)
    try:
        start = await stranger.settle()
        await lab.client.adopt(stranger.pid, start, pgdata=lab.pgdata, primary=True)
        assert (await lab.client.status()).adopted
        lab.lease(4, left_ms=200)
        await lab.client.arm(4)

        await lab.event(Killed)
        await lab.event(Stopped)

        # Its program had left directory and session, and is nobody's child here.
        assert not any(map(alive, (stranger.pid, *stranger.below)))
    finally:
        stranger.end()


async def test_the_end_of_an_adopted_server_is_told(lab: GuardLab) -> None:
    stranger = Stranger(lab.pgdata)
    try:
        start = await stranger.settle()
        await lab.client.adopt(stranger.pid, start, pgdata=lab.pgdata, primary=False)
        os.kill(stranger.pid, signal.SIGKILL)

        exited = await lab.event(Exited)

        assert (exited.pid, exited.code, exited.signal) == (stranger.pid, None, None)
        assert exited.stopped
        assert not any(map(alive, stranger.below))
    finally:
        stranger.end()


async def test_only_that_process_in_that_directory_is_adopted(lab: GuardLab) -> None:
    stranger = Stranger(lab.pgdata)
    try:
        start = await stranger.settle()
        for pid, began, where in (
            (stranger.pid, start + 1, lab.pgdata),
            (stranger.pid, start, lab.run_dir),
            (os.getpid(), start, lab.pgdata),
            (2**22 + 5, start, lab.pgdata),
        ):
            with refused("unknown"):
                await lab.client.adopt(pid, began, pgdata=where, primary=True)
    finally:
        stranger.end()


# The guard is dead


async def test_orphans_of_guard_and_postmaster_are_killed_by_directory(
    lab: GuardLab,
) -> None:
    pid = await lab.start()
    orphans = procfs.descendants(pid)
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
        start = procfs.start_ticks(process.pid)
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


# The parent-death signal


def command_with_parent(
    guard: int, pgdata: Path, argv: tuple[str, ...] = ("/bin/echo", "runs")
) -> list[str]:
    account = server_account()
    user = User(account.pw_name, uid=account.pw_uid, gid=account.pw_gid, home="/")
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
            await until(lambda: procfs.descendants(lab.client.guard_pid))
            await asyncio.sleep(pause_ms / 1000)
            pids = procfs.descendants(lab.client.guard_pid)
            os.kill(lab.client.guard_pid, signal.SIGKILL)
            await lab.event(Gone)
            starting.cancel()
            await asyncio.wait([starting])

            await until(lambda pid=pids[0]: not alive(pid), 2)  # type: ignore[misc]


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
    monkeypatch.setattr(privileges, "has_capability", lambda _: False)
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
