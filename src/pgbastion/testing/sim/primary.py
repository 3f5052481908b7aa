"""What `postgres.sync_change` asks of a primary, over the model of a server."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.model.wal import Lsn
from pgbastion.postgres.primary import SyncEffect
from pgbastion.testing.sim.server import Server

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A walsender, as a session is told."""

    name: str
    pid: int
    flush_lsn: Lsn


class SimPrimary:
    """Fulfils ``postgres.primary.Primary`` as far as a change of the set needs it.

    Args:
        machine: Whose server it is.
        server: Returns the running server once it has answered.
        write: Waits for a write of its files.
    """

    def __init__(
        self,
        machine: "Machine",
        *,
        server: Callable[[], Awaitable[Server]],
        write: Callable[[], Awaitable[None]],
    ) -> None:
        self._machine = machine
        self._server = server
        self._write = write

    async def set_sync(
        self, mode: ReplicationMode, sync: SyncSet | None, own: DataId
    ) -> None:
        """Write the set into the setting and reload."""
        del mode, own
        await self._write()
        (await self._server()).set_sync(sync)

    async def sync_effect(
        self, mode: ReplicationMode, sync: SyncSet | None
    ) -> SyncEffect:
        """Tell whether sessions and walsenders go by this set."""
        del mode
        server = await self._server()
        if self._machine.loses_answers:
            raise PostgresError("the session ended before the answer came")
        members = sync.names if sync is not None else ()
        taken = all((s.name in members) == s.counts for s in server.senders)
        return SyncEffect(effective=taken and server.sync == sync)

    async def senders(self) -> tuple[Row, ...]:
        """Return who streams."""
        server = self._running()
        return tuple(
            Row(name=s.name, pid=s.pid, flush_lsn=Lsn(s.flush)) for s in server.senders
        )

    async def end_walsenders(self, pids: Collection[int]) -> None:
        """End these walsenders."""
        for sender in tuple(self._running().senders):
            if sender.pid in pids:
                sender.end()

    async def write_position(self) -> Lsn:
        """Return where the WAL ends that was written by now."""
        return Lsn(self._running().inserted)

    async def prepare_to_commit(self) -> None:
        """Nothing to do: the model's servers always have a session left."""

    async def commits_wait(self) -> bool:
        """Tell whether a commit waits now."""
        return self._running().commits_wait

    def _running(self) -> Server:
        """Return the server that has answered just before."""
        server = self._machine.server
        if server is None:
            raise PostgresError("the server does not run")
        return server
