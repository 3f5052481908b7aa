"""What is done to a running primary: its synchronous set, slots, a checkpoint."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import DataId
from pgbastion.model.report import ReplicationRow
from pgbastion.model.settings import STANDBY_LIMITS
from pgbastion.model.wal import Lsn, parse_lsn
from pgbastion.postgres.config_files import ConfigFiles
from pgbastion.postgres.connection import Address, Connection, Row, connected
from pgbastion.postgres.render import Volatile, sync_names
from pgbastion.postgres.settings import endangers, undermines
from pgbastion.postgres.slots import Slots

DEADLINE_S: Final = 5.0
CHECKPOINT_DEADLINE_S: Final = 3600.0
ASK_EVERY_S: Final = 0.003

# A receiver's first words tell how far its server has replayed, be it another history
# than ours: what was not sent from here it cannot have of ours.
# Source: PostgreSQL, src/backend/replication/walreceiver.c, WalReceiverMain.
_REPLICATION: Final = """
SELECT r.application_name, r.state, r.sync_state, r.sync_priority, r.pid,
       coalesce(r.write_lsn, '0/0')::text,
       least(coalesce(r.flush_lsn, '0/0'), coalesce(r.sent_lsn, '0/0'))::text,
       coalesce(r.replay_lsn, '0/0')::text,
       coalesce(pg_catalog.host(r.client_addr), ''),
       pg_catalog.floor(1000 * extract(epoch FROM
           pg_catalog.clock_timestamp() - r.reply_time))::bigint,
       pg_catalog.ceil(1000 * extract(epoch FROM r.replay_lag))::bigint
  FROM pg_catalog.pg_stat_replication AS r
"""
_MESSAGE: Final = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgbastion', '')"
_WAITS: Final = """
SELECT a.wait_event = 'SyncRep' FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = %s
"""
_LOADED_AT: Final = "SELECT pg_catalog.pg_conf_load_time()::text"
# A server goes on saying so of a setting that is in no file any more, also where it
# runs with the default that it would have after a restart.
# Source: PostgreSQL, src/backend/utils/misc/guc-file.l, ProcessConfigFileInternal.
PENDING: Final = """
SELECT s.name FROM pg_catalog.pg_settings AS s
 WHERE s.pending_restart
   AND (s.setting IS DISTINCT FROM s.boot_val
        OR EXISTS (SELECT FROM pg_catalog.pg_file_settings AS f
                    WHERE pg_catalog.lower(f.name) = pg_catalog.lower(s.name)))
 ORDER BY 1
"""
_LIMITS: Final = """
SELECT s.name, s.setting FROM pg_catalog.pg_settings AS s
 WHERE s.name = ANY (%s) ORDER BY 1
