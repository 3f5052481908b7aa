"""What a node tells the others about itself, several times a second.

Volatile: it never goes through the log. Sent to every member by the consensus
engine's broadcast, so that a new leader knows at once what the former one knew.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Final

from pydantic import TypeAdapter, ValidationError

from pgbastion.model.addresses import AddressReport
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.profile import Profile
from pgbastion.model.settings import NodeSettings
from pgbastion.model.trouble import SILENCE, Trouble
from pgbastion.model.wal import Lsn, WalEnd

REPORT_VERSION: Final = 1
DETAIL_CHARS_MAX: Final = 300


class PostgresState(StrEnum):
    """What a node's PostgreSQL is doing, as its daemon sees it."""

    NONE = "none"
    """A witness."""
    EMPTY = "empty"
    """No data directory yet."""
    STOPPED = "stopped"
    STARTING = "starting"
    """A process runs and has not answered yet, or not for a while."""
    STANDBY = "standby"
    PRIMARY = "primary"
    COPYING = "copying"
    """A copy, a rewind, a crash recovery or initdb is under way."""
    FAILED = "failed"
    """It cannot go on without a human; the reason says why."""


_NO_SERVER: Final = frozenset(
    {PostgresState.EMPTY, PostgresState.STOPPED, PostgresState.COPYING}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationRow:
    """One row of ``pg_stat_replication`` on the primary."""

    name: str
    streaming: bool
    flush_lsn: Lsn
    sync_state: str
    silent_ms: int | None = None
    """How long ago the standby last said something, by the primary's clock."""
    write_lsn: Lsn | None = None
    replay_lag_ms: int | None = None
    """From writing WAL here until the standby said that it replayed it; None: idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """A replication slot of the primary, and what it costs."""

    name: str
    kind: str
    """``physical`` or ``logical``."""
    active: bool
    restart_lsn: Lsn | None
    wal_status: str
    retained_bytes: int | None
    """WAL that the server keeps for it."""
    node: NodeId | None = None
    """The member that it is for; None: somebody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system under the data or the WAL."""

    holds: str
    """``data`` (and the WAL too, where that has none of its own) or ``wal``."""
    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is watched, and decides nothing."""

    probe_ms: int
    """How long the server and its disks took to answer the last probe."""
    slots: tuple[SlotRow, ...] = ()
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """How a node saw the newest change of the primary."""

    epoch: Epoch
    """The epoch that ended it."""
    gap_ms: int
    sessions: int
    """Sessions of its proxy that ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node's own word about itself."""

    node: NodeId
    version: str
    """The release of pgbastion."""
    state: PostgresState
    reason: str
    """The reason of the node's last decision."""
    detail: str = ""
    """What that decision adds to its reason: what failed, for instance."""
    data_id: DataId | None = None
    system_identifier: str | None = None
    postgres_version: int | None = None
    wal_end: WalEnd | None = None
    earlier_end: Lsn | None = None
    """Where a primary's WAL ended a probe before: who keeps up has that by now."""
    replay_lsn: Lsn | None = None
    epoch: Epoch = Epoch(0)
    """The newest epoch in which this data directory was promoted or followed."""
    promoted: bool = False
    """Whether it runs as the primary of ``epoch``."""
    accepting: bool = False
    """Whether clients may come: opened, the synchronous set is in force, and what the
    server had when it was started is confirmed."""
    server_ms: int = 0
    """When its server was started, on the node's own clock: tells one server from the
    next. 0: none runs, or nobody knows."""
    history: tuple[tuple[Timeline, Lsn], ...] = ()
    """A primary's newest ancestors: each timeline and where it was left."""
    checkpointed: Timeline | None = None
    """The timeline of the last checkpoint, for pg_rewind's sake."""
    timeline: Timeline | None = None
    """The newest timeline of a stopped data directory that was in no epoch yet."""
    adopted: bool = False
    """Its server was found running, and the guard only watches it."""
    pending_restart: tuple[str, ...] = ()
    """Settings of its server that wait for a restart."""
    following: NodeId | None = None
    streaming: bool = False
    stream_failure: str = ""
    """With what a standby's newest attempt to stream ended."""
    replication: tuple[ReplicationRow, ...] = ()
    replay_paused: bool = False
    """Somebody has its standby wait with what it has received."""
    trouble: Trouble | None = None
    """What did not answer or write when its server was last asked."""
    unable: str = ""
    """Why it must not become a primary, whatever it has; empty: it may."""
    flaws: tuple[str, ...] = ()
    """What would make it a poor primary, as it found on itself."""
    watchdog: str = "off"
    """Its hardware watchdog: ``off``, ``idle``, ``armed`` or ``unusable``."""
    answers: bool = False
    """Whether its server answered when it was last asked: one that is frozen, or waits
    for its disk after a kill, claims nothing."""
    unwatched_primaries: tuple[NodeId, ...] = ()
    """Members whose server answered this node as a primary while no daemon of theirs
    spoke for it."""
    holding: str = ""
    """The order for which this node's proxy lets new clients wait."""
    draining: bool = False
    """It is being taken out for maintenance: no new sessions."""
    leaving: bool = False
    """Its server is about to end cleanly: no commit should wait for it any more."""
    addresses: AddressReport | None = None
    """Its virtual addresses; None: it has none configured."""
    outage: Outage | None = None
    progress: str | None = None
    """How far a copy or rewind has come, in words."""
    vitals: Vitals | None = None
    policy_revision: int | None = None
    """The policy whose timings it goes by; None: of an earlier release."""
    unpaced: str = ""
    """Why it refuses to go by the cluster's profile."""
    file_profile: Profile | None = None
    """What its own file says; it counts when a cluster is founded only."""
    settings: NodeSettings | None = None
    """What its running server has of the cluster's settings."""

    @property
    def serves_nobody(self) -> bool:
        """Whether its server is stopped, or was asked and did not answer."""
        stopped = self.state in _NO_SERVER or self.state is PostgresState.FAILED
        return stopped or self.trouble in SILENCE

    @property
    def files_lost(self) -> bool:
        """Whether its server runs and flushes into what nobody may find again."""
        return self.trouble is Trouble.DISK_FAILED and self.state not in _NO_SERVER


# What changes with every write or look, or beside everything that is decided.
_RESTLESS: Final = frozenset(
    {
        "detail",
        "wal_end",
        "earlier_end",
        "replay_lsn",
        "replication",
        "stream_failure",
        "progress",
        "vitals",
    }
)
_lasting = attrgetter(*(f.name for f in fields(NodeReport) if f.name not in _RESTLESS))


def lasting(report: NodeReport) -> tuple[object, ...]:
    """Return what a decision could depend on, beyond positions in the WAL."""
    return tuple(_lasting(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    v: int
    r: NodeReport


_ENVELOPE: Final = TypeAdapter(_Envelope)


def encode_report(report: NodeReport) -> bytes:
    """Return a report's bytes for the wire."""
    return _ENVELOPE.dump_json(_Envelope(v=REPORT_VERSION, r=report))


def decode_report(data: bytes) -> NodeReport | None:
    """Read a report; None if it is none of a version that we know."""
    try:
        envelope = _ENVELOPE.validate_json(data)
    except ValidationError:
        return None
    return envelope.r if envelope.v == REPORT_VERSION else None
