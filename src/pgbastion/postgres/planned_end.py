"""The planned end of a primary: older transactions, and where its WAL ends."""

import asyncio
from contextlib import suppress
from typing import Final

from pgbastion.model.wal import WalEnd
from pgbastion.postgres.connection import Address, Connection, connected
from pgbastion.postgres.offline import Offline

ASK_EVERY_S: Final = 0.02
QUERY_DEADLINE_S: Final = 5.0
_NOW: Final = "SELECT pg_catalog.clock_timestamp()"
_OLDER: Final = """
SELECT count(*)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.backend_type = 'client backend'
   AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.xact_start < %s
"""


class PlannedEnd:
    """One server that is to end cleanly; fulfils ``ha.ports.HandOver``."""

    def __init__(self, address: Address, offline: Offline) -> None:
        self._address = address
        self._offline = offline

    async def drain(self, limit_ms: int) -> None:
        """Wait until the transactions that are open now have ended, at most so long.

        Newer ones are not waited for: under load there is always one.

        Raises:
            PostgresError: The server does not answer.
        """
        async with connected(self._address, deadline_s=QUERY_DEADLINE_S) as connection:
            rows = await connection.rows(_NOW, deadline_s=QUERY_DEADLINE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_ms / 1_000):
                    # Nobody tells when a transaction of another session ends.
                    while await self._older(connection, rows[0]):  # noqa: ASYNC110
                        await asyncio.sleep(ASK_EVERY_S)

    async def _older(self, connection: Connection, since: tuple[object, ...]) -> int:
        rows = await connection.rows(_OLDER, since, deadline_s=QUERY_DEADLINE_S)
        return int(rows[0][0])

    async def ended_at(self) -> WalEnd | None:
        """Return where the stopped server's WAL ends; None: it did not end cleanly.

        Raises:
            PostgresError: Its files cannot be read.
        """
        end = await self._offline.proven_end()
        return end or await self._ended_at()

    async def _ended_at(self) -> WalEnd | None:
        control = await self._offline.control()
        end = await self._offline.shutdown_end(control)
        if end is None:
            return None
        return WalEnd(timeline=control.checkpoint.timeline, lsn=end)
