"""The platforms: what each says of processes, and that no name of Linux's is needed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgbastion.platform import choice, processes
from pgbastion.platform.choice import (
    LINUX,
    NAMES,
    NO_PIDFD,
    PORTABLE,
    VARIABLE,
    current,
)
from support.guard_lab import STUBBORN, GuardLab, alive, guard_lab, until

PROGRAM_S = 60

pytestmark = pytest.mark.slow


@pytest.fixture(params=[LINUX, PORTABLE])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    assert current().name == request.param
    return str(request.param)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made).resolve()


@pytest.fixture
def shell(place: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A shell in a directory of its own, with a child in a session of its own."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "setsid sleep 600 & echo $!; read line"],
        cwd=place,
        stdin=-1,
        stdout=-1,
    ) as made:
        assert made.stdout is not None
        # It is known from the start: a shell that has died tells nobody of its child.
        child = int(made.stdout.readline())
        try:
            yield made
        finally:
            made.kill()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


async def has_child(shell: "subprocess.Popen[bytes]") -> int:
    await until(lambda: processes.descendants(shell.pid))
    return processes.descendants(shell.pid)[0]


@pytest.mark.anyio
async def test_a_platform_knows_who_is_below_whom_and_where(
    way: str, shell: "subprocess.Popen[bytes]", place: Path
) -> None:
    child = await has_child(shell)

    assert processes.is_descendant(child, shell.pid)
    assert processes.is_descendant(shell.pid, os.getpid())
    assert not processes.is_descendant(shell.pid, child)
    assert current().directory(shell.pid) == str(place)
    assert current().owner(shell.pid) == os.geteuid()
    assert "read line" in current().command_line(shell.pid)
    inside = {one.pid for one in processes.occupants(str(place), os.geteuid())}
    assert inside == {shell.pid, child}


@pytest.mark.anyio
async def test_a_platform_tells_a_frozen_and_a_dead_process(
    way: str, shell: "subprocess.Popen[bytes]"
) -> None:
    def state() -> str:
        found = processes.stat(shell.pid)
        return found.state if found else ""

    start = processes.start_of(shell.pid)
    assert start > 0
    assert start == processes.start_of(shell.pid)
    shell.send_signal(signal.SIGSTOP)
    await until(lambda: state() == "T")
    shell.kill()
    await until(lambda: state() == "Z")
    assert processes.start_of(shell.pid) == 0
    shell.wait()
    assert processes.stat(shell.pid) is None
    assert current().directory(shell.pid) is None


def test_a_start_time_is_another_process_s_if_it_differs(
    way: str, shell: "subprocess.Popen[bytes]"
) -> None:
    assert processes.start_of(shell.pid) != processes.start_of(os.getpid())
    assert 0 < processes.start_of(shell.pid) < 1 << 62


def test_a_platform_tells_who_is_at_the_other_end(way: str) -> None:
    near, far = socket.socketpair()
    with near, far:
        assert current().peer(near) == (os.getpid(), os.geteuid())


def test_a_platform_finds_what_lies_in_memory(way: str, place: Path) -> None:
    assert current().in_memory("/dev/shm")
    assert not current().in_memory("/proc")


def test_a_descriptor_that_was_closed_drops_out_of_a_poll(way: str) -> None:
    poll = current().poll()
    gone, _ = os.pipe()
    reader, writer = os.pipe()
    poll.register(gone, 1)
    poll.register(reader, 1)
    os.close(gone)
    assert poll.poll(0) == []
    os.write(writer, b".")
    assert poll.poll(5) == [(reader, 1)]
    poll.modify(reader, 0)
    assert poll.poll(0) == []
    poll.unregister(reader)
    os.close(reader)
    os.close(writer)


# What stands in for the parent-death signal


@pytest.mark.anyio
async def test_a_server_ends_with_its_guard_where_the_kernel_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody but the keeper is there: this test is the daemon, and does nothing."""
    monkeypatch.setenv(VARIABLE, PORTABLE)
    async with guard_lab() as lab:
        pid = await lab.start(STUBBORN)
        below = processes.descendants(pid)
        assert below

        os.kill(lab.client.guard_pid, signal.SIGKILL)

        await until(lambda: not any(map(alive, (pid, *below))))


