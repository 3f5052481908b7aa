"""The replicated state: what every node agrees on. Nothing volatile is in it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from pgbastion.model.addresses import Placement
from pgbastion.model.ids import (
    NO_MEMBER,
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Revision,
    Timeline,
)
from pgbastion.model.profile import Profile
from pgbastion.model.settings import SettingsVersion
from pgbastion.model.wal import Lsn, WalEnd

MEMBERS_MAX: Final = 32
"""A cluster has at most this many members."""
VOTERS_MAX: Final = 5
"""More voters make each entry of the log slower, and are hardly ever needed."""
LEASE_MAX_MS: Final = 3_600_000
"""An hour: a longer lease is refused as a mistake, a failover would wait for it."""
CAUSE_MAX: Final = 200
"""The state keeps this many characters of a sentence."""
AT_MAX: Final = 40
"""The state keeps this many characters of a wall-clock time."""


class ReplicationMode(StrEnum):
    """How a commit is confirmed before the client hears of it."""

    ASYNC = "async"
    SYNC = "sync"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that belongs to the cluster, and where its parts listen."""

    member_id: MemberId
    name: NodeId
    host: str
    raft_port: int
    postgres_port: int | None
    """None for a witness."""
    api_port: int
    primary_port: int
    replica_port: int
    data_id: DataId | None = None
    """The data directory that the node last declared; None: it never had one."""
    joined: bool = False
    """Its id was handed out; False: announced by hand and not come yet."""
    nofailover: bool = False
    nosync: bool = False
    noloadbalance: bool = False
    failover_priority: int = 1
    replica_weight: int = 1
    """Its share of the readers among the standbys."""
    api_tls: bool = False
    """Its API speaks TLS."""

    @property
    def is_witness(self) -> bool:
        """Whether it runs no PostgreSQL, as far as it has said."""
        return self.postgres_port is None

    @property
    def raft_address(self) -> str:
        """``HOST:PORT`` of the Raft port, IPv6 in brackets."""
        return join_host_port(self.host, self.raft_port)

    @property
    def api_url(self) -> str:
        """The base address of the node's REST API."""
        scheme = "https" if self.api_tls else "http"
        return f"{scheme}://{join_host_port(self.host, self.api_port)}"


def join_host_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSet:
    """A promise: each commit in force of it was flushed by ``num_sync`` of ``names``.

    ``names`` are standby names (node and data id). ``num_sync`` 0 is degraded:
    only the primary itself surely has everything.
    """

    names: tuple[str, ...] = ()
    num_sync: int = 0

    def meets_every_quorum(self, names: Iterable[str]) -> bool:
        """Tell whether every commit in force of the promise is on one of ``names``.

        W members flushed it before it was acknowledged. Any W and any R of the N
        members share one exactly when R + W > N.
        """
        present = len({*self.names}.intersection(names))
        return present + self.num_sync > len(self.names)


NOBODY = SyncSet()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long a lease is and how far two clocks may drift apart."""

    lease_ms: int
    drift_ppm: int
    margin_ms: int
    revision: int = 0
    """Raised by each change."""
    profile: Profile | None = None
    """Whose timings every node goes by; None: each by its own file's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortening:
    """A change to a shorter lease that is under way: longer ones may still run."""

    lease_ms: int
    """The longest lease that may run."""
    drift_ppm: int
    adopted: bool = False
    """The nodes go by the new timings: what is granted from now on is the new lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who has the primary role in an epoch, and how far that has come."""

    epoch: Epoch
    member_id: MemberId
    node: NodeId
    data_id: DataId
    timeline: Timeline
    """The timeline that the promotion of this epoch must take."""
    surveyed: WalEnd | None
    """The end of WAL for which the node was chosen; None for the first epoch."""
    taken_over: bool = False
    """The first epoch of a server that was found running: it begins without a
    promotion, on the timeline that the server has."""
    incarnation: Incarnation | None = None
    running: int = 0
    """The newest pause revision at which its holder surely heeds its lease."""
    opened: bool = False
    revoked: bool = False
    released: bool = False
    vouched: bool = False
    """Somebody outside vouches that its holder is off."""
    vouched_term: int = 0
    """The term whose leader took that word last; no other one may rest on it."""
    ended_at: WalEnd | None = None
    """Where the server of a released epoch ended cleanly, its last record included."""

    @property
    def live(self) -> bool:
        """Whether the holder may still renew."""
        return not (self.revoked or self.released)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedEpoch:
    """The last epoch in which commits were acknowledged, and what it promised."""

    epoch: Epoch
    node: NodeId
    data_id: DataId
    timeline: Timeline
    sync: SyncSet


