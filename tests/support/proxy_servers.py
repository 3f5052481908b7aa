"""A real server with TLS and SCRAM, a proxy before it, and clients of both."""

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psycopg
import pytest
import uvloop

from pgbastion.bench.lab.servers import (
    PlainServer,
    as_os_user,
    choose,
    installed,
    os_user,
)
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Backend, Binding, DataPath, Limits, Routes, Service
from pgbastion.proxy.tls import TlsFiles
from support.lab_servers import lab_directory
from support.proxy_lab import own_address, seconds_from_now

PASSWORD = "correct horse"
SERVER_PORT = 15442
PRIMARY_PORT = 15432
REPLICA_PORT = 15433

Programs = tuple[Path, Path]
"""A directory that servers may use, and where their programs are."""


@contextmanager
def tls_programs() -> Iterator[Programs]:
    """Give the programs of a server that was built with TLS."""
    with_tls = [
        major
        for major, bin_dir in installed().items()
        if bin_dir.is_relative_to("/usr/lib/postgresql")
    ]
    if not with_tls:
        pytest.skip("no PostgreSQL of the distribution's, which has TLS")
    with lab_directory() as directory:
        yield directory, choose(str(max(with_tls)), directory / "programs")


@contextmanager
def tls_server(programs: Programs) -> Iterator[PlainServer]:
    """Run a server that offers TLS and asks for SCRAM."""
    directory, bin_dir = programs
    server = PlainServer(
        bin_dir, directory / "n1", own_address(), SERVER_PORT, PASSWORD
    )
    server.start()
    try:
        server.stop()
        _offer_tls(server.data_dir)
        server.start()
        with connect(server.target.address, SERVER_PORT, sslmode="disable") as db:
            db.execute("create table t (id int primary key, body text)")
            db.execute(
                "insert into t select n, repeat(md5(n::text), 30)"
                " from generate_series(1, 20000) n"
            )
        yield server
    finally:
        server.stop()


def _offer_tls(data_dir: Path) -> None:
    key, certificate = data_dir / "server.key", data_dir / "server.crt"
    subprocess.run(
        ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-text",
         "-subj", "/CN=proxy-test", "-newkey", "rsa:2048",
         "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    if os.geteuid() == 0:
        for path in (key, certificate):
            shutil.chown(path, os_user())
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\n")


@dataclass
class ThreadedProxy:
    """A proxy with a loop of its own, so that blocking clients can use it."""

    server: PlainServer
    data_path: DataPath
    tls: TlsFiles | None = None
    """TLS ends in the proxy; None: it goes through."""
    address: str = field(default_factory=own_address)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: uvloop.run(self._run(started.set)), daemon=True
        )
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    async def _run(self, started: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self.proxy = Proxy(
            binding=Binding(
                addresses=(self.address,),
                ports={Service.PRIMARY: PRIMARY_PORT, Service.REPLICA: REPLICA_PORT},
            ),
            limits=Limits(),
            on_event=self._on_event,
            data_path=self.data_path,
            tls=self.tls,
        )
        self._started = started
        await self.proxy.start()
        await self._ended.wait()
        await self.proxy.stop(0)

    def _on_event(self, name: str, fields: Mapping[str, object]) -> None:
        if name == "proxy_data_path":
            assert fields["path"] == self.data_path
            self._started()

    def lead_to(self, primary: str | None, *, epoch: int = 1, **more: object) -> None:
        """Set routes; every node's server is the one that there is."""
        target = self.server.target
        backend = Backend(primary or "n0", target.address, target.port)
        standby = Backend("standby", target.address, target.port)
        routes = Routes(
            revision=epoch,
            epoch=epoch,
            primary=backend if primary else None,
            primary_reason="a switchover to n2 is under way",
            replicas=(standby,),
            replica_reason="it streams",
            expires_ns=seconds_from_now(float(str(more.get("left_s", 60)))),
            hold=bool(more.get("hold")),
        )
        done = threading.Event()
        self._loop.call_soon_threadsafe(self.proxy.set_routes, routes)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(5)


def connect(
    address: str, port: int = PRIMARY_PORT, **parameters: str
) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=address,
        port=port,
        user="postgres",
        password=PASSWORD,
        dbname="postgres",
        autocommit=True,
        connect_timeout=10,
        **parameters,  # type: ignore[arg-type]
    )


def program(
    programs: Programs, name: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*as_os_user(), str(programs[1] / name), *arguments],
        env={"PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "10", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
