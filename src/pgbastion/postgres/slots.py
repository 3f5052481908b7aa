"""Physical replication slots: one for each node, on the primary and on candidates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pgbastion.model.ids import NodeId
from pgbastion.model.wal import Lsn, format_lsn, parse_lsn
from pgbastion.postgres.connection import Connection
from pgbastion.postgres.render import SLOT_PREFIX, slot_name

DEADLINE_S: Final = 5.0

_SLOTS: Final = """
SELECT s.slot_name::text, s.active, s.restart_lsn::text, coalesce(s.wal_status, '')
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_type = 'physical' AND NOT s.temporary
   AND pg_catalog.starts_with(s.slot_name::text, %s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A physical slot of ours."""

    name: str
    active: bool
    restart_lsn: Lsn | None
    lost: bool
    """The WAL that it was to keep is gone; it must be made anew."""


class Slots:
    """The slots of one server. ``connection`` must be open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def list(self) -> tuple[Slot, ...]:
        """Return our slots."""
        rows = await self._connection.rows(
            _SLOTS, (SLOT_PREFIX,), deadline_s=DEADLINE_S
        )
        return tuple(
            Slot(
                name=row[0],
                active=row[1],
                restart_lsn=None if row[2] is None else parse_lsn(row[2]),
                lost=row[3] == "lost",
            )
            for row in rows
        )

    async def keep(self, nodes: Iterable[NodeId]) -> None:
        """Have exactly these nodes' slots; one in use is never dropped.

        New ones reserve WAL at once, so that it is there when the node comes.
        """
        wanted = {slot_name(node) for node in nodes}
        found = {slot.name: slot for slot in await self.list()}
        for slot in found.values():
            if not slot.active and (slot.lost or slot.name not in wanted):
                await self._connection.rows(
                    "SELECT pg_catalog.pg_drop_replication_slot(%s)",
                    (slot.name,),
                    deadline_s=DEADLINE_S,
                )
        kept = {slot.name for slot in found.values() if not slot.lost or slot.active}
        for name in sorted(wanted - kept):
            await self._connection.rows(
                "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)",
                (name,),
                deadline_s=DEADLINE_S,
            )

    async def advance(self, positions: Mapping[NodeId, Lsn]) -> None:
        """On a standby: let go of WAL that the slots' nodes have confirmed."""
        found = {slot.name: slot for slot in await self.list()}
        for node, lsn in positions.items():
            slot = found.get(slot_name(node))
            if slot is None or slot.active or slot.restart_lsn is None:
                continue
            if slot.restart_lsn < lsn:
                await self._connection.rows(
                    "SELECT pg_catalog.pg_replication_slot_advance(%s, least("
                    "%s::pg_catalog.pg_lsn, pg_catalog.pg_last_wal_replay_lsn()))",
                    (slot.name, format_lsn(lsn)),
                    deadline_s=DEADLINE_S,
                )
