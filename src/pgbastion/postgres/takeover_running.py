"""Make a running server that somebody else set up one of ours, without stopping it.

First everything is checked, then files are changed: a refusal leaves all as it was.
Settings that need a restart take effect at the next one; their names are returned.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import NOBODY
from pgbastion.model.ids import Epoch
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.config_files import ConfigFiles, Secrets
from pgbastion.postgres.connection import Address, Connection, ServerSilentError
from pgbastion.postgres.layout import PgIdentity, PgPaths
from pgbastion.postgres.mark import Mark, MarkFile
from pgbastion.postgres.primary import PENDING
from pgbastion.postgres.render import Upstream, Volatile
from pgbastion.postgres.roles import check_roles, create_missing
from pgbastion.postgres.unmarked_data import UnmarkedData

DEADLINE_S: Final = 10.0

_STATE: Final = """
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('wal_level'),
       pg_catalog.current_setting('max_wal_senders')::int,
       pg_catalog.current_setting('config_file')
"""
_BROKEN: Final = """
SELECT f.sourcefile, f.sourceline, f.name, f.error
  FROM pg_catalog.pg_file_settings AS f
 WHERE f.error IS NOT NULL AND f.error <> 'setting could not be applied'
"""

LOGICAL: Final = (
    "wal_level is logical: set postgresql.parameters.wal_level to logical too"
)

log = get_logger("postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotTakeOver:
    """What is in the way, each with its remedy; nothing was changed."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """The server is ours and runs on."""

    in_recovery: bool
    created_roles: tuple[str, ...]
    pending_restart: tuple[str, ...]
    """Settings that wait for a restart."""


class RunningTakeOver:
    """Takes over the running server of one node."""

    def __init__(
        self,
        paths: PgPaths,
        identity: PgIdentity,
        config: ConfigFiles,
        mark_file: MarkFile,
        secrets: Secrets,
    ) -> None:
        self._paths = paths
        self._identity = identity
        self._config = config
        self._mark_file = mark_file
        self._secrets = secrets
        self._connection = Connection(
            Address(
                host=str(paths.socket_dir),
                port=identity.port,
                user=identity.roles.superuser,
                password=secrets.of(identity.roles.superuser),
            )
        )

    async def check(
        self, found: UnmarkedData, *, primary: Upstream | None
    ) -> tuple[str, ...]:
        """Return what is in the way, each with its remedy; nothing is changed."""
        try:
            return self._mismatches(found) or await self._obstacles(primary)
        except ServerSilentError as exc:
            return (f"{exc}: check postgresql.password_file",)
        finally:
            await self._connection.close()

    async def take(
        self,
        found: UnmarkedData,
        mark: Mark,
        members: Sequence[str],
        *,
        primary: Upstream | None,
    ) -> TakenOver | CannotTakeOver:
        """Take the server over, as the primary or as a standby of ``primary``.

        Args:
            found: What `look_around` saw.
            mark: The mark to write, with a new data id.
            members: Addresses of the nodes that run PostgreSQL.
            primary: The server that a standby is to follow; None for the primary.

        Raises:
            PostgresError: Files cannot be written, or the server stopped answering.
        """
        problems = await self.check(found, primary=primary)
        if problems:
            return CannotTakeOver(problems=problems)
        try:
            await self._connection.open(deadline_s=DEADLINE_S)
            return await self._take(found, mark, members, primary)
        finally:
            await self._connection.close()

    def _mismatches(self, found: UnmarkedData) -> tuple[str, ...]:
        """Return where the running server and the configuration disagree."""
        running, data_dir = found.postmaster, self._paths.data_dir
        if found.marked:
            return (f"{data_dir} carries the mark of a cluster already",)
        if running is None:
            return (f"no server runs on {data_dir}: start it first",)
        problems = []
        if running.port != self._identity.port:
            problems.append(
                f"the server listens on port {running.port}, postgresql.port is"
                f" {self._identity.port}: make them equal"
            )
        if running.socket_dir != str(self._paths.socket_dir):
            problems.append(
                f"the server's socket is in {running.socket_dir}: set"
                " postgresql.socket_dir to it"
            )
        return tuple(problems)

    async def _obstacles(self, primary: Upstream | None) -> tuple[str, ...]:
        await self._connection.open(deadline_s=DEADLINE_S)
        row = (await self._connection.rows(_STATE, deadline_s=DEADLINE_S))[0]
        in_recovery, wal_level, senders, config_file = row
        expected = self._paths.conf_dir / "postgresql.conf"
        problems = [
            f"role {p.role}: {p.problem}"
            for p in await check_roles(
                self._connection, self._identity.roles, self._secrets
            )
        ]
        checks = [
            (in_recovery and primary is None, "the server is a standby"),
            (not in_recovery and primary is not None, "the server is a primary"),
            (
                wal_level == "minimal",
                "wal_level is minimal: set it to replica and restart the server",
            ),
            (
                wal_level == "logical" != self._config.settings({})["wal_level"],
                LOGICAL,
            ),
            (
                senders < 1,
                "max_wal_senders is 0: raise it and restart the server",
            ),
            (
                config_file != str(expected),
                f"it reads {config_file}, not {expected}: set postgresql.config_dir",
            ),
        ]
        problems += [text for wrong, text in checks if wrong]
        return (*problems, *await self._unreachable())

    async def _unreachable(self) -> tuple[str, ...]:
        """Tell whether clients and standbys come to it; until a restart nothing helps.

        A wildcard is no address to connect to: then nothing is asked.
        """
        host, port = self._identity.listen[0], self._identity.port
        if ip_address(host).is_unspecified:
            return ()
        try:
            async with asyncio.timeout(DEADLINE_S):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            wanted = f"add {host} to listen_addresses and restart it"
            return (f"it does not answer on {host}:{port}: {wanted}",)
        writer.close()
        return ()

    async def _take(
        self,
        found: UnmarkedData,
        mark: Mark,
        members: Sequence[str],
        primary: Upstream | None,
    ) -> TakenOver:
        created: tuple[str, ...] = ()
        if primary is None:
            created = await create_missing(
                self._connection, self._identity.roles, self._secrets
            )
        floors = found.control.settings if found.control and primary else {}
        await self._config.write_static(floors)
        # A primary goes on acknowledging alone, as it did, until it gets a set.
        sync = NOBODY if primary is None else None
        volatile = Volatile(upstream=primary, sync=sync)
        await self._config.write_volatile(volatile, mark.data_id)
        await self._config.write_access(members)
        await self._config.sanitise()
        if primary is not None:
            mark = replace(mark, epoch=Epoch(1))
            await self._config.mark_standby()
        taken = await self._reload(created, in_recovery=primary is not None)
        # The mark comes last: what was cut short before it is done again.
        await self._mark_file.write(mark)
        return taken

    async def _reload(
        self, created: tuple[str, ...], *, in_recovery: bool
    ) -> TakenOver:
        broken = await self._connection.rows(_BROKEN, deadline_s=DEADLINE_S)
        if broken:
            source, line, name, error = broken[0]
            raise PostgresError(f"{source}:{line}: {name}: {error}")
        await self._connection.rows(
            "SELECT pg_catalog.pg_reload_conf()", deadline_s=DEADLINE_S
        )
        await self._connection.close()
        await self._connection.open(deadline_s=DEADLINE_S)
        pending = await self._connection.rows(PENDING, deadline_s=DEADLINE_S)
        names = tuple(row[0] for row in pending)
        log.info("server_taken_over", pending_restart=",".join(names))
        return TakenOver(
            in_recovery=in_recovery, created_roles=created, pending_restart=names
        )
