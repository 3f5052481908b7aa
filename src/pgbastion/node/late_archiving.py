"""Archives on a standby what it wrote as a primary and no archive has confirmed."""

import asyncio
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.ha.observer import Observer
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.archive import ArchiveBacklog

EVERY_S: Final = 30.0
"""Well below the time between two restart points, which remove WAL."""

log = get_logger("postgres")


class LateArchiving:
    """Looks for such WAL every now and then.

    Args:
        observer: Tells whether the server is a standby.
        backlog: The server's segments.
    """

    def __init__(self, observer: Observer, backlog: ArchiveBacklog) -> None:
        self._observer = observer
        self._backlog = backlog

    async def run(self) -> None:
        """Archive it for ever."""
        while True:
            await self.archive()
            await asyncio.sleep(EVERY_S)

    async def archive(self) -> None:
        """Archive it once; what the archive refuses is offered the next time."""
        if not self._is_standby():
            return
        try:
            archived = await self._backlog.catch_up(self._is_standby)
        except PostgresError as exc:
            log.debug("wal_not_archived_late", error=str(exc))
            return
        if archived:
            log.info("wal_archived_late", segments=archived)

    def _is_standby(self) -> bool:
        server = self._observer.server
        return server is not None and server.in_recovery is True
