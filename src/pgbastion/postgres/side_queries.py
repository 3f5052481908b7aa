"""What a running server is asked beside whether it lives."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.errors import PostgresError
from pgbastion.model.ids import NodeId
from pgbastion.model.report import ReplicationRow, SlotRow
from pgbastion.postgres import render
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.settings_state import NOTHING, SettingsWatch
from pgbastion.postgres.standby import Standby

SLOTS_EVERY_NS: Final = 2_000_000_000


class SideQueries:
    """The newest answers of one server: who streams, slots, settings.

    They come over connections that actions use, too, and may have to wait for those.

    Args:
        primary: Asks and changes a primary.
        standby: The same for a standby; its connections are kept warm.
        look_s: How long each part may take; a look waits for half of it.
    """

    def __init__(self, primary: Primary, standby: Standby, *, look_s: float) -> None:
        self._primary = primary
        self._standby = standby
        self._look_s = look_s
        self._settings_watch = SettingsWatch(primary, look_s=look_s)
        self._asking: asyncio.Task[None] | None = None
        self._slots_ns = 0
        self._safe_at = ""
        """The newest reading of the files after which these were looked through."""
        self._forget()

    def go_by(self, *, look_s: float) -> None:
        """Take another time that each part may take."""
        self._look_s = self._settings_watch.look_s = look_s

    def _forget(self) -> None:
        self.rows: tuple[ReplicationRow, ...] = ()
        self.rows_ns = 0
        """When the rows were asked for."""
        self.slots: tuple[NodeId, ...] | None = None
        """The nodes with a slot; None: it is to be asked again."""
        self.all_slots: tuple[SlotRow, ...] = ()
        self.settings_state = NOTHING

    async def forget(self) -> None:
        """Stop asking: what is told from now on is another server's."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})
        self._settings_watch.forget()
        self._forget()

    async def reload(self) -> tuple[str, ...]:
        """Have the server read its files again; return what waits for its restart."""
        await self._settings_watch.reload()
        self.settings_state = await self._settings_watch.settled()
        return self.settings_state.pending_restart

    async def ask(
        self, nodes: Sequence[NodeId], *, in_recovery: bool, loaded_at: str
    ) -> None:
        """Ask, and wait for the answers as long as the next look can wait.

        What has not been answered by then is as it was a moment ago.

        Args:
            nodes: The other nodes that run PostgreSQL.
            in_recovery: Whether it is a standby.
            loaded_at: When it last read its files.
        """
        asking = self._asking
        if asking is None or asking.done():
            asking = asyncio.create_task(
                self._ask(nodes, in_recovery=in_recovery, loaded_at=loaded_at)
            )
            self._asking = asking
        await asyncio.wait({asking}, timeout=self._look_s / 2)
        if asking.done() and not asking.cancelled():
            asking.result()

    async def _ask(
        self, nodes: Sequence[NodeId], *, in_recovery: bool, loaded_at: str
    ) -> None:
        with suppress(PostgresError, TimeoutError):
            async with asyncio.timeout(self._look_s):
                if loaded_at != self._safe_at:
                    # Somebody may have had it read what ALTER SYSTEM wrote.
                    await self._primary.end_dangers(in_recovery=in_recovery)
                    self._safe_at = loaded_at
                await (self._warm() if in_recovery else self._ask_primary(nodes))
        self.settings_state = await self._settings_watch.ask()

    async def _warm(self) -> None:
        """Keep the connections that a failover will use open."""
        await self._standby.warm()
        await self._primary.open()

    async def _ask_primary(self, nodes: Sequence[NodeId]) -> None:
        asked_ns = boottime_ns()
        senders = await self._primary.senders()
        # Our own connections that speak the replication protocol show up there too.
        own = self._primary.application_name
        self.rows = tuple(s.row() for s in senders if s.name != own)
        self.rows_ns = asked_ns
        if self.slots is None or asked_ns - self._slots_ns > SLOTS_EVERY_NS:
            self._slots_ns = asked_ns
            slots = await self._primary.slots.ours()
            kept = {slot.name for slot in slots if not slot.lost}
            self.slots = tuple(n for n in nodes if render.slot_name(n) in kept)
            self.all_slots = await self._primary.slots.survey(tuple(nodes))
