"""Physical replication slots: on the primary, one for each other node."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgbastion.model.ids import NodeId
from pgbastion.model.report import SlotRow
from pgbastion.model.wal import Lsn, parse_lsn
from pgbastion.postgres.connection import Connection
from pgbastion.postgres.render import SLOT_PREFIX, slot_name

DEADLINE_S: Final = 5.0
SURVEYED_MAX: Final = 32
"""A report carries at most so many slots."""

_SLOTS: Final = """
SELECT s.slot_name::text, s.active, s.restart_lsn::text, coalesce(s.wal_status, '')
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_type = 'physical' AND NOT s.temporary
   AND pg_catalog.starts_with(s.slot_name::text, %s)
"""
_SURVEY: Final = """
SELECT s.slot_name::text, s.slot_type, s.active, s.restart_lsn::text,
       coalesce(s.wal_status, ''),
       pg_catalog.pg_wal_lsn_diff(
           pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint
  FROM pg_catalog.pg_replication_slots AS s
 WHERE NOT s.temporary
 ORDER BY s.restart_lsn NULLS LAST
 LIMIT %s
"""
# Both in one statement: a server that was promoted a moment ago keeps its new slots.
_DROP_IN_RECOVERY: Final = """
SELECT pg_catalog.pg_drop_replication_slot(s.slot_name)
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_type = 'physical' AND NOT s.active
   AND pg_catalog.starts_with(s.slot_name::text, %s)
   AND pg_catalog.pg_is_in_recovery()
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

    async def survey(self, nodes: Iterable[NodeId]) -> tuple[SlotRow, ...]:
        """Return all slots of a primary, those that keep most WAL first; bounded."""
        rows = await self._connection.rows(
            _SURVEY, (SURVEYED_MAX,), deadline_s=DEADLINE_S
        )
        owners = {slot_name(node): node for node in nodes}
        return tuple(
            SlotRow(
                name=row[0],
                node=owners.get(row[0]),
                kind=row[1],
                active=row[2],
                restart_lsn=None if row[3] is None else parse_lsn(row[3]),
                wal_status=row[4],
                retained_bytes=row[5],
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

    async def drop_on_standby(self) -> None:
        """Drop our slots if this server is in recovery; else do nothing.

        Nobody lets go of the WAL that slots hold on a standby, so it would fill the
        disk. A promoted server makes them anew, from its latest checkpoint on, and
        ``wal_keep_size`` covers the moment in between.
        """
        await self._connection.rows(
            _DROP_IN_RECOVERY, (SLOT_PREFIX,), deadline_s=DEADLINE_S
        )
