"""Physical replication slots: on each server, one for each other node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from pgbastion.model.ids import NodeId
from pgbastion.model.report import SlotRow
from pgbastion.model.wal import Lsn, format_lsn, parse_lsn
from pgbastion.postgres.connection import Address, Connection, Row, connected
from pgbastion.postgres.render import SLOT_PREFIX, slot_name

DEADLINE_S: Final = 5.0
SURVEYED_MAX: Final = 32
"""A report carries at most so many slots."""

_SLOTS: Final = """
SELECT s.slot_name::text, s.active, s.restart_lsn::text, coalesce(s.wal_status, ''),
       s.xmin IS NOT NULL
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
FAILOVER_SLOTS_SINCE: Final = 170_000
_DROP_UNSYNCED: Final = """
SELECT pg_catalog.pg_drop_replication_slot(s.slot_name)
  FROM pg_catalog.pg_replication_slots AS s
 WHERE s.slot_type = 'logical' AND s.failover AND NOT s.synced AND NOT s.active
   AND pg_catalog.pg_is_in_recovery()
"""
_SERVER: Final = """
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version_num')::integer
"""
# Never beyond what was replayed here: a promotion ends there. Without an end of its
# own, a slot stays at the last restart point, before which no WAL is kept anyway.
_ADVANCE: Final = """
SELECT pg_catalog.pg_replication_slot_advance(s.slot_name, t.lsn)
  FROM pg_catalog.pg_replication_slots AS s
  JOIN (SELECT e.name,
               LEAST(coalesce(e.lsn, c.redo_lsn),
                     pg_catalog.pg_last_wal_replay_lsn()) AS lsn
          FROM ROWS FROM (pg_catalog.unnest(%s::text[]),
                          pg_catalog.unnest(%s::pg_lsn[])) AS e (name, lsn),
               pg_catalog.pg_control_checkpoint() AS c) AS t
    ON t.name = s.slot_name::text
 WHERE s.slot_type = 'physical' AND NOT s.active AND s.restart_lsn < t.lsn
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
    holds_xmin: bool
    """It keeps rows from being vacuumed."""


class Slots:
    """The slots of one server. ``connection`` must be open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ours(self) -> tuple[Slot, ...]:
        """Return our slots."""
        rows = await self._rows(_SLOTS, (SLOT_PREFIX,))
        return tuple(
            Slot(
                name=row[0],
                active=row[1],
                restart_lsn=None if row[2] is None else parse_lsn(row[2]),
                lost=row[3] == "lost",
                holds_xmin=row[4],
            )
            for row in rows
        )

    async def survey(self, nodes: Iterable[NodeId]) -> tuple[SlotRow, ...]:
        """Return all slots of a primary, those that keep most WAL first; bounded."""
        rows = await self._rows(_SURVEY, (SURVEYED_MAX,))
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

    async def keep(self, nodes: Iterable[NodeId], *, holding_rows: bool = True) -> None:
        """Have exactly these nodes' slots; one in use is never dropped.

        New ones reserve WAL at once, so that it is there when the node comes.

        Args:
            nodes: Whose slots are wanted.
            holding_rows: Slots may keep rows from being vacuumed; else those that do
                are made anew.
        """
        wanted = {slot_name(node) for node in nodes}
        kept = set()
        for slot in await self.ours():
            spoilt = slot.lost or (slot.holds_xmin and not holding_rows)
            if slot.active or (slot.name in wanted and not spoilt):
                kept.add(slot.name)
            else:
                await self._rows(
                    "SELECT pg_catalog.pg_drop_replication_slot(%s)", (slot.name,)
                )
        for name in sorted(wanted - kept):
            await self._rows(
                "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true)",
                (name,),
            )

    async def carry(self, ends: Mapping[NodeId, Lsn | None]) -> None:
        """Have these nodes' slots on a standby, each up to its end (`_ADVANCE`).

        A slot that holds rows back is one of a time as primary, and nobody uses it
        here: it is made anew, or it would keep the primary from vacuuming (safety
        rule 56). On a server that was promoted meanwhile nothing is done.
        """
        [(in_recovery, version)] = await self._rows(_SERVER)
        if not in_recovery:
            return
        if version >= FAILOVER_SLOTS_SINCE:
            # In the way of the primary's of the same name: a former primary has its
            # own ones still, and PostgreSQL copies only to where there is none.
            await self._rows(_DROP_UNSYNCED)
        await self.keep(ends, holding_rows=False)
        names = [slot_name(node) for node in ends]
        lsns = [None if end is None else format_lsn(end) for end in ends.values()]
        await self._rows(_ADVANCE, (names, lsns))

    async def _rows(
        self, query: LiteralString, parameters: Sequence[object] = ()
    ) -> list[Row]:
        return await self._connection.rows(query, parameters, deadline_s=DEADLINE_S)


class CarriedSlots:
    """A standby's slots, over a connection that is opened for each look at them.

    Args:
        address: The server.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    async def carry(self, ends: Mapping[NodeId, Lsn | None]) -> None:
        """Have these nodes' slots, each up to its end (`Slots.carry`).

        Raises:
            PostgresError: The server did not answer, or refused.
        """
        async with connected(self._address, deadline_s=DEADLINE_S) as connection:
            await Slots(connection).carry(ends)
