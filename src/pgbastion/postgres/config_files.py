"""The server's configuration files: ours are written whole, others' are kept.

``postgresql.conf`` includes ``pgbastion.conf`` as its last line, which includes
``pgbastion.recovery.conf``. Both includes are strict: a server that lost the second
file does not start, where it would otherwise acknowledge commits alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import DataId
from pgbastion.observe.logging import get_logger
from pgbastion.postgres import render
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgIdentity, PgPaths
from pgbastion.postgres.settings import Value, static_settings, undermines

STATIC_NAME: Final = "pgbastion.conf"
VOLATILE_NAME: Final = "pgbastion.recovery.conf"

_HEAD: Final = "Written by pgbastion and replaced without notice: do not edit."
_INCLUDE_VOLATILE: Final = f"include '{VOLATILE_NAME}'\n"

log = get_logger("postgres")


class Secrets:
    """Passwords by role; never shown."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = dict(passwords)

    def renew(self, passwords: Mapping[str, str]) -> None:
        """Take other passwords: whoever asks from now on gets them."""
        self._passwords = dict(passwords)

    def __repr__(self) -> str:
        return f"Secrets(of {', '.join(sorted(self._passwords))})"

    def of(self, role: str) -> str:
        """Return a role's password.

        Raises:
            PostgresError: None is known.
        """
        try:
            return self._passwords[role]
        except KeyError:
            raise PostgresError(f"no password is known for role {role!r}") from None


class ConfigFiles:
    """Writes the configuration of one server. Every method is idempotent."""

    def __init__(
        self,
        paths: PgPaths,
        identity: PgIdentity,
        files: Files,
        *,
        secrets: Secrets,
        parameters: Mapping[str, Value],
        hba: Sequence[str],
    ) -> None:
        self._paths = paths
        self._identity = identity
        self._files = files
        self._secrets = secrets
        self._parameters = dict(parameters)
        self._hba = tuple(hba)
        self._major = 0
        self._sanitising = asyncio.Lock()

    def set_parameters(self, parameters: Mapping[str, Value]) -> None:
        """Take other settings; the next writing has them."""
        self._parameters = dict(parameters)

    def set_hba(self, hba: Sequence[str]) -> None:
        """Take other access rules; the next writing has them."""
        self._hba = tuple(hba)

    def settings(self, floors: Mapping[str, int]) -> dict[str, Value]:
        """Return what ``pgbastion.conf`` is to hold."""
        return static_settings(
            self._identity, str(self._paths.socket_dir), self._parameters, floors
        )

    async def write_static(self, floors: Mapping[str, int]) -> None:
        """Write ``pgbastion.conf`` and include it last in ``postgresql.conf``.

        Args:
            floors: The limits that pg_control asks of a standby; empty for a primary.
        """
        settings = self.settings(floors)
        text = render.settings_file(_HEAD, settings) + _INCLUDE_VOLATILE
        await self._files.write(self._conf(STATIC_NAME), text)
        main = self._conf("postgresql.conf")
        current = await self._files.read(main)
        if current is None:
            raise PostgresError(f"there is no {main}")
        wanted = render.include_last(current)
        await self._files.write(main, wanted, keep_mode=True)

    async def write_volatile(self, volatile: render.Volatile, data_id: DataId) -> None:
        """Write ``pgbastion.recovery.conf``: whom to follow, whom commits wait for.

        The password file comes first: it lets in nowhere but at the server to follow.
        """
        await self.write_passfile(volatile.upstream)
        settings = render.volatile_settings(
            volatile,
            self._identity,
            data_id,
            passfile=str(self._paths.passfile),
            major=await self._server_major(),
        )
        await self._files.write(
            self._conf(VOLATILE_NAME), render.settings_file(_HEAD, settings)
        )

    async def _server_major(self) -> int:
        """Return the major version of the data; 0: there is none yet."""
        if not self._major:
            text = await self._files.read(self._paths.data_dir / "PG_VERSION")
            self._major = int((text or "0").partition(".")[0])
        return self._major

    async def write_access(
        self, members: Sequence[str], *, fresh: bool = False
    ) -> None:
        """Put our rules first into ``pg_hba.conf``.

        Args:
            members: Addresses of the nodes that run PostgreSQL.
            fresh: Keep no line of what is there: initdb's own, which refuse everybody.
        """
        path = self._conf("pg_hba.conf")
        current = "" if fresh else await self._files.read(path) or ""
        block = render.hba_block(self._identity.roles, members, self._hba)
        text = render.replace_hba_block(current, block)
        await self._files.write(path, text, keep_mode=not fresh)

    async def write_passfile(self, upstream: render.Upstream | None) -> None:
        """Write the passwords that replication and rewind need at one server."""
        roles = self._identity.roles
        passwords = {
            role: self._secrets.of(role) for role in (roles.replication, roles.rewind)
        }
        text = render.passfile(upstream, passwords)
        await self._files.write(self._paths.passfile, text)

    async def renew_passfile(self) -> None:
        """Write the passwords anew for the server that the file lets in at, if any."""
        current = await self._files.read(self._paths.passfile)
        if current is None:
            return
        roles = self._identity.roles
        passwords = {
            role: self._secrets.of(role) for role in (roles.replication, roles.rewind)
        }
        text = render.with_passwords(current, passwords)
        await self._files.write(self._paths.passfile, text)

    async def sanitise(
        self, unwanted: Callable[[str, str], bool] = undermines
    ) -> tuple[str, ...]:
        """Remove from ``postgresql.auto.conf`` what undermines us; return its names.

        ALTER SYSTEM writes there, and the file is read after all others.
        """
        path = self._paths.data_dir / "postgresql.auto.conf"
        # Another one that removes less must not bring back what this one removes.
        async with self._sanitising:
            current = await self._files.read(path)
            if current is None:
                return ()
            text, removed = render.without_settings(current, unwanted)
            if removed:
                await self._files.write(path, text)
        if removed:
            log.warning("settings_removed", settings=",".join(removed), file=str(path))
        return removed

    async def mark_standby(self) -> None:
        """Make the next start one in recovery: ``standby.signal``, no other signal."""
        await self._files.write(self._paths.data_dir / "standby.signal", "")
        await self._files.remove(self._paths.data_dir / "recovery.signal")

    async def mark_primary(self) -> None:
        """Make the next start one outside recovery: for the lease's holder only."""
        await self._files.remove(self._paths.data_dir / "recovery.signal")
        await self._files.remove(self._paths.data_dir / "standby.signal")

    def _conf(self, name: str) -> Path:
        return self._paths.conf_dir / name
