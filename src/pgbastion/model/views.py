"""What the decisions look at: frozen pictures of one instant.

All instants are milliseconds on this node's CLOCK_BOOTTIME.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pgbastion.model.cluster import ClusterState, SyncSet
from pgbastion.model.commands import Declare
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Timeline,
)
from pgbastion.model.report import NodeReport, ReplicationRow
from pgbastion.model.trouble import Trouble
from pgbastion.model.wal import Lsn, WalEnd

START_MAX_MS: Final = 60_000
"""How long a server may take from its start, or a promotion, to its first answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A node's newest report and when it came."""

    report: NodeReport
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """What each node reported last, and from when on that says something about now."""

    received: Mapping[NodeId, Received]
    fresh_since_ms: int

    def last(self, node: NodeId) -> NodeReport | None:
        """Return what a node reported last, however old; None: it never did."""
        received = self.received.get(node)
        return received.report if received is not None else None

    def fresh(self, node: NodeId) -> NodeReport | None:
        """Return what a node that lives says of itself; None: it is silent."""
        received = self.received.get(node)
        if received is None or received.at_ms < self.fresh_since_ms:
            return None
        return received.report

    def living(self) -> dict[NodeId, Received]:
        """Return the reports that are fresh."""
        return {
            node: received
            for node, received in self.received.items()
            if received.at_ms >= self.fresh_since_ms
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeAnswer:
    """A voter's word on how long ago it last confirmed a leader of an older term."""

    member_id: MemberId
    term: int
    age_ms: int
    receipt_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyAnswer:
    """What a node said after it had cut itself off from the epoch."""

    node: NodeId
    data_id: DataId
    wal_end: WalEnd | None
    """None: it could not tell, which does not count."""
    timeline_begin: Lsn | None
    """Where the timeline of ``wal_end`` forked off; None for the first timeline."""
    newest_timeline: Timeline = Timeline(0)
    """The highest id for which the node has a history file, whoever left it there."""
    holder_stopped: bool = True
    """False: it once held an epoch and cannot prove that it has ended there."""
    has_strayed: bool = False
    """It wrote as a primary on a timeline that no epoch gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyView:
    """The survey of one epoch, as far as it has come."""

    epoch: Epoch
    started_ms: int
    answers: tuple[SurveyAnswer, ...]
    asked_ms: int
    """When the silent nodes were last asked."""
    catching_up: NodeId | None = None
    """Who streams from a node that has more; None: nobody."""
    stuck: Mapping[NodeId, int] = field(default_factory=dict)
    """How often a node has come no closer by that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftView:
    """What the consensus engine says about itself."""

    member_id: MemberId
    term: int
    leader: MemberId
    is_leader: bool
    own_entry_applied: bool
    elected_ms: int
    last_answer_ms: int
    """When this leader last answered a renewal of the current epoch; 0: never."""
    voters: tuple[MemberId, ...]
    learners: tuple[MemberId, ...]
    configurations: tuple[tuple[MemberId, ...], ...]
    """Every voter set since this leader's election."""
    change_pending: bool = False
    caught_up: tuple[MemberId, ...] = ()
    """Learners whose log is close to the leader's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceCall:
    """One run of the program that switches nodes off."""

    epoch: Epoch
    """Whose holder it was called for."""
    term: int
    """In which this node led and called it."""
    started_ms: int
    ended_ms: int = 0
    """0: it runs."""
    confirmed: bool = False
    """It said that the node is off: exit code 0 within its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FencingView:
    """The program that switches nodes off, where one is configured."""

    lead_ms: int
    """So long before its lease ends a living holder begins to stop by itself."""
    call: FenceCall | None = None
    """The newest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """What the Raft leader decides on."""

    now_ms: int
    state: ClusterState
    raft: RaftView
    reports: Mapping[NodeId, Received]
    ages: tuple[AgeAnswer, ...] = ()
    ages_asked_ms: int = 0
    assigned_seen_ms: int = 0
    """When this node first saw the current assignment: patience counts from here."""
    released_seen_ms: int = 0
    """When this node first saw that the current epoch was released."""
    policy_seen_ms: int = 0
    """When this node first granted by the policy as it is now."""
    survey: SurveyView | None = None
    fencing: FencingView | None = None
    at: str = ""
    """Wall-clock time for the history."""
    lag_max_bytes: int = 1 << 20
    report_ms: int = 1_000
    """How old a report of a living node may be."""

    @property
    def known_reports(self) -> Reports:
        """What the nodes last said, and how much of it is fresh."""
        return self.reports_within(self.report_ms)

    def reports_within(self, age_ms: int) -> Reports:
        """Return the reports; one that is older than ``age_ms`` is not fresh."""
        return Reports(received=self.reports, fresh_since_ms=self.now_ms - age_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """What the shared page says."""

    epoch: Epoch
    expiry_ms: int
    released_epoch: Epoch
    ended_epoch: Epoch
    armed_epoch: Epoch
    renewing: Epoch
    """The epoch that the engine renews; 0: none."""
    asked_ms: int = 0
    """Since when a start or promotion that the guard was told of goes on; 0: none."""
    pause_revision: int = 0
    """The pause revision that the guard reads."""
    paused: bool = False
    policy_revision: int = 0
    """The policy whose timings a daemon of this node was last going by."""
    watchdog: str = "off"
    """What the guard says of its hardware watchdog."""
    unable: str = ""
    """Why nothing may become a primary here; empty: nothing is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataView:
    """What is in the data directory."""

    empty: bool
    ours: bool
    """It carries the mark of this cluster."""
    data_id: DataId | None = None
    epoch: Epoch = Epoch(0)
    """The newest epoch in which it was promoted or followed."""
    promoted_epoch: Epoch = Epoch(0)
    """The newest epoch in which its server was asked to promote."""
    cut_epoch: Epoch = Epoch(0)
    """The newest epoch from which it was cut: it follows no primary of it again."""
    was_standby: bool = False
    """Its last server was in recovery when it ended, or is now."""
    system_identifier: str | None = None
    unmarked: bool = False
    """It holds a PostgreSQL that somebody else made; ``problem`` says so too."""
    timeline: Timeline | None = None
    """Stopped and never in an epoch: the newest timeline that it knows."""
    emptied: bool = False
    """It is empty for a copy that needs the room, and that is not done yet."""
    problem: str | None = None
    """Why it cannot be used, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresView:
    """What this node's PostgreSQL is doing."""

    running: bool
    """Whether the guard has a postmaster, or one that is not "stopped" yet."""
    started_as_primary: bool = False
    """Started without ``standby.signal``, or asked to promote since its start."""
    adopted: bool = False
    """Found running and not started by the guard."""
    in_recovery: bool | None = None
    """None: it has not answered since its start."""
    timeline: Timeline | None = None
    wal_end: WalEnd | None = None
    earlier_end: Lsn | None = None
    """The end of a primary's WAL a moment ago: who keeps up has flushed that."""
    replayed: WalEnd | None = None
    """Up to where a standby's data surely hold WAL."""
    promoted_at: Lsn | None = None
    """The end of the promotion: what standbys must have flushed past."""
    promoted_ms: int = 0
    """When the promotion was seen to have ended."""
    promote_asked: bool = False
    """Whether this daemon asked this postmaster to promote."""
    following: NodeId | None = None
    following_epoch: Epoch = Epoch(0)
    streaming: bool = False
    evidence_ms: int = 0
    """When the server and its disks last answered."""
    started_ms: int = 0
    server_sync: SyncSet | None = None
    """The set in the server's setting; None: it names nobody who exists."""
    sync_reworded: bool = False
    """The same set has to be written in other words: the mode has changed."""
    sync_confirmed: bool = False
    """Whether that is effective in every walsender, and flushed past since."""
    replication: tuple[ReplicationRow, ...] = ()
    slots: tuple[NodeId, ...] | None = None
    """The members that have a slot; None: not read yet."""
    watched_ms: int = 0
    """Since when this daemon watches: who has said nothing is silent from here on."""
    checkpointed: bool = False
    """Whether a checkpoint was completed on the current timeline."""
    ended_ms: int = 0
    """When the server's processes were last seen to have ended; 0: never."""
    ended_before_ms: int = 0
    """The same of the time before that."""
    child_died: bool = False
    """It ended because one of its processes had died, as when memory runs out."""
    start_failures: int = 0
    """Starts that failed in a row."""
    start_failed_ms: int = 0
    start_failure: str = ""
    """What it said when the newest of them failed."""


class RejoinStep(StrEnum):
    """What a stopped data directory needs to follow the primary."""

    FOLLOW = "follow"
    RECOVER = "recover"
    REWIND = "rewind"
    COPY = "copy"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class RejoinView:
    """What the rejoin ladder found out about a stopped data directory."""

    step: RejoinStep
    detail: str
    epoch: Epoch
    """The epoch of the primary that it was compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The profile's bounds, in milliseconds."""

    lease_ms: int
    stop_ms: int
    margin_ms: int
    evidence_max_ms: int
    sync_silent_ms: int
    start_max_ms: int = START_MAX_MS
    slots_ttl_ms: int = 0
    """How long WAL is kept for a silent member; 0: as long as it is one."""
    restart_ms: int = 0
    """How long a crashed primary may take to be one again; 0: a ready standby is
    preferred at once."""
    retry_ms: int = 1_000
    lease_least_ms: int = 0
    """The shortest lease that these bounds, and an election, fit into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What a node decides on for itself."""

    now_ms: int
    node: NodeId
    member_id: MemberId
    incarnation: Incarnation
    state: ClusterState
    lease: LeaseView
    data: DataView
    postgres: PostgresView
    reports: Mapping[NodeId, Received]
    limits: Limits
    trouble: Trouble | None = None
    """What did not answer or write when the server was last asked."""
    job: str | None = None
    """The long step that is under way."""
    job_failed: str | None = None
    job_failed_ms: int = 0
    job_took_ms: int = 0
    """How long the one that failed had gone on."""
    ended_at: WalEnd | None = None
    """Where the server ended cleanly, once it was stopped for that."""
    rejoin: RejoinView | None = None
    data_changed: bool = False
    """The end of WAL was not the surveyed one when the promotion was to begin."""
    prepared: str = ""
    """The order for which all is prepared on this node."""
    begun_ms: int = 0
    """When this node first saw that the open order was begun."""
    opened_ms: int = 0
    """When this node first saw that the current epoch was opened; 0: it is not."""
    checkpointing: bool = False
    """A checkpoint that was asked for is under way."""
    sync_unsettled: bool = False
    """A change of the synchronous set was proposed, and no outcome is known since."""
    silent_since_ms: Mapping[str, int] = field(default_factory=dict)
    """Since when a member of the synchronous set has not streamed, by name."""
    addresses_held: bool = False
    """A virtual address is, or may be, on this node."""
    policy_revision: int = 0
    """The policy whose timings this daemon goes by; -1: it knows none yet."""
    unpaced: str = ""
    """Why this node refuses to go by the cluster's profile."""
    woke_ms: int = 0
    """When this daemon began, or last went on after it had stood still."""
    at: str = ""
    witness: bool = False
    declaration: Declare | None = None
    """What the replicated member record lacks of this node."""

    def reports_within(self, age_ms: int) -> Reports:
        """Return the reports; one that is older than ``age_ms`` is not fresh."""
        return Reports(received=self.reports, fresh_since_ms=self.now_ms - age_ms)
