"""The kill recipe, each of its steps, with stand-ins for servers."""

import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from pgbastion.errors import GuardError
from pgbastion.guard import kill as recipe
from pgbastion.guard.kill import Identity, Kill
from pgbastion.model.ids import Epoch
from pgbastion.platform import processes
from pgbastion.platform.clock import boottime_ns
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.guard_messages import Exited, Killed, Stopped
from support.guard_lab import (
    SERVER,
    STUBBORN,
    GuardLab,
    alive,
    guard_lab,
    is_settled,
    lab_directories,
    of_linux,
    refused,
    server_account,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


# A stand-in that looks like what a guard does not start a server beside.
NAMED_POSTGRES = (
    "/bin/sh",
    "-c",
    """cd "$PGDATA"; ln -s "$(command -v sleep)" postgres
    setsid sleep 600 & exec ./postgres 600""",
)


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
        self.below = processes.descendants(self.pid)
        return processes.start_of(self.pid)

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
        found = processes.stat(stranger.pid)
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


async def test_a_descendant_that_is_not_dead_yet_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, stranger: Stranger, pgdata: Path
) -> None:
    start = await stranger.settle()
    [program] = stranger.below
    real = recipe.send
    monkeypatch.setattr(
        recipe, "send", lambda pid, *rest: pid != program and real(pid, *rest)
    )
    monkeypatch.setattr(Kill, "_kill_children", lambda _: None)
    kill = Kill(
        str(pgdata),
        server_account().pw_uid,
        postmaster=Identity(stranger.pid, start),
        reap=lambda: stranger.process.poll() is not None,
        spare=frozenset(),
        now_ns=boottime_ns(),
    )
    await until(lambda: kill.step(boottime_ns()) or not alive(stranger.pid))
    assert not any(kill.step(boottime_ns()) for _ in range(5))
    assert [line.split()[2] for line in kill.left()] == [str(program)]

    monkeypatch.setattr(recipe, "send", real)
    await until(lambda: kill.step(boottime_ns()))
    assert not alive(program)


async def test_a_postmaster_that_restarts_its_children_is_outrun(
    lab: GuardLab,
) -> None:
    # Whenever its child dies it writes a line and starts the next one.
    restless = (
        "/bin/sh",
        "-c",
        'cd "$PGDATA"; while :; do sleep 600 & echo started; wait $!; done',
    )
    await lab.client.start(
        restless,
        user=lab.account.pw_name,
        pgdata=lab.pgdata,
        log=lab.run_dir / "server.log",
        primary_epoch=None,
    )
    # It writes after its child was made: a look at its children would come too early.
    log = lab.run_dir / "server.log"
    await until(lambda: log.exists() and log.read_bytes())

    assert (await lab.client.kill()).stopped

    assert log.read_bytes() == b"started\n"


async def test_what_is_frozen_is_killed_without_being_continued(lab: GuardLab) -> None:
    pid = await lab.start()
    frozen = [pid, *processes.descendants(pid)]
    for one in frozen:
        os.kill(one, signal.SIGSTOP)

    assert (await lab.client.kill()).stopped

    assert not any(map(alive, frozen))


@of_linux
async def test_a_postmaster_killed_by_others_takes_its_left_overs_along(
    lab: GuardLab,
) -> None:
    pid = await lab.start(STUBBORN)
    left = processes.descendants(pid)
    os.kill(pid, signal.SIGKILL)

    exited = await lab.event(Exited)

    assert (exited.pid, exited.code, exited.signal) == (pid, None, signal.SIGKILL)
    assert exited.stopped
    assert left
    assert not any(map(alive, left))
    assert processes.stat(pid) is None, "reaped"


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
    await until(lambda: processes.stat(orphan) is None)

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
    below = processes.descendants(pid)
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


async def test_the_server_of_another_node_s_daemon_is_left_alone(lab: GuardLab) -> None:
    """Somebody gave both nodes the same data directory; this process is a daemon."""
    server = await lab.start(NAMED_POSTGRES)
    with lab_directories() as (made, _):
        run_dir = made.rename(made.with_name("other-node"))
        link = GuardLink(
            run_dir=run_dir,
            data_dir=lab.pgdata,
            user=lab.account.pw_name,
            uid=lab.account.pw_uid,
            on_stopped=lambda: None,
            on_event=lambda: None,
        )
        await link.connect()
        said = f"another node, process {os.getpid()}, runs PostgreSQL"
        with pytest.raises(GuardError, match=said):
            await link.start(SERVER, primary=False, epoch=Epoch(1))
        with pytest.raises(GuardError, match=said):
            await link.fence_unguarded()
        await link.dismiss()

    assert alive(server)
