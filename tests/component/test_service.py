"""The service manager is told, and its unit is one that it takes."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.cli.unit import render_one_user, render_unit, render_witness
from pgbastion.clock import boottime_ms
from pgbastion.observe.service_manager import ServiceManager
from pgbastion.testing.sim.scripts import THREE
from support.simulated import settle, staged


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Return a service manager's socket and its address."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(5)
        yield sock, path


def told(sock: socket.socket) -> list[str]:
    """Return all that was said by now."""
    sock.setblocking(False)
    said = []
    try:
        while True:
            said.append(sock.recv(4096).decode())
    except BlockingIOError:
        return said


def test_ready_and_stopping_are_told(manager: tuple[socket.socket, str]) -> None:
    sock, path = manager
    service = ServiceManager({"NOTIFY_SOCKET": path})

    service.ready()
    service.stopping(within_s=1.5)

    assert told(sock) == ["READY=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000"]


def test_without_a_service_manager_nothing_is_told_and_nothing_fails() -> None:
    ServiceManager({}).ready()
    ServiceManager({"NOTIFY_SOCKET": "/nonexistent/notify"}).ready()


async def signs_of_life(
    manager: tuple[socket.socket, str], silent_ms: int
) -> list[str]:
    sock, path = manager
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
    beat = asyncio.create_task(
        ServiceManager(environment).keep_alive(lambda: silent_ms)
    )
    await asyncio.sleep(0.01)
    beat.cancel()
    return told(sock)


@pytest.mark.anyio
async def test_a_daemon_that_decides_gives_signs_of_life(
    manager: tuple[socket.socket, str],
) -> None:
    assert await signs_of_life(manager, silent_ms=99) == ["WATCHDOG=1"]


@pytest.mark.anyio
async def test_a_daemon_that_decides_nothing_gives_none(
    manager: tuple[socket.socket, str],
) -> None:
    """Then it is killed and started anew."""
    assert await signs_of_life(manager, silent_ms=100) == []


def test_a_watchdog_of_another_process_is_none_of_ours() -> None:
    asked = {"WATCHDOG_USEC": "1000000"}

    assert ServiceManager({**asked, "WATCHDOG_PID": "1"}).watchdog_s is None
    own = {**asked, "WATCHDOG_PID": str(os.getpid())}
    assert ServiceManager(own).watchdog_s == 1.0
    assert ServiceManager({"WATCHDOG_USEC": "soon"}).watchdog_s is None


def test_a_loop_says_how_long_it_has_decided_nothing() -> None:
    """None is due before it begins and after it was halted."""
    with staged(THREE) as stage:
        daemon = stage.n[1].daemon
        assert daemon is not None
        assert daemon.main.silent_ms() == 0
        settle(stage)
        seen: list[int] = []

        def look() -> None:
            seen.append(daemon.main.silent_ms())

        daemon.loop.call_soon(look)
        stage.wait(1)
        daemon.main._pass = lambda: boottime_ms() + 3_600_000  # type: ignore[method-assign]
        stage.wait(20_000)
        daemon.loop.call_soon(look)
        stage.wait(1)
        daemon.main._halted = True
        daemon.loop.call_soon(look)
        stage.wait(1)
    assert 0 <= seen[0] <= stage.cluster.timings.probe_ms
    assert seen[1] >= 19_000
    assert seen[2] == 0


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd here"
)
@pytest.mark.parametrize("drop_in", [None, render_one_user("root"), render_witness()])
def test_the_unit_is_one_that_systemd_takes(
    tmp_path: Path, drop_in: str | None
) -> None:
    unit = tmp_path / "pgbastion.service"
    unit.write_text(render_unit(Path(sys.executable)))
    if drop_in is not None:
        (tmp_path / "pgbastion.service.d").mkdir()
        (tmp_path / "pgbastion.service.d" / "way.conf").write_text(drop_in)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_signals_the_daemon_alone_and_leaves_its_directory() -> None:
    """Else a stop or an upgrade of the daemon would end PostgreSQL with it."""
    lines = render_unit().splitlines()

    assert "KillMode=process" in lines
    assert "RuntimeDirectoryPreserve=yes" in lines
    assert "OOMPolicy=continue" in lines
