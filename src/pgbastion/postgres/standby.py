"""What is done to a running standby: cut it, point it elsewhere, promote it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.ids import Epoch, Timeline
from pgbastion.model.wal import Lsn, WalEnd, parse_lsn
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.config_files import ConfigFiles
from pgbastion.postgres.connection import (
    Address,
    Connection,
    ServerAnsweredError,
    ServerSilentError,
)
from pgbastion.postgres.files import Files
from pgbastion.postgres.history import HistoryFiles
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.mark import Mark, MarkFile
from pgbastion.postgres.render import Upstream, Volatile, sync_names

QUERY_DEADLINE_S: Final = 2.0
# PostgreSQL announces none of the changes that are waited for here, so it is asked this
# often; each of these waits ends within some tens of milliseconds.
ASK_EVERY_S: Final = 0.003
REACH_ASK_EVERY_S: Final = 0.02
NO_NEARER_S: Final = 5.0
"""A standby that comes no nearer for so long cannot read from where it is to."""

_RECEIVER: Final = "SELECT r.pid FROM pg_catalog.pg_stat_wal_receiver AS r"
_SETTINGS: Final = """
SELECT pg_catalog.current_setting('primary_conninfo') = '',
       pg_catalog.current_setting('synchronous_standby_names')
"""
# The start-up process waits in one of these once it has replayed all on the disk.
_WAITS_FOR_WAL: Final = """
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.pg_last_wal_receive_lsn()::text,
       EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.backend_type = 'startup'
                  AND a.wait_event IN ('RecoveryWalStream',
                                       'RecoveryRetrieveRetryInterval'))
"""
_PROMOTED: Final = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_current_wal_flush_lsn()::text END
"""