class OrderKind(StrEnum):
    """What an operator ordered."""

    SWITCHOVER = "switchover"
    FAILOVER = "failover"
    RESTART = "restart"
    """PostgreSQL of one node is stopped and started again, in the role that it has."""
    REINIT = "reinit"
    """A standby's data directory is replaced by a new copy of the primary's."""


WORK: Final = (OrderKind.RESTART, OrderKind.REINIT)
"""What is done to one node's server, without a change of the primary."""


class OrderOutcome(StrEnum):
    """What became of an order."""

    DONE = "done"
    OTHER_CHOSEN = "other_chosen"
    """The primary is another node than the one that was ordered."""
    FAILED = "failed"
    """Nothing was changed."""
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    """The primary had changed before the order was begun."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An operator's order to change the primary; it is carried out at most once."""

    order_id: str
    order: OrderKind
    target: NodeId
    epoch: Epoch
    """The epoch that it ends: in any other one it is void."""
    drain_ms: int
    """How long transactions that were begun before may go on."""
    force: bool
    """Also where commits could be lost."""
    cause: str
    at: str
    expires_at: str
    """Wall-clock time, written as ``at``: not begun by then, it is void."""
    begun: bool = False
    """New clients wait, and the old primary is stopped next."""
    server_ms: int = 0
    """The server that a restart ends: when its postmaster was started."""
    data_id: str = ""
    """The data directory that a copy replaces."""
    outcome: OrderOutcome | None = None
    detail: str = ""
    settled_at: str = ""

    @property
    def is_work(self) -> bool:
        """Whether it leaves the primary what it is."""
        return self.order in WORK


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A change of the primary that is to be ordered later; it is given at most once."""

    order_id: str
    """The id that the order will have."""
    target: NodeId | None
    """None: the best standby at that time."""
    drain_ms: int
    cause: str
    at: str
    due_at: str
    """Wall-clock time, written as ``at``: it is given from then on."""
    expires_at: str
    """Not given by then, it is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """An operator keeps a node from the primary role until it is taken back."""

    node: NodeId
    force: bool
    """A primary stops at once; otherwise it hands its role over first."""
    drain_ms: int
    cause: str
    at: str


