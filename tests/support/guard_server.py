"""A real server under a guard, written to by many clients."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from pgbastion.platform import processes
from pgbastion.postgres.guard_client import GuardClient, GuardRefused
from pgbastion.postgres.guard_messages import GuardEvent
from support.guard_lab import GuardLab, alive, guard_lab, server_account, until
from support.postgres import find_servers, reachable_bin_dir

EPOCH: Final = 4
SETTLE_S: Final = 0.25
START_S: Final = 20.0
SETTINGS: Final = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "max_wal_size": "1GB",
    "logging_collector": "off",
}


@contextmanager
def newest_server() -> Iterator[Path]:
    """Give the programs of the newest PostgreSQL here."""
    servers = find_servers()
    with reachable_bin_dir(servers[max(servers)]) as bin_dir:
        yield bin_dir


@contextmanager
def fresh_cluster(bin_dir: Path) -> Iterator[Path]:
    """Make a data directory with two tables, to be copied."""
    base = Path(tempfile.mkdtemp(prefix="guard-template-"))
    account = server_account()
    try:
        base.chmod(0o755)
        data = base / "data"
        data.mkdir(mode=0o700)
        os.chown(data, account.pw_uid, account.pw_gid)
        init = ["initdb", "-N", "-A", "trust", "-U", "postgres", "-D", str(data)]
        _run_as(account, bin_dir, init)
        tables = "create table acks(id text primary key); create table bulk(n text);\n"
        single = ["postgres", "--single", "-j", "-D", str(data), "postgres"]
        _run_as(account, bin_dir, single, tables)
        yield data
    finally:
        shutil.rmtree(base)


def _run_as(
    account: pwd.struct_passwd, bin_dir: Path, command: list[str], given: str = ""
) -> None:
    is_root = os.geteuid() == 0
    subprocess.run(
        [str(bin_dir / command[0]), *command[1:]],
        check=True,
        cwd="/",
        input=given.encode(),
        stdout=subprocess.DEVNULL,
        user=account.pw_uid if is_root else None,
        group=account.pw_gid if is_root else None,
        extra_groups=[] if is_root else None,
    )


@dataclass(kw_only=True)
class ServerLab:
    """A guard and a server that starts under it."""

    guard: GuardLab
    bin_dir: Path
    pgdata: Path
    sockets: Path
    settings: dict[str, str] = field(default_factory=dict)
    sessions: list[threading.Thread] = field(default_factory=list)

    @property
    def client(self) -> GuardClient:
        """The connection to the guard."""
        return self.guard.client

    @property
    def events(self) -> list[GuardEvent]:
        """What the guard told."""
        return self.guard.events

    @property
    def where(self) -> tuple[str, int]:
        """The data directory and the number of the servers' user."""
        return str(self.pgdata), self.guard.account.pw_uid

    def configure(self, **settings: str) -> None:
        """Write the server's settings."""
        self.settings |= settings
        lines = {**SETTINGS, "unix_socket_directories": str(self.sockets)}
        text = "".join(
            f"{name} = '{value}'\n" for name, value in (lines | self.settings).items()
        )
        (self.pgdata / "postgresql.auto.conf").write_text(text)

    async def start(self) -> int:
        """Start it as a primary of the lease's epoch and wait until it answers."""
        self.guard.lease(EPOCH)
        await self.client.arm(EPOCH)
        pid = await self._begin()
        await self.answers()
        return pid

    async def _begin(self) -> int:
        end = time.monotonic() + START_S
        while True:
            try:
                return await self.client.start(
                    [str(self.bin_dir / "postgres"), "-D", str(self.pgdata)],
                    user=self.guard.account.pw_name,
                    pgdata=self.pgdata,
                    log=self.guard.run_dir / "server.log",
                    primary_epoch=EPOCH,
                )
            except GuardRefused as exc:
                if exc.reason != "unreaped" or time.monotonic() > end:
                    raise
                await asyncio.sleep(0.01)

    async def answers(self) -> None:
        """Wait until the server answers."""
        end = time.monotonic() + START_S
        while True:
            try:
                with self.connect() as connection:
                    connection.execute("select 1")
                return
            except psycopg.OperationalError:
                log = self.guard.run_dir / "server.log"
                assert time.monotonic() < end, log.read_text()
                await asyncio.sleep(0.01)

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a session."""
        # A session that is not there in time would be missed without a word.
        where = f"host={self.sockets} user=postgres dbname=postgres"
        return psycopg.connect(where, autocommit=True, connect_timeout=int(START_S))

    def run(self, statement: str) -> None:
        """Run a statement in a session of its own until it or the server ends."""

        def session() -> None:
            try:
                with self.connect() as connection:
                    connection.execute(statement.encode())
            except psycopg.Error:
                return

        thread = threading.Thread(target=session)
        thread.start()
        self.sessions.append(thread)

    def below(self) -> list[int]:
        """Return every process under the guard."""
        return processes.descendants(self.client.guard_pid)

    def program_runs(self, name: bytes) -> bool:
        """Tell whether some process of that name is under the guard."""
        found = [processes.stat(pid) for pid in self.below()]
        return any(one is not None and one.name == name for one in found)

    async def join(self) -> None:
        """Wait for the ends of all sessions."""
        for thread in self.sessions:
            await asyncio.to_thread(thread.join, 20)
            assert not thread.is_alive()
        self.sessions.clear()

    async def is_dead_for_good(self) -> None:
        """Check that nothing of the server is left and that nothing is written."""
        assert processes.occupants(*self.where) == []
        before = fingerprint(self.pgdata)
        await asyncio.sleep(SETTLE_S)
        assert fingerprint(self.pgdata) == before

    async def rows_after_restart(self) -> set[str]:
        """Start again and return the ids that are there."""
        await self.start()
        with self.connect() as connection:
            found = connection.execute("select id from acks").fetchall()
            connection.execute("insert into acks values ('after the restart')")
        return {row[0] for row in found}


class Writers:
    """Sessions that insert rows and remember which were acknowledged."""

    def __init__(self, lab: ServerLab, count: int) -> None:
        self.acknowledged: set[str] = set()
        self.attempted: set[str] = set()
        self._lab = lab
        self._threads = [
            threading.Thread(target=self._write, args=(number,))
            for number in range(count)
        ]

    async def begin(self, rows: int = 100) -> None:
        """Start and wait until some rows were acknowledged."""
        for thread in self._threads:
            thread.start()
        await until(lambda: len(self.acknowledged) >= rows)

    async def join(self) -> None:
        """Wait until all have lost their session."""
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 20)
            assert not thread.is_alive()

    def _write(self, number: int) -> None:
        try:
            with self._lab.connect() as connection:
                for row in range(1_000_000):
                    name = f"{number}-{row}"
                    self.attempted.add(name)
                    connection.execute("insert into acks values (%s)", (name,))
                    self.acknowledged.add(name)
        except psycopg.Error:
            return


def fingerprint(folder: Path) -> set[tuple[str, int, int]]:
    """Return path, size and time of the last write of every file below."""
    found = set()
    for path in folder.rglob("*"):
        stat = path.lstat()
        found.add((str(path), stat.st_size, stat.st_mtime_ns))
    return found


@asynccontextmanager
async def server_lab(
    bin_dir: Path, template: Path, *, folder: Path | None = None
) -> AsyncIterator[ServerLab]:
    """Give a guard and a copy of ``template``, not started yet.

    Args:
        bin_dir: The server's programs.
        template: From `fresh_cluster`.
        folder: Where the data directory is made; None: beside the run directory.
    """
    async with guard_lab() as guard:
        # A part of many real paths, that must not show in the server's arguments.
        pgdata = (folder or guard.pgdata.parent) / "pgbastion-data"
        shutil.copytree(template, pgdata, symlinks=True)
        sockets = guard.pgdata.parent / "s"
        sockets.mkdir()
        account = guard.account
        for path in (sockets, pgdata, *pgdata.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)
        guard.pgdata = pgdata
        lab = ServerLab(guard=guard, bin_dir=bin_dir, pgdata=pgdata, sockets=sockets)
        lab.configure()
        try:
            yield lab
        finally:
            end_all(lab)
            await lab.join()


def end_all(lab: ServerLab) -> None:
    """Kill every process of the server; the guard itself is cleared away later."""
    end = time.monotonic() + 10
    while (found := [pid for pid in lab.below() if alive(pid)]) and (
        time.monotonic() < end
    ):
        for pid in found:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
