"""A restart of the daemon makes clients wait, and refuses none."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pgbastion.node.socket_passing import NAME, SocketPassing, ask_predecessor
from pgbastion.observe.service_manager import ServiceManager
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Binding, DataPath, Limits, Service
from support.proxy_lab import PRIMARY_PORT, ProxyLab, proxy_lab, startup

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


def successor_of(lab: ProxyLab, port: int = PRIMARY_PORT) -> Proxy:
    return Proxy(
        binding=Binding(addresses=(lab.address,), ports={Service.PRIMARY: port}),
        limits=Limits(),
        on_event=lambda _name, _fields: None,
        data_path=DataPath.USERSPACE,
    )


async def test_clients_that_come_during_a_restart_wait_for_its_end(
    tmp_path: Path,
) -> None:
    async with proxy_lab("n1") as lab:
        passing = SocketPassing(tmp_path, lambda: lab.proxy.listening)
        passing.start()
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
        inherited = await asyncio.to_thread(ask_predecessor, tmp_path)
        assert len(inherited) == 2
        passing.close()
        await lab.proxy.stop(0)

        client = await lab.connect()
        client.send(startup())
        successor = successor_of(lab)
        await successor.start(inherited)
        try:
            successor.set_routes(lab.routes("n1"))
            await client.until_ready()
            # An address that the successor does not want is closed.
            with pytest.raises(ConnectionRefusedError):
                await lab.connect(PRIMARY_PORT + 1)
        finally:
            await successor.stop(0)


async def test_a_successor_may_listen_on_all_addresses_instead_of_one() -> None:
    """What it inherits is in its way, and systemd keeps a copy of it."""
    async with proxy_lab("n1") as lab:
        inherited = [listener.dup() for listener in lab.proxy.listening]
        copies = [listener.dup() for listener in inherited]
        await lab.proxy.stop(0)
        address, lab.address = lab.address, "0.0.0.0"
        successor = successor_of(lab)

        await successor.start(inherited)

        lab.address = address
        client = await lab.connect()
        client.send(startup())
        successor.set_routes(lab.routes("n1"))
        await client.until_ready()
        await successor.stop(0)
        for copy in copies:
            copy.close()


async def test_without_a_predecessor_nothing_is_inherited(tmp_path: Path) -> None:
    assert ask_predecessor(tmp_path) == []
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / NAME))
    assert ask_predecessor(tmp_path) == []


async def test_a_successor_binds_what_it_did_not_inherit(tmp_path: Path) -> None:
    async with proxy_lab("n1") as lab:
        successor = successor_of(lab, PRIMARY_PORT + 7)
        stranger = socket.create_server((lab.address, 0))
        await successor.start([stranger])
        try:
            successor.set_routes(lab.routes("n1"))
            client = await lab.connect(PRIMARY_PORT + 7)
            client.send(startup())
            await client.until_ready()
            assert stranger.fileno() == -1
        finally:
            await successor.stop(0)


CHILD = """
import os, sys
from pgbastion.node.socket_passing import kept_by_systemd
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
told = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid())}
others = {"LISTEN_FDS": "2", "LISTEN_PID": "1"}
kept = kept_by_systemd(told)
print([s.getsockname()[1] for s in kept], kept_by_systemd(others), kept_by_systemd({}))
"""


async def test_what_systemd_kept_is_taken_if_it_is_for_us_and_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as idle:
        numbers = listener.fileno(), idle.fileno()
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CHILD, *map(str, numbers)],
            pass_fds=numbers,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        assert done.stdout == f"[{listener.getsockname()[1]}] [] []\n"


async def test_systemd_is_given_the_sockets_to_keep(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        tells = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})

        tells.keep([])
        tells.keep([listener])

        text, numbers, _, _ = socket.recv_fds(manager, 100, 4)
        assert text == b"FDSTORE=1\nFDNAME=listener"
        with socket.socket(fileno=numbers[0]) as kept:
            assert kept.getsockname() == listener.getsockname()