"""
_END_WALSENDERS: Final = """
SELECT pg_catalog.pg_terminate_backend(r.pid)
  FROM pg_catalog.pg_stat_replication AS r
 WHERE r.pid = ANY (%s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSender:
    """One row of ``pg_stat_replication``."""

    name: str
    state: str
    sync_state: str
    sync_priority: int
    pid: int
    write_lsn: Lsn
    flush_lsn: Lsn
    replay_lsn: Lsn
    host: str
    reply_age_ms: int | None
    """How long ago the standby last said something, by this server's clock."""
    replay_lag_ms: int | None = None

    def row(self) -> ReplicationRow:
        """Return what a node's report says of it."""
        return ReplicationRow(
            name=self.name,
            streaming=self.state == "streaming",
            flush_lsn=self.flush_lsn,
            sync_state=self.sync_state,
            silent_ms=self.reply_age_ms,
            write_lsn=self.write_lsn,
            replay_lag_ms=self.replay_lag_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncEffect:
    """Whether a synchronous setting is what releases waiting commits."""

    effective: bool
    reason: str = ""
    """What still contradicts it."""


def judge_effect(
    wanted: str, current: str, members: Collection[str], senders: Collection[WalSender]
) -> SyncEffect:
    """Tell whether a setting is in force in every walsender.

    Args:
        wanted: The setting as it was written.
        current: The setting as a session sees it.
        members: The names in it.
        senders: All walsenders, read after the reload.
    """
    if current != wanted:
        return SyncEffect(effective=False, reason=f"the server has {current!r}")
    for sender in senders:
        counts = sender.sync_priority > 0
        if counts != (sender.name in members) and sender.state == "streaming":
            verb = "still counts" if counts else "does not count yet"
            return SyncEffect(effective=False, reason=f"{sender.name} {verb}")
    return SyncEffect(effective=True)


class Primary:
    """One running primary, over a connection that is used for nothing else."""

    def __init__(self, address: Address, config: ConfigFiles) -> None:
        self._address = address
        self._config = config
        self._connection = Connection(address)
        self._committing = Connection(address)
        self._owes_reload = False
        self.slots = Slots(self._connection)

    @property
    def application_name(self) -> str:
        """The name of the daemon's connections."""
        return self._address.application_name

    async def open(self) -> None:
        """Connect, unless connected."""
        await self._connection.open(deadline_s=DEADLINE_S)

    async def close(self) -> None:
        """Close the connection: before a stop, and before the next start."""
        await self._connection.close()
        await self._committing.close()

    async def set_sync(
        self, mode: ReplicationMode, sync: SyncSet | None, data_id: DataId
    ) -> None:
        """Write the synchronous set into the server's setting and reload.

        None names nobody who exists: commits wait. `sync_effect` tells when it holds.
        """
        await self._config.write_volatile(Volatile(mode=mode, sync=sync), data_id)
        # What ALTER SYSTEM wrote is read after ours.
        await self._config.sanitise()
        await self.reload()

    async def end_dangers(self, *, in_recovery: bool) -> None:
        """Take out what somebody set that a running server must not go on with.

        On a standby that is all that is ours: it has promised nobody anything, and led
        elsewhere it would confirm nothing more.
        """
        unwanted = undermines if in_recovery else endangers
        # After a try that failed half-way the file may be mended, the server not told.
        owed, self._owes_reload = self._owes_reload, True
        if await self._config.sanitise(unwanted) or owed:
            await self.reload()
        self._owes_reload = False

    async def reload(self) -> None:
        """Have the server read its configuration files again.

        What ALTER SYSTEM wrote, and it has not read, does not come in with ours.
        """
        await self._config.sanitise(endangers)
        await self.open()
        await self._connection.rows(
            "SELECT pg_catalog.pg_reload_conf()", deadline_s=DEADLINE_S
        )

    async def sync_effect(
        self, mode: ReplicationMode, sync: SyncSet | None
    ) -> SyncEffect:
        """Tell whether every walsender goes by this set.

        What does not show in a walsender is the number: after W of an unchanged set
        was raised, `end_walsenders` makes sure.
        """
        await self.open()
        rows = await self._connection.rows(
            "SELECT pg_catalog.current_setting('synchronous_standby_names')",
            deadline_s=DEADLINE_S,
        )
        members: Collection[str] = ()
        if sync is not None and sync.num_sync > 0:
            members = sync.names
        return judge_effect(
            sync_names(mode, sync), rows[0][0], members, await self.senders()
        )

    async def end_walsenders(self, pids: Collection[int]) -> None:
        """End these walsenders.

        The standbys connect again at once, to walsenders that know the settings.
        """
        await self.open()
        await self._connection.rows(
            _END_WALSENDERS, (list(pids),), deadline_s=DEADLINE_S
        )

    async def prepare_to_commit(self) -> None:
        """Connect for `commits_wait`: when commits wait, clients may take the rest."""
        await self._committing.open(deadline_s=DEADLINE_S)
        await self._committing.rows(
            "SET synchronous_commit = on", deadline_s=DEADLINE_S
        )

    async def commits_wait(self) -> bool:
        """Tell whether a commit waits, where the setting names nobody who exists.

        After a setting that was empty, that is the checkpointer's to say, and it reads
        the files only between checkpoints, or while it spreads one. Until then every
        session passes by, whatever the setting and the walsenders have.

        Source: PostgreSQL, src/backend/postmaster/checkpointer.c,
        UpdateSharedMemoryConfig; src/backend/replication/syncrep.c, SyncRepWaitForLSN.
        """
        await self.open()
        await self.prepare_to_commit()
        session = self._committing
        commit = asyncio.create_task(session.rows(_MESSAGE, deadline_s=DEADLINE_S))
        try:
            waits = await self._is_seen_to_wait(session.backend_pid, commit)
        finally:
            commit.cancel()
            await asyncio.wait([commit])
        if waits:
            await session.close()
        return waits

    async def _is_seen_to_wait(
        self, pid: int | None, commit: "asyncio.Task[list[Row]]"
    ) -> bool:
        while not commit.done():
            rows = await self._connection.rows(_WAITS, (pid,), deadline_s=DEADLINE_S)
            if rows and rows[0][0]:
                await self._connection.rows(
                    "SELECT pg_catalog.pg_cancel_backend(%s)",
                    (pid,),
                    deadline_s=DEADLINE_S,
                )
                await commit
                return True
            await asyncio.sleep(ASK_EVERY_S)
        await commit
        return False

    async def pending_restart(self) -> tuple[str, ...]:
        """Return the settings that wait for a restart; on a standby too."""
        await self.open()
        rows = await self._connection.rows(PENDING, deadline_s=DEADLINE_S)
        return tuple(row[0] for row in rows)

    async def loaded_at(self) -> str:
        """Return when this session's server process last read the files."""
        await self.open()
        rows = await self._connection.rows(_LOADED_AT, deadline_s=DEADLINE_S)
        return str(rows[0][0])

    async def limits(self) -> tuple[tuple[str, int], ...]:
        """Return what the server runs with of what a standby must not undercut."""
        await self.open()
        rows = await self._connection.rows(
            _LIMITS, (list(STANDBY_LIMITS),), deadline_s=DEADLINE_S
        )
        return tuple((row[0], int(row[1])) for row in rows)

    async def senders(self) -> tuple[WalSender, ...]:
        """Return the standbys, and whoever else streams."""
        await self.open()
        rows = await self._connection.rows(_REPLICATION, deadline_s=DEADLINE_S)
        return tuple(
            WalSender(
                name=row[0],
                state=row[1] or "",
                sync_state=row[2] or "",
                sync_priority=row[3] or 0,
                pid=row[4],
                write_lsn=parse_lsn(row[5]),
                flush_lsn=parse_lsn(row[6]),
                replay_lsn=parse_lsn(row[7]),
                host=row[8],
                reply_age_ms=row[9],
                replay_lag_ms=row[10],
            )
            for row in rows
        )

    async def write_position(self) -> Lsn:
        """Write a small record, flush it here, and return where the WAL ends.

        A standby that has flushed this far has all that was committed before. The
        commit waits for no standby (the connection's ``synchronous_commit`` is local).
        """
        await self.open()
        await self._connection.rows(_MESSAGE, deadline_s=DEADLINE_S)
        rows = await self._connection.rows(
            "SELECT pg_catalog.pg_current_wal_flush_lsn()::text", deadline_s=DEADLINE_S
        )
        return parse_lsn(rows[0][0])

    async def checkpoint(self) -> None:
        """Write a checkpoint, over a connection without time limits of the server."""
        patient = replace(self._address, statement_timeout_ms=0)
        async with connected(patient, deadline_s=DEADLINE_S) as connection:
            await connection.rows("CHECKPOINT", deadline_s=CHECKPOINT_DEADLINE_S)
