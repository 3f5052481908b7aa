"""What would make this server a poor primary: looked for now and then, beside all else.

A server runs with libraries and collations of its own machine on data that another one
wrote. What it lacks shows only when a client asks for it, so it is looked for before
(safety rule 77). So are passwords that somebody changed on the server: they show when
a daemon or a standby has to log in anew. Nothing waits for this.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.errors import PostgresError
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.config_files import Secrets
from pgbastion.postgres.connection import Address, Connection, connected
from pgbastion.postgres.layout import PgRoles
from pgbastion.postgres.roles import check_roles

EVERY_NS: Final = 300 * 1_000_000_000
AGAIN_NS: Final = 15 * 1_000_000_000
"""After a look that found something: what was mended does not count for long."""
REFUSED: Final = "password authentication failed"
OWN_REMEDY: Final = (
    "set the one that pgbastion password tells, or write the new one into "
    "postgresql.password_file on every node and reload"
)
ROLE_REMEDY: Final = "pgbastion reload on the primary's node sets passwords"
DATABASES_MAX: Final = 20
SHOWN_MAX: Final = 3
SINCE_VERSION: Final = 150_000
"""The first major version that notes a database's collation version."""

_DATABASES: Final = """
SELECT d.datname FROM pg_catalog.pg_database AS d
 WHERE d.datallowconn ORDER BY d.datname LIMIT %s
"""
_COLLATIONS: Final = """
SELECT d.datname, d.datcollversion,
       pg_catalog.pg_database_collation_actual_version(d.oid)
  FROM pg_catalog.pg_database AS d
 WHERE d.datallowconn AND d.datcollversion IS DISTINCT FROM
       pg_catalog.pg_database_collation_actual_version(d.oid)
 ORDER BY d.datname
"""
_EXTENSIONS: Final = """
SELECT e.extname FROM pg_catalog.pg_extension AS e
 WHERE e.extname NOT IN (SELECT a.name FROM pg_catalog.pg_available_extensions() AS a)
 ORDER BY e.extname
"""
_LIBRARIES: Final = """
SELECT DISTINCT p.probin, c.setting FROM pg_catalog.pg_proc AS p,
       pg_catalog.pg_config() AS c
 WHERE p.probin LIKE '$libdir/%%' AND c.name = 'PKGLIBDIR' ORDER BY p.probin LIMIT %s
"""
# One name that it does not know, or a line that is none, and a server takes up nothing
# of what it reads again; a value that does not fit is left out alone.
# Source: PostgreSQL, src/backend/utils/misc/guc.c, ProcessConfigFileInternal.
_UNREADABLE: Final = """
SELECT f.sourcefile, f.sourceline, f.error FROM pg_catalog.pg_file_settings AS f
 WHERE f.error IS NOT NULL
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_file_settings AS a WHERE a.applied)
 ORDER BY f.seqno LIMIT %s
"""
_VERSION: Final = "SELECT pg_catalog.current_setting('server_version_num')::integer"
_LIBRARIES_MAX: Final = 200

log = get_logger("fitness")


class Fitness:
    """Looks at one server, and keeps what it found.

    Args:
        address: How to log in to it.
        roles: Which roles have to be able to log in.
        secrets: With which passwords.
        deadline_s: How long one question may take.
    """

    def __init__(
        self, address: Address, roles: PgRoles, secrets: Secrets, *, deadline_s: float
    ) -> None:
        self._address = replace(address, application_name="pgbastion fitness")
        self._roles = roles
        self._secrets = secrets
        self.deadline_s = deadline_s
        self._looked_ns: int | None = None
        self._task: asyncio.Task[None] | None = None
        self.flaws: tuple[str, ...] = ()
        """What was found at the last look."""

    def look_soon(self) -> None:
        """Begin to look, if the last look is long ago and none is under way."""
        now_ns = boottime_ns()
        pause_ns = AGAIN_NS if self.flaws else EVERY_NS
        recent = self._looked_ns is not None and now_ns - self._looked_ns < pause_ns
        if not recent and self._task is None:
            self._looked_ns = now_ns
            self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            found = await self.find()
            if found != self.flaws:
                log.info("fitness", flaws="; ".join(found) or "none")
            self.flaws = found
        except (PostgresError, TimeoutError) as exc:
            log.debug("fitness_unknown", error=str(exc))
        finally:
            self._task = None

    async def find(self) -> tuple[str, ...]:
        """Return what is wrong, in words.

        Raises:
            PostgresError: The server does not answer.
        """
        try:
            return await self._find()
        except PostgresError as exc:
            if REFUSED not in str(exc):
                raise
            return (f"it refuses the password of {self._address.user}: {OWN_REMEDY}",)

    async def _find(self) -> tuple[str, ...]:
        found: list[str] = []
        async with self._session(self._address) as session:
            [[version]] = await session.rows(_VERSION, deadline_s=self.deadline_s)
            found += [
                f"role {each.role}: {each.problem}: {ROLE_REMEDY}"
                for each in await check_roles(session, self._roles, self._secrets)
            ]
            if int(str(version)) >= SINCE_VERSION:
                found += await self._collations(session)
            found += await self._unreadable(session)
            rows = await session.rows(
                _DATABASES, (DATABASES_MAX,), deadline_s=self.deadline_s
            )
        for (name,) in rows:
            address = replace(self._address, dbname=str(name))
            async with self._session(address) as session:
                found += await self._lacking(session, str(name))
        return tuple(found)

    def _session(self, address: Address) -> AbstractAsyncContextManager[Connection]:
        return connected(address, deadline_s=self.deadline_s)

    async def _collations(self, session: Connection) -> list[str]:
        rows = await session.rows(_COLLATIONS, deadline_s=self.deadline_s)
        return [
            f"the collation of database {name} is of version {noted or 'unknown'}, "
            f"here it is {actual or 'unknown'}: its indexes may be wrong"
            for name, noted, actual in rows[:SHOWN_MAX]
        ]

    async def _unreadable(self, session: Connection) -> list[str]:
        """Tell what keeps the server from taking up settings.

        It can neither be cut from a primary nor be given others to wait for.
        """
        rows = await session.rows(_UNREADABLE, (SHOWN_MAX,), deadline_s=self.deadline_s)
        return [
            f"{file}, line {line}: {error}: it takes up no setting any more"
            for file, line, error in rows
        ]

    async def _lacking(self, session: Connection, database: str) -> list[str]:
        rows = await session.rows(_EXTENSIONS, deadline_s=self.deadline_s)
        lacking = [f"the extension {name}" for (name,) in rows]
        libraries = await session.rows(
            _LIBRARIES, (_LIBRARIES_MAX,), deadline_s=self.deadline_s
        )
        missing = await asyncio.to_thread(_missing, libraries)
        lacking += [f"the library {name}" for name in missing]
        return [f"database {database} needs {what}" for what in lacking[:SHOWN_MAX]]

    async def close(self) -> None:
        """End a look that is under way; the next one begins anew."""
        task, self._looked_ns = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


def _missing(rows: list[tuple[object, ...]]) -> list[str]:
    """Return the libraries of ``$libdir`` whose file is not on this machine."""
    missing = []
    for named, folder in rows:
        name = str(named).removeprefix("$libdir/")
        base = Path(str(folder)) / name
        if not (base.is_file() or base.with_name(f"{base.name}.so").is_file()):
            missing.append(name)
    return missing