log = get_logger("postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The end of WAL cannot be told; this does not count in a survey."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """A promotion has ended."""

    timeline: Timeline
    lsn: Lsn
    """What a standby must have flushed to have all of the promotion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What a cut standby says about its WAL."""

    timeline: Timeline
    """The timeline of replay."""
    lsn: Lsn
    """The end of WAL that it could send on, on that timeline."""
    received: Lsn | None
    """What the WAL receiver has flushed since the server's start, on its timeline."""
    waits_for_wal: bool
    """Everything on the disk has been replayed."""


def judge_end(position: Position) -> WalEnd | None:
    """Return the end of valid WAL on the disk of a cut standby; None: not known yet.

    ``received`` alone is null after a restart, and begins anew at the first byte of a
    segment when the timeline changes. Replay alone lags. The server's own answer to
    IDENTIFY_SYSTEM is the higher of both where they are of one timeline, and replay
    where they are not; so only WAL received on a timeline that replay has not reached
    yet is missing from it, and WAL of before the start that was not replayed yet.
    """
    if position.received is None:
        known = position.waits_for_wal
    else:
        known = position.waits_for_wal or position.lsn >= position.received
    return WalEnd(timeline=position.timeline, lsn=position.lsn) if known else None


class Standby:
    """One running standby, over a connection that is used for nothing else."""

    def __init__(
        self,
        paths: PgPaths,
        address: Address,
        files: Files,
        config: ConfigFiles,
        mark: MarkFile,
    ) -> None:
        self._paths = paths
        self._connection = Connection(address)
        self._replication = Connection(
            Address(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                dbname=address.dbname,
                replication=True,
            )
        )
        self._files = files
        self._config = config
        self._mark = mark
        self._histories = HistoryFiles(paths, files)

    async def warm(self) -> None:
        """Connect beforehand, so that a failover need not."""
        if not self._connection.is_open:
            await self._connection.open(deadline_s=QUERY_DEADLINE_S)
        await self._replication.open(deadline_s=QUERY_DEADLINE_S)

    async def close(self) -> None:
        """Close the connections: before a stop, and before the next start."""
        await self._connection.close()
        await self._replication.close()

    async def cut(self, epoch: Epoch, *, deadline_s: float) -> WalEnd | Unknown:
        """Cut the standby durably off from ``epoch`` and return the end of its WAL.

        When this returns no WAL receiver runs, and none can start: the setting is
        empty, and a connection string from before finds no password any more.

        Raises:
            PostgresError: It may still receive. Nothing may be concluded.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self.warm()
                receiver = await self._receiver()
                await self.cut_files(epoch)
                await self._reload()
                await self._wait_until_gone(receiver)
        except TimeoutError as exc:
            raise PostgresError("the WAL receiver did not end in time") from exc
        return await self.wal_end(deadline_s=deadline_s)

    async def cut_files(self, epoch: Epoch) -> Mark:
        """Make the cut durable, all that a stopped server needs; return the mark."""
        mark = await self._mark.update(cut=epoch)
        await self._config.sanitise()
        await self._config.write_volatile(Volatile(), mark.data_id)
        return mark

    async def wal_end(self, *, deadline_s: float) -> WalEnd | Unknown:
        """Return the end of WAL of a cut standby, as soon as it can be told."""
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    end = judge_end(await self._position())
                    if end is not None:
                        return end
                    await asyncio.sleep(ASK_EVERY_S)
        except TimeoutError:
            return Unknown(reason="replay has not reached the end of the local WAL")
        except PostgresError as exc:
            return Unknown(reason=str(exc))

    async def follow(self, upstream: Upstream, epoch: Epoch) -> None:
        """Point the standby at the primary of ``epoch``, by a reload.

        Raises:
            PostgresError: It was cut from this epoch, or has seen a newer one.
        """
        await self.follow_files(upstream, epoch)
        await self._connection.open(deadline_s=QUERY_DEADLINE_S)
        await self._reload()

    async def follow_files(self, upstream: Upstream, epoch: Epoch) -> None:
        """Write whom to follow, for a server that is about to start."""
        mark = await self._mark.read()
        if mark is None or epoch < mark.epoch or epoch <= mark.cut_epoch:
            raise PostgresError(
                f"the primary of epoch {epoch} must not be followed here any more"
            )
        await self._mark.update(epoch=epoch)
        await self._config.sanitise()
        await self._config.write_volatile(Volatile(upstream=upstream), mark.data_id)

    async def read_from(self, upstream: Upstream, epoch: Epoch) -> None:
        """Have a standby that is cut from ``epoch`` read WAL of one that is, too.

        Raises:
            PostgresError: It is not cut from that epoch, or was cut from a later one.
        """
        mark = await self._mark.read()
        if mark is None or mark.cut_epoch != epoch or mark.epoch > epoch:
            raise PostgresError(f"it is not cut from epoch {epoch} as its newest one")
        await self._config.sanitise()
        await self._config.write_volatile(
            Volatile(upstream=upstream, passing=True), mark.data_id
        )
        await self._connection.open(deadline_s=QUERY_DEADLINE_S)
        await self._reload()

    async def reach(self, upto: WalEnd) -> None:
        """Wait until all WAL up to there is on this standby's disk.

        Raises:
            PostgresError: It comes no nearer, or does not answer.
        """
        time = asyncio.get_running_loop().time
        nearest, moved_s = None, time()
        while time() < moved_s + NO_NEARER_S:
            end = judge_end(await self._position())
            if end is not None and end >= upto:
                return
            if end is not None and end != nearest:
                nearest, moved_s = end, time()
            await asyncio.sleep(REACH_ASK_EVERY_S)
        raise PostgresError(f"it does not come nearer to {upto} than {nearest}")

    async def promote(
        self,
        epoch: Epoch,
        timeline: Timeline,
        *,
        signal_postmaster: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Ask the standby, which must be cut, to promote to ``timeline``.

        Returns once it was asked; `promoted` tells when it is done.

        Args:
            epoch: The epoch that begins with it; noted in the mark before.
            timeline: The id to take: history files make it the next free one.
            signal_postmaster: How a postmaster is signalled that takes no connection.

        Raises:
            TimelineTaken: There is a timeline of this id, or a later one.
            PostgresError: It is not cut, or nobody answers.
        """
        if not await self.is_cut():
            raise PostgresError("a standby that still receives is not promoted")
        names = (await self._settings())[1]
        if names != sync_names(ReplicationMode.QUORUM, None):
            raise PostgresError(
                "a standby is not promoted whose synchronous_standby_names are"
                f" {names!r}: it would acknowledge commits alone"
            )
        current = (await self._identify()).timeline
        await self._histories.write_missing(current, timeline)
        await self._mark.update(promoted=epoch, timeline=timeline)
        try:
            await self._connection.rows(
                "SELECT pg_catalog.pg_promote(false)", deadline_s=QUERY_DEADLINE_S
            )
        except ServerSilentError:
            if signal_postmaster is None:
                raise
            await self._files.write(self._paths.data_dir / "promote", "")
            await signal_postmaster(signal.SIGUSR1)

    async def is_cut(self) -> bool:
        """Tell whether the running server follows nobody, whatever its files say."""
        await self._connection.open(deadline_s=QUERY_DEADLINE_S)
        return (await self._settings())[0] and await self._receiver() is None

    async def promoted(self, *, deadline_s: float) -> Promoted | None:
        """Wait until the server accepts writes; None: it does not within the deadline.

        Raises:
            ServerSilentError: It does not answer.
        """
        until = asyncio.get_running_loop().time() + deadline_s
        while (left := until - asyncio.get_running_loop().time()) > 0:
            await self._connection.open(deadline_s=left)
            try:
                row = (await self._connection.rows(_PROMOTED, deadline_s=left))[0]
            except ServerAnsweredError:
                # Recovery ended between two functions of the statement.
                row = (None, None)
            if row[0] is not None:
                return Promoted(
                    timeline=Timeline(int(row[0][:8], 16)), lsn=parse_lsn(row[1])
                )
            await asyncio.sleep(ASK_EVERY_S)
        return None

    async def _reload(self) -> None:
        await self._connection.rows(
            "SELECT pg_catalog.pg_reload_conf()", deadline_s=QUERY_DEADLINE_S
        )

    async def _receiver(self) -> int | None:
        rows = await self._connection.rows(_RECEIVER, deadline_s=QUERY_DEADLINE_S)
        return rows[0][0] if rows else None

    async def _settings(self) -> tuple[bool, str]:
        """Return whether nobody is to be followed, and whom commits wait for."""
        rows = await self._connection.rows(_SETTINGS, deadline_s=QUERY_DEADLINE_S)
        return rows[0][0], rows[0][1]

    async def _wait_until_gone(self, receiver: int | None) -> None:
        while True:
            current = await self._receiver()
            gone = current is None and (receiver is None or not is_alive(receiver))
            if gone and (await self._settings())[0]:
                return
            receiver = current or receiver
            await asyncio.sleep(ASK_EVERY_S)

    async def _position(self) -> Position:
        await self._connection.open(deadline_s=QUERY_DEADLINE_S)
        # The order matters: what waits for WAL now has replayed what comes before.
        rows = await self._connection.rows(_WAITS_FOR_WAL, deadline_s=QUERY_DEADLINE_S)
        in_recovery, received, waits = rows[0]
        if not in_recovery:
            # Somebody has promoted it: its timeline is one that no epoch gave it.
            raise PostgresError("it is a standby no longer")
        end = await self._identify()
        return Position(
            timeline=end.timeline,
            lsn=end.lsn,
            received=None if received is None else parse_lsn(received),
            waits_for_wal=waits,
        )

    async def _identify(self) -> WalEnd:
        await self._replication.open(deadline_s=QUERY_DEADLINE_S)
        rows = await self._replication.rows(
            "IDENTIFY_SYSTEM", deadline_s=QUERY_DEADLINE_S
        )
        return WalEnd(timeline=Timeline(int(rows[0][1])), lsn=parse_lsn(rows[0][2]))


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