ChangeKind = Literal["assigned", "opened", "released", "revoked", "vouched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of the history of roles."""

    index: int
    epoch: Epoch
    what: ChangeKind
    node: NodeId
    timeline: Timeline
    cause: str
    at: str
    """Wall-clock time of the proposer, for people only."""
    lsn: Lsn | None = None
    """Where WAL ended: of the node that was chosen, or of the server that stopped."""
    order_id: str = ""
    """The order that an assignment carried out."""
    gap_ms: int | None = None
    """For how long no primary took writes; told after the opening."""
    sessions: int | None = None
    """How many sessions ended with the former primary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """Everything that the log decides. Made only by :func:`control.apply.apply`."""

    index: int = 0
    """The log index of the last command that was applied."""
    revision: Revision = Revision(0)
    cluster_name: str = ""
    cluster_id: str = ""
    founder: MemberId = NO_MEMBER
    system_identifier: str | None = None
    next_member_id: MemberId = MemberId(1)
    members: tuple[Member, ...] = ()
    policy: Policy | None = None
    policy_at: str = ""
    """When an operator changed it, for people only; "": never."""
    shortening: Shortening | None = None
    """What has to be waited out before the policy's own lease bounds everything."""
    mode: ReplicationMode = ReplicationMode.QUORUM
    sync_count: int | None = None
    """None: half of the PostgreSQL nodes, rounded down."""
    strict: bool = False
    replication_revision: int = 0
    """Raised by each change of mode, count or strictness."""
    replication_at: str = ""
    """When the newest of them was, for people only."""
    assignment: Assignment | None = None
    opened: OpenedEpoch | None = None
    later_timelines: tuple[Timeline, ...] = ()
    """Timelines of the epochs assigned after ``opened``."""
    highest_timeline: Timeline = Timeline(0)
    paused: bool = False
    pause_revision: int = 0
    paused_at: str = ""
    """When it was paused or resumed, for people only."""
    history: tuple[Change, ...] = ()
    orders: tuple[Order, ...] = ()
    """The newest orders, oldest first; only the last one may be without outcome."""
    scheduled: tuple[Schedule, ...] = ()
    """What is to be ordered later, in the order in which it was asked for."""
    fences: tuple[Fence, ...] = ()
    """The nodes that an operator fenced."""
    settings_versions: tuple[SettingsVersion, ...] = ()
    """The newest versions of the settings of PostgreSQL, oldest first."""
    placements: tuple[Placement, ...] = ()
    """Where the addresses for replicas are; one that is nowhere is not named."""
    recent: tuple[str, ...] = field(default=(), repr=False)
    """Ids of the newest proposals, so that a repeated one changes nothing."""

    def member(self, member_id: MemberId) -> Member | None:
        """Return the member with this id, or None."""
        return next((m for m in self.members if m.member_id == member_id), None)

    def named(self, node: NodeId) -> Member | None:
        """Return the member with this name, or None."""
        return next((m for m in self.members if m.name == node), None)

    def server(self, node: NodeId) -> Member | None:
        """Return the member with this name if it runs PostgreSQL, or None."""
        return next((m for m in self.servers if m.name == node), None)

    def is_held_by(self, member_id: MemberId) -> bool:
        """Tell whether this member has the primary role and may still renew."""
        held = self.assignment
        return held is not None and held.live and held.member_id == member_id

    def fence(self, node: NodeId) -> Fence | None:
        """Return the fence around a node, or None."""
        return next((f for f in self.fences if f.node == node), None)

    def placement(self, address: str) -> Placement | None:
        """Return where an address for replicas is, or None."""
        return next((p for p in self.placements if p.address == address), None)

    @property
    def settings(self) -> SettingsVersion | None:
        """The settings of PostgreSQL that count; None: none were agreed on."""
        return self.settings_versions[-1] if self.settings_versions else None

    @property
    def order(self) -> Order | None:
        """The order that is being carried out, or None."""
        newest = self.orders[-1] if self.orders else None
        return newest if newest is not None and newest.outcome is None else None

    @property
    def epoch(self) -> Epoch:
        """The newest epoch that was assigned; 0 before the first."""
        return self.assignment.epoch if self.assignment else Epoch(0)

    @property
    def servers(self) -> tuple[Member, ...]:
        """The members that run PostgreSQL."""
        return tuple(m for m in self.members if not m.is_witness)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    v: int
    state: ClusterState


STATE_VERSION: Final = 1


@cache
def _snapshots() -> TypeAdapter[_Snapshot]:
    # Made when it is wanted: who only needs a name from here has no time for it.
    return TypeAdapter(_Snapshot)


def encode_state(state: ClusterState) -> bytes:
    """Return the state's bytes, for a snapshot of the log."""
    return _snapshots().dump_json(_Snapshot(v=STATE_VERSION, state=state))


def decode_state(data: bytes) -> ClusterState | None:
    """Read a state; None if it is none of a version that we know."""
    try:
        snapshot = _snapshots().validate_json(data)
    except ValidationError:
        return None
    return snapshot.state if snapshot.v == STATE_VERSION else None