@pytest.mark.anyio
async def test_nobody_waits_for_a_server_that_has_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A keeper that went on would kill the next server of the directory."""
    monkeypatch.setenv(VARIABLE, PORTABLE)
    async with guard_lab() as lab:
        await lab.start()
        assert keepers(lab)

        assert (await lab.client.kill()).stopped

        await until(lambda: not keepers(lab))


def keepers(lab: GuardLab) -> list[int]:
    words = current().command_line(lab.client.guard_pid)
    assert str(lab.run_dir) in words
    return [
        pid
        for pid in current().pids()
        if pid != lab.client.guard_pid and current().command_line(pid) == words
    ]


# The choice


def test_a_name_that_is_no_platform_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "beos")

    with pytest.raises(ValueError, match="beos is none of linux, linux-no-pidfd"):
        current()


def unknown_call(_pid: int) -> int:
    raise OSError(38, "Function not implemented")


def another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", unknown_call)


@pytest.mark.parametrize(
    ("change", "expected"),
    [(another_system, PORTABLE), (old_kernel, NO_PIDFD), (lambda _: None, LINUX)],
)
def test_the_platform_is_what_the_machine_is(
    change: Callable[[pytest.MonkeyPatch], None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(monkeypatch)

    assert choice._found.__wrapped__() == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_is_weaker_is_said_exactly_where_something_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, name)

    said = "; ".join(current().weaker)

    assert ("every 20 ms" in said) == (name != LINUX)
    assert ("no virtual address" in said) == (not current().has_addresses)
    assert ("no kernel data path" in said) == (not current().has_kernel_path)
    assert ("no parent-death signal" in said) == (not current().ends_orphans)


# Systems that are not here

MACOS = """
import os, select, signal, socket, sys, time
import httpx, prometheus_client, psutil, psycopg, pydantic, rich, starlette.routing
import textual.app, typer, uvicorn, uvloop
sys.platform = "darwin"
for module, names in {
    os: "eventfd pidfd_open pipe2 posix_fallocate setns splice",
    select: "epoll " + " ".join(n for n in vars(select) if n.startswith("EPOLL")),
    signal: "pidfd_send_signal",
    socket: "AF_NETLINK AF_PACKET SOCK_CLOEXEC SOCK_NONBLOCK SO_PEERCRED TCP_INFO "
            "TCP_KEEPIDLE TCP_USER_TIMEOUT",
    time: "CLOCK_BOOTTIME",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
sys.modules["pyroute2"] = None
import pgbastion.cli.app, pgbastion.daemon, pgbastion.demo, pgbastion.guard.main
from pgbastion.platform.choice import current
assert current().name == "portable"
assert current().stat(os.getpid()).parent == os.getppid()
"""
WINDOWS = """
import os, signal, socket, sys
for name in "fcntl grp pwd pyroute2 resource termios uvloop".split():
    sys.modules[name] = None
for name in "fork geteuid getuid killpg pidfd_open pipe2 setsid".split():
    if hasattr(os, name):
        delattr(os, name)
for name in "SIGCHLD SIGCONT SIGHUP SIGKILL SIGQUIT SIGSTOP SIGUSR1 SIGUSR2".split():
    delattr(signal, name)
for name in "AF_NETLINK AF_UNIX SO_PEERCRED".split():
    delattr(socket, name)
from pgbastion.cli.main import main
sys.argv = ["pgbastion", *sys.argv[1:]]
main()
"""


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        check=False,
        env=environment,
    )


def test_a_daemon_loads_netlink_s_library_only_for_an_address() -> None:
    """It takes a tenth of the start, within which a primary's lease goes on."""
    done = run("import sys, pgbastion.daemon; print(*sys.modules)")

    loaded = set(done.stdout.split())
    assert "pgbastion.node.addresses" in loaded
    assert not loaded & {"pyroute2", "httpx"}


def test_daemon_guard_and_commands_load_without_any_name_of_linux() -> None:
    done = run(MACOS)

    assert done.returncode == 0, done.stderr


def test_commands_that_ask_a_cluster_need_no_name_of_posix() -> None:
    done = run(WINDOWS, "status", "--url", "http://127.0.0.1:9")

    assert done.returncode == 3, done.stderr
    assert "does not answer" in done.stderr


@pytest.mark.parametrize("folder", ["/proc/self/fd", "/nonexistent"])
def test_a_child_keeps_no_descriptor_but_those_it_needs(folder: str) -> None:
    """Without a try for each number up to a limit of a thousand million."""
    code = f"""
import os
from pgbastion.platform import descriptors
descriptors.OPEN = {folder!r}
def no_loop(first, last):
    assert not os.path.exists(descriptors.OPEN)
    closerange(first, last)
closerange, os.closerange = os.closerange, no_loop
kept, others = os.pipe(), [os.dup(0) for _ in range(5)]
descriptors.close_inherited(but=kept[1])
left = [fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{{fd}}")]
assert left == [kept[1]], left
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PROGRAM_S)
