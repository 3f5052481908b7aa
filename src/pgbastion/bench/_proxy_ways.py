"""The ways to a server that the proxy's bench compares, each in a process of its own.

Run as a program it is one of our proxies: arguments are the address and port to listen
on, the data path, and the server's address and port. A line on its standard input takes
the primary away, and it ends with its standard input.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import uvloop

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.clock import boottime_ns
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Backend, Binding, DataPath, Limits, Routes, Service

ADDRESS: Final = "127.35.250.1"
_FIRST_PORT: Final = 16_100
_START_S: Final = 15.0
_A_DAY_NS: Final = 86_400_000_000_000
_READY: Final = "ready"
_LOSE: Final = "lose the primary\n"
_HAPROXY: Final = "haproxy"
_OURS: Final = (DataPath.USERSPACE, DataPath.KERNEL)


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach the server, and the process that one passes on the way."""

    name: str
    host: str
    port: int
    process: processes.Process | None = None
    # Standard input of one of our proxies.
    orders: IO[str] | None = None

    def lose_primary(self) -> None:
        """Tell one of our proxies that there is no primary any more."""
        if self.orders is not None:
            self.orders.write(_LOSE)
            self.orders.flush()

    def cpu_seconds(self) -> float:
        """Return the processor time of the process so far."""
        return processes.cpu_seconds(self.process) if self.process else 0.0

    def descriptors(self) -> int:
        """Return how many files the process has open."""
        if self.process is None:
            return 0
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def pss_bytes(self) -> int:
        """Return the process's share of memory."""
        return processes.pss_bytes(self.process) if self.process else 0


@contextmanager
def open_ways(
    host: str, port: int, directory: Path, missing: dict[str, str]
) -> Iterator[dict[str, Way]]:
    """Open every way to the server at ``host`` that this machine has.

    HAProxy is left out where it is not in PATH, the kernel path where it fails; why,
    is put into ``missing``.
    """
    ways = {"direct": Way("direct", host, port)}
    with ExitStack() as stack:
        for number, name in enumerate((_HAPROXY, *(path.value for path in _OURS))):
            at = _FIRST_PORT + 10 * number
            try:
                if name == _HAPROXY:
                    command = _haproxy(at, host, port, directory)
                else:
                    command = _ours(DataPath(name), at, host, port)
                process, orders = stack.enter_context(_program(command))
            except CannotRun as why:
                missing[name] = str(why)
                continue
            takes_orders = name != _HAPROXY
            ways[name] = Way(
                name, ADDRESS, at, process, orders if takes_orders else None
            )
        yield ways


@dataclass(frozen=True, slots=True)
class _Command:
    arguments: list[str]
    # What the program writes once it listens; empty: give it a second.
    ready: str = ""


def _haproxy(at: int, host: str, port: int, directory: Path) -> _Command:
    program = shutil.which("haproxy")
    if program is None:
        raise CannotRun("there is no haproxy in PATH (apt-get install haproxy)")
    config = directory / "haproxy.cfg"
    config.write_text(
        "global\n"
        " maxconn 8000\n"
        "defaults\n"
        " mode tcp\n"
        " timeout connect 5s\n"
        " timeout client 1h\n"
        " timeout server 1h\n"
        "listen postgresql\n"
        f" bind {ADDRESS}:{at}\n"
        f" server one {host}:{port}\n"
    )
    return _Command([program, "-db", "-q", "-f", str(config)])


def _ours(path: DataPath, at: int, host: str, port: int) -> _Command:
    module = [sys.executable, "-m", "pgbastion.bench._proxy_ways"]
    return _Command([*module, ADDRESS, str(at), path.value, host, str(port)], _READY)


@contextmanager
def _program(
    command: _Command,
) -> Iterator[tuple[processes.Process, IO[str] | None]]:
    with subprocess.Popen(
        command.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            process = processes.find(running.pid)
            if process is None:
                raise LabError(f"{command.arguments[0]} has ended at once")
            _wait(running, command.ready)
            yield process, running.stdin
        finally:
            running.kill()


def _wait(running: "subprocess.Popen[str]", ready: str) -> None:
    if not ready:
        time.sleep(1)
    elif running.stdout is not None:
        said = running.stdout.readline().strip()
        if said != ready:
            raise CannotRun(said or "the program has ended at once")


async def _serve(bind: str, port: int, path: DataPath, backend: Backend) -> None:
    """Run one proxy until standard input ends."""
    chosen = asyncio.Event()

    def on_event(name: str, _fields: Mapping[str, object]) -> None:
        if name == "proxy_data_path":
            chosen.set()

    proxy = Proxy(
        binding=Binding(
            addresses=(bind,),
            ports={Service.PRIMARY: port, Service.REPLICA: port + 1},
        ),
        limits=Limits(),
        on_event=on_event,
        data_path=path,
    )
    await proxy.start()
    now_ns = boottime_ns()
    proxy.set_routes(Routes(1, 1, backend, "", (backend,), "", now_ns + _A_DAY_NS))
    async with asyncio.timeout(_START_S):
        await chosen.wait()
    found = proxy.snapshot()
    print(_READY if found.data_path is path else found.data_path_reason, flush=True)
    ordered = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ordered.set)
    await ordered.wait()
    while sys.stdin.readline():
        proxy.set_routes(Routes(2, 2, None, "it is gone", (), "", now_ns + _A_DAY_NS))
        ordered.clear()
        await ordered.wait()
    await proxy.stop(0)


def raise_file_limit() -> int:
    """Allow this process as many descriptors as it may have; return the number."""
    import resource  # noqa: PLC0415 - only for the bench of many sessions

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


if __name__ == "__main__":
    raise_file_limit()
    os.setpgid(0, 0)  # Ctrl-C is for the bench, which ends this process itself
    _bind, _port, _path, _host, _server_port = sys.argv[1:]
    uvloop.run(
        _serve(
            _bind,
            int(_port),
            DataPath(_path),
            Backend("one", _host, int(_server_port)),
        )
    )
