"""What a node knows at one instant, for those who ask it: API, metrics, commands.

Taken from memory in microseconds; nothing in it waits for PostgreSQL, a disk or
another node. Instants are milliseconds on this node's CLOCK_BOOTTIME.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pgbastion.model.addresses import (
    AddressCounts,
    AddressRole,
    AddressState,
    AddressStatus,
)
from pgbastion.model.claims import Claim
from pgbastion.model.cluster import ClusterState, Member, ReplicationMode
from pgbastion.model.gossip import GossipView
from pgbastion.model.ids import Epoch, MemberId, NodeId, standby_name
from pgbastion.model.reasons import SENTENCES, Reason
from pgbastion.model.recording import RecordedDecision
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Received, Reports


class NodeRole(StrEnum):
    """What a node is at this instant; the words of ``GET /health``."""

    PRIMARY = "primary"
    """It holds the primary role, runs as such, and its lease has not run out."""
    STANDBY = "standby"
    WITNESS = "witness"
    FENCED = "fenced"
    """It is, or just was, a primary that may not take writes any more, or an operator
    fenced it."""
    STARTING = "starting"
    """None of the others yet: joining, copying, recovering, or stopped."""


class SyncRole(StrEnum):
    """Whether commits wait for a standby; Patroni's words."""

    SYNC = "sync_standby"
    QUORUM = "quorum_standby"
    ASYNC = "replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftPeer:
    """Another member of the Raft group, as the engine knows it."""

    member_id: MemberId
    address: str
    matched: int | None
    """The newest log index that it is known to have; only a leader knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSnapshot:
    """What the consensus engine says about itself."""

    role: str
    """``leader``, ``follower``, ``candidate``, ``precandidate`` or ``learner``."""
    term: int
    leader: MemberId
    """0: no leader is known."""
    voters: tuple[MemberId, ...]
    learners: tuple[MemberId, ...]
    committed: int
    applied: int
    last_index: int
    peers: tuple[RaftPeer, ...] = ()
    writing_ms: int = 0
    """For how long the log's disk has owed a write; 0: it owes none."""

    @property
    def quorum(self) -> int:
        """How many voters have to agree."""
        return len(self.voters) // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSnapshot:
    """This node's lease on the primary role."""

    epoch: Epoch = Epoch(0)
    left_ms: int = 0
    """How long it lasts; 0: it has none, or it has run out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSnapshot:
    """The certificate that this node shows to the others; instants are wall-clock."""

    subject: str
    places: tuple[str, ...]
    """Addresses and host names that it is for."""
    own: bool
    """The node signs and renews it itself; else it is the operator's."""
    expires_s: int
    """Seconds since 1970."""
    authority_expires_s: int
    left_s: int
    expires_soon: bool

    @property
    def days_left(self) -> int:
        """Whole days until it expires."""
        return self.left_s // 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCertificateSnapshot:
    """The certificate of the API's ports; instants are wall-clock."""

    expires_s: int
    """Seconds since 1970."""
    left_s: int
    expires_soon: bool

    @property
    def words(self) -> str:
        """When it ends, for people."""
        if self.left_s < 0:
            return "has expired: clients refuse it"
        return f"expires in {self.left_s // 86_400} days"


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipSnapshot:
    """What gossip has told this node; a hint, never a reason to decide."""

    running: bool = False
    view: GossipView = field(default_factory=GossipView)
    clashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that several nodes have, with the Raft address of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSnapshot:
    """The newest decision and what made it concrete."""

    reason: Reason
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The reason as a clause for people."""
        return SENTENCES[self.reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSnapshot:
    """Where this node's proxy sends clients, and why nowhere if so."""

    primary: Member | None = None
    primary_reason: str = ""
    replicas: tuple[Member, ...] = ()
    replica_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTraffic:
    """Sessions and bytes of one server through one port since the proxy's start."""

    service: str
    """``primary`` or ``replica``: the port."""
    node: str
    sessions: int
    sessions_total: int
    bytes_to_server: int
    bytes_to_client: int
    failures_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """One client of the proxy."""

    port: str
    """``primary``, ``replica`` or ``any``."""
    client: str
    state: str
    """``opening``, ``waiting`` or ``open``."""
    age_s: float
    node: str
    epoch: int
    path: str
    """What moves its bytes: ``kernel`` or ``userspace``."""
    user: str
    """Empty where TLS hides it, like the two that follow."""
    database: str
    application: str
    encryption: str
    """``none``, ``passthrough`` or ``terminated``."""
    bytes_to_server: int
    bytes_to_client: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCounts:
    """The proxy's counters at one instant."""

    connections: int = 0
    opening: int = 0
    """Clients that have not finished their first packet."""
    held: int = 0
    """Clients that wait for a server."""
    held_total: int = 0
    held_oldest_s: float = 0.0
    """For how long the first of them has waited."""
    held_seconds_total: float = 0.0
    accepted_total: int = 0
    superseded_total: int = 0
    """Sessions closed because their primary is none any more."""
    cancels_total: int = 0
    cancels_dropped_total: int = 0
    data_path: str = ""
    data_path_reason: str = ""
    in_kernel: int = 0
    """Sessions whose bytes the kernel moves."""
    kernel_refused_total: int = 0
    draining: bool = False
    drain_left_s: float = 0.0
    sessions: Callable[[], Iterable[SessionFacts]] = tuple
    """Every client that is there; made when it is called, so at once."""
    refused_total: Mapping[str, int] = field(default_factory=dict)
    """Clients that got no session, by reason."""
    traffic: tuple[BackendTraffic, ...] = ()


