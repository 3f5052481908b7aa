"""Ask the server and its disks whether they answer, and what the server's state is."""

import asyncio
from dataclasses import dataclass
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, parse_lsn
from pgbastion.platform.choice import current
from pgbastion.postgres.connection import (
    Address,
    Connection,
    Row,
    ServerAnsweredError,
    ServerSilentError,
)
from pgbastion.postgres.disk import DiskAnswer, DiskWorker
from pgbastion.postgres.hello import Hello, hello

_FACTS: Final = """
SELECT pg_catalog.pg_is_in_recovery(),
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.pg_current_wal_flush_lsn()::text END,
       pg_catalog.pg_last_wal_receive_lsn()::text,
       pg_catalog.pg_last_wal_replay_lsn()::text,
       CASE WHEN pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END,
       (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() AS c),
       pg_catalog.floor(1000000 * extract(
           epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint,
       pg_catalog.current_setting('synchronous_standby_names'),
       r.pid, r.status, r.sender_host, r.sender_port, r.received_tli,
       r.flushed_lsn::text, c.min_recovery_end_timeline, c.min_recovery_end_lsn::text,
       pg_catalog.pg_conf_load_time()::text
  FROM pg_catalog.pg_control_recovery() AS c
  LEFT JOIN pg_catalog.pg_stat_wal_receiver AS r ON true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalReceiver:
    """The process of a standby that streams."""

    pid: int
    status: str
    host: str | None
    port: int | None
    timeline: Timeline | None
    flushed: Lsn | None

    @property
    def is_streaming(self) -> bool:
        """Whether WAL comes in."""
        return self.status == "streaming"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What the server said about itself at one instant."""

    in_recovery: bool
    timeline: Timeline | None
    """Where a primary writes, or a standby's WAL receiver receives."""
    checkpoint_timeline: Timeline
    """Where the latest checkpoint, or restart point, is."""
    flush_lsn: Lsn | None
    """A primary's end of durable WAL."""
    receive_lsn: Lsn | None
    """What a standby has flushed since its start; null or small after one."""
    replay_lsn: Lsn | None
    replayed: WalEnd | None
    """Up to where the data of a standby surely hold WAL: what pg_control says."""
    replay_paused: bool
    receiver: WalReceiver | None
    sync_names: str
    started_us: int
    """When the postmaster was started: microseconds of its wall clock, an identity."""
    loaded_at: str
    """When it last read its files, whoever had it do so: an identity."""
    postmaster_pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe; ``evidence_ns`` is when server and disks surely lived still."""

    sent_ns: int
    answered_ns: int
    evidence_ns: int | None
    """The earlier of the instants of asking, where both answered; else None."""
    reason: str
    """In words: why there is no evidence, or why a living server tells nothing."""
    facts: ServerFacts | None
    disk: DiskAnswer
    postmaster: Hello | None = None
    """What a new connection was told, if one was tried."""
    postmaster_silent: bool = False
    """A new connection was tried and got no answer."""
    session_answered: bool = True
    """Whether the warm session, or whoever refused one, answered."""


class Probe:
    """Looks at one server over a warm connection of its own."""

    def __init__(self, address: Address, disk: DiskWorker) -> None:
        self._address = address
        self._disk = disk
        self._connection = Connection(address)

    async def look(self, *, deadline_s: float, fresh: bool = False) -> ProbeResult:
        """Ask the server and its disks at the same time.

        Args:
            deadline_s: How long both may take.
            fresh: Also try a new connection: evidence of the postmaster only.
        """
        sent_ns = boottime_ns()
        async with asyncio.TaskGroup() as group:
            disk = group.create_task(self._disk.check(deadline_s=deadline_s))
            query = group.create_task(self._query(deadline_s))
            greeting = None
            if fresh:
                greeting = group.create_task(
                    hello(self._address, deadline_s=deadline_s)
                )
        answer, checked = query.result(), disk.result()
        greeted = greeting.result() if greeting is not None else None
        good = answer.alive and checked.is_good
        return ProbeResult(
            sent_ns=sent_ns,
            answered_ns=boottime_ns(),
            evidence_ns=min(sent_ns, checked.sent_ns) if good else None,
            reason="; ".join(filter(None, (answer.reason, _disk_reason(checked)))),
            facts=answer.facts,
            disk=checked,
            postmaster=greeted,
            postmaster_silent=fresh and greeted is None,
            session_answered=answer.alive,
        )

    async def close(self) -> None:
        """Close the connection. The next look opens a new one."""
        await self._connection.close()

    async def _query(self, deadline_s: float) -> "_Answer":
        until = asyncio.get_running_loop().time() + deadline_s
        if not self._connection.is_open:
            refused = await self._open(until)
            if refused is not None:
                return refused
        try:
            rows = await self._connection.rows(_FACTS, deadline_s=_left(until))
        except ServerAnsweredError as exc:
            return _Answer(alive=True, reason=f"{exc.sqlstate}: {exc}")
        except ServerSilentError as exc:
            return _Answer(alive=False, reason=str(exc))
        return _Answer(alive=True, facts=_facts(rows[0], self._connection.backend_pid))

    async def _open(self, until: float) -> "_Answer | None":
        try:
            await self._connection.open(deadline_s=_left(until))
        except ServerSilentError as exc:
            if isinstance(exc.__cause__, TimeoutError):
                return _Answer(alive=False, reason=str(exc))
            # Refused: by a living server, with a reason, or because there is none.
            greeted = await hello(self._address, deadline_s=_left(until))
            if greeted is None:
                return _Answer(alive=False, reason=str(exc))
            if greeted.sqlstate is None:
                return _Answer(alive=True, reason=str(exc))
            return _Answer(alive=True, reason=f"{greeted.sqlstate}: {greeted.message}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    alive: bool
    reason: str = ""
    facts: ServerFacts | None = None


def _left(until: float) -> float:
    return max(0.001, until - asyncio.get_running_loop().time())


def _disk_reason(answer: DiskAnswer) -> str:
    if answer.answered_ns is None:
        return "an fsync of the disk is under way"
    return answer.error or ""


def _facts(row: Row, backend_pid: int | None) -> ServerFacts:
    receiver = None
    if row[9] is not None:
        receiver = WalReceiver(
            pid=row[9],
            status=row[10] or "",
            host=row[11],
            port=row[12],
            timeline=Timeline(row[13]) if row[13] else None,
            flushed=_lsn(row[14]),
        )
    timeline = Timeline(int(row[1][:8], 16)) if row[1] else None
    if timeline is None and receiver is not None:
        timeline = receiver.timeline
    return ServerFacts(
        in_recovery=row[0],
        timeline=timeline,
        flush_lsn=_lsn(row[2]),
        receive_lsn=_lsn(row[3]),
        replay_lsn=_lsn(row[4]),
        replayed=_replayed(row[15], row[16]) if row[0] else None,
        replay_paused=row[5],
        checkpoint_timeline=Timeline(row[6]),
        started_us=row[7],
        loaded_at=row[17],
        sync_names=row[8],
        receiver=receiver,
        postmaster_pid=_parent(backend_pid),
    )


def _replayed(timeline: int, text: str) -> WalEnd | None:
    lsn = parse_lsn(text)
    return WalEnd(timeline=Timeline(timeline), lsn=lsn) if lsn else None


def _lsn(text: str | None) -> Lsn | None:
    return None if text is None else parse_lsn(text)


def _parent(backend_pid: int | None) -> int | None:
    """Return the parent of a backend, which is the postmaster. It never blocks."""
    if backend_pid is None:
        return None
    try:
        found = current().stat(backend_pid)
    except OSError:
        return None
    return None if found is None else found.parent