GAP_BOUNDS_S: Final = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """How long this node knew no primary for clients, since the daemon's start."""

    counts: tuple[int, ...] = (0,) * (len(GAP_BOUNDS_S) + 1)
    """Ended gaps up to each of `GAP_BOUNDS_S`, not cumulated; the last: longer ones."""
    sum_s: float = 0.0
    newest_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceCounts:
    """Runs of the program that switches nodes off, by what came of them."""

    confirmed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """Everything that a node answers questions from."""

    now_ms: int
    node: NodeId
    member_id: MemberId
    """0: this node is not a member yet."""
    witness: bool
    state: ClusterState
    reports: Mapping[NodeId, Received]
    """The newest report of each member, this node included."""
    report_max_ms: int
    """An older report says nothing about now."""
    raft: RaftSnapshot
    lease: LeaseSnapshot
    view_left_ms: int
    """For how long this node's knowledge may still be acted on; 0: it is too old."""
    node_decision: DecisionSnapshot
    cluster_decision: DecisionSnapshot
    routes: RouteSnapshot
    count_proxy: Callable[[], ProxyCounts]
    """Counts what the proxy carries, session by session; checks do not ask for it."""
    version: str
    commit: str
    cluster_name: str = ""
    """What this node's file calls its cluster."""
    lag_max_bytes: int = 1 << 20
    """How far behind a standby may be promoted in asynchronous mode."""
    claims: tuple[Claim, ...] = ()
    """Servers that claim the primary role without having it: a split brain."""
    gossip: GossipSnapshot = field(default_factory=GossipSnapshot)
    certificate: CertificateSnapshot | None = None
    """None: the transport between the nodes is plain, as the configuration says."""
    api_certificate: ApiCertificateSnapshot | None = None
    """None: the API speaks plain HTTP, as the configuration says."""
    records: tuple[RecordedDecision, ...] = ()
    """The newest decisions with their views, oldest first."""
    gaps: Gaps = field(default_factory=Gaps)
    addresses: tuple[AddressStatus, ...] = ()
    """The virtual addresses that are configured here, and how each stands."""
    address_counts: AddressCounts | None = None
    """None: this node never has a virtual address."""
    fences: FenceCounts = field(default_factory=FenceCounts)
    loop_lag_ms: float = 0.0
    """How late the event loop was at its last measurement."""

    # This node

    @property
    def scope(self) -> str:
        """The cluster's name, by the file as long as this node is in none."""
        return self.state.cluster_name or self.cluster_name

    @property
    def proxy(self) -> ProxyCounts:
        """The proxy's counters, as of now."""
        return self.count_proxy()

    @property
    def vip(self) -> bool:
        """Whether every address that follows the primary role is on this node."""
        held = [
            status.state is AddressState.HELD
            for status in self.addresses
            if status.address.role is AddressRole.PRIMARY
        ]
        return bool(held) and all(held)

    @property
    def report(self) -> NodeReport | None:
        """This node's own newest report; None before it is a member."""
        received = self.reports.get(self.node)
        return received.report if received else None

    @property
    def holds_primary(self) -> bool:
        """Whether this node is the primary by its own view, and its lease still runs.

        Nobody else can say so: an older view of another node may name a holder whose
        lease has run out.
        """
        held, report = self.state.assignment, self.report
        return (
            held is not None
            and held.live
            and held.member_id == self.member_id
            and report is not None
            and report.promoted
            and report.epoch == held.epoch
            and self.lease.epoch == held.epoch
            and self.lease.left_ms > 0
        )

    @property
    def takes_writes(self) -> bool:
        """Whether clients may write to this node's PostgreSQL now."""
        report = self.report
        return self.holds_primary and report is not None and report.accepting

    @property
    def role(self) -> NodeRole:
        """What this node is."""
        report = self.report
        if report is None:
            return NodeRole.STARTING
        if self.witness:
            return NodeRole.WITNESS
        if self.holds_primary:
            return NodeRole.PRIMARY
        if self.state.fence(self.node) is not None:
            return NodeRole.FENCED
        if report.state is PostgresState.STANDBY:
            return NodeRole.STANDBY
        if report.state is PostgresState.PRIMARY or self._lost_the_role:
            return NodeRole.FENCED
        return NodeRole.STARTING

    @property
    def _lost_the_role(self) -> bool:
        """Whether its epoch has ended, or its lease has and its server was stopped."""
        held, report = self.state.assignment, self.report
        if held is None or held.member_id != self.member_id:
            return False
        had_lease = self.lease.epoch == held.epoch and self.lease.left_ms <= 0
        stopped = report is not None and report.state is PostgresState.STOPPED
        return not held.live or (had_lease and stopped)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should look at, though all works now."""
        found = [
            f"several nodes are called {name}: {', '.join(addresses)}"
            for name, addresses in self.gossip.clashes.items()
        ]
        shown = self.certificate
        if shown is not None and shown.expires_soon:
            days = shown.days_left
            when = f"expires in {days} days" if days >= 0 else "has expired"
            found.append(f"the certificate of {self.node} between the nodes {when}")
        api = self.api_certificate
        if api is not None and api.expires_soon:
            found.append(f"the certificate of {self.node}'s API {api.words}")
        return tuple(found)

    # The others

    @property
    def leader_name(self) -> str | None:
        """The Raft leader's name; None: none is known."""
        member = self.state.member(self.raft.leader)
        return member.name if member else None

    @property
    def primary(self) -> Member | None:
        """Whom clients may write to, by a view that is fresh; else None."""
        return self.routes.primary if self.view_left_ms > 0 else None

    @property
    def stopped_primary(self) -> NodeReport | None:
        """What the holder of the role says, when its server serves nobody.

        Under a pause the role stays there, and clients are sent there all the same.
        """
        held = self.state.assignment
        report = self.fresh_report(held.node) if held and held.live else None
        return report if report and report.serves_nobody else None

    @property
    def primary_reason(self) -> str:
        """Why this node sends nobody to a primary; empty: it does, to `primary`."""
        if self.view_left_ms > 0:
            return self.routes.primary_reason
        if self.member_id == 0:
            return "this node is not a member of a cluster yet"
        return "this node has not heard from the cluster for a whole lease"

    @property
    def known_reports(self) -> Reports:
        """What the nodes last said, and how much of it is fresh."""
        fresh_since_ms = self.now_ms - self.report_max_ms
        return Reports(received=self.reports, fresh_since_ms=fresh_since_ms)

    def fresh_report(self, node: NodeId) -> NodeReport | None:
        """Return what a node says of itself; None: it is silent."""
        return self.known_reports.fresh(node)

    def lag_bytes(self, node: NodeId) -> int | None:
        """Return how much WAL of the primary a standby has not replayed yet.

        Measured against the newest end of WAL that is known of the assigned node, also
        while that one is silent. None: it cannot be told.
        """
        held = self.state.assignment
        own = self.reports.get(node)
        if held is None or own is None:
            return None
        if held.node == node:
            return 0
        primary = self.reports.get(held.node)
        end = primary.report.wal_end if primary else None
        replayed = own.report.replay_lsn
        if end is None or replayed is None:
            return None
        return max(end.lsn - replayed, 0)

    def lag_s(self, node: NodeId) -> float | None:
        """Return how old what a standby replays is; None: it cannot be told.

        The primary measures it by the standby's confirmations, which come while it
        writes: without any, nothing is behind only where nothing is left to replay.
        """
        held, member = self.state.assignment, self.state.named(node)
        if held is None or member is None or member.data_id is None:
            return None
        if held.node == node:
            return 0.0
        primary = self.fresh_report(held.node)
        own = standby_name(node, member.data_id)
        rows = primary.replication if primary else ()
        row = next((r for r in rows if r.name == own and r.streaming), None)
        if row is None:
            return None
        if row.replay_lag_ms is not None:
            return row.replay_lag_ms / 1_000
        return 0.0 if self.lag_bytes(node) == 0 else None

    @property
    def own_sync_role(self) -> SyncRole:
        """Whether commits wait for this node."""
        member = self.state.member(self.member_id)
        return SyncRole.ASYNC if member is None else self.sync_role(member)

    def sync_role(self, member: Member) -> SyncRole:
        """Return whether commits wait for this member, by the declared set."""
        opened, held = self.state.opened, self.state.assignment
        if opened is None or held is None or opened.epoch != held.epoch:
            return SyncRole.ASYNC
        if member.data_id is None or opened.sync.num_sync == 0:
            return SyncRole.ASYNC
        if standby_name(member.name, member.data_id) not in opened.sync.names:
            return SyncRole.ASYNC
        quorum = self.state.mode is ReplicationMode.QUORUM
        return SyncRole.QUORUM if quorum else SyncRole.SYNC
