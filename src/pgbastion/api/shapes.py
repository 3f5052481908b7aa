"""The shapes of the answers.

The type checker holds the code to them; the OpenAPI description is made from them.
"""

from typing import NotRequired

# Pydantic wants this one before Python 3.12.
from typing_extensions import TypedDict

from pgbastion.api.transport_shapes import CertificateFacts, GossipHint


class ErrorFacts(TypedDict):
    """Why a request got no answer, and what to do about it."""

    code: str
    message: str
    remedy: str


class ErrorAnswer(TypedDict):
    """Every answer that is none."""

    error: ErrorFacts


class ClaimFacts(TypedDict):
    """A server that claims the primary role without having it."""

    node: str
    claim: str
    epoch: int
    text: str


class SplitBrain(TypedDict):
    """What only a split brain adds."""

    split_brain: NotRequired[list[ClaimFacts]]


class StandingFacts(TypedDict):
    """The one that holds, of a standby that commits may wait for; Patroni's words."""

    sync_standby: NotRequired[bool]
    quorum_standby: NotRequired[bool]


class HealthAnswer(SplitBrain, StandingFacts):
    """One node."""

    node: str
    role: str
    state: str
    vip: bool
    leader: str | None
    term: int
    epoch: int
    timeline: int | None
    lease_left_ms: int
    paused: bool
    version: str
    warnings: list[str]


class RestartFacts(TypedDict):
    """Why a server should be restarted."""

    pending_restart: NotRequired[bool]
    pending_restart_settings: NotRequired[list[str]]
    taken_over: NotRequired[bool]


class FenceFacts(TypedDict):
    """Since when and why a node is kept from the primary role."""

    fenced: NotRequired[bool]
    fenced_by: NotRequired[str]
    fenced_at: NotRequired[str]


class TagFacts(TypedDict):
    """What a member is not, or less, wanted for."""

    tags: NotRequired[dict[str, bool | int]]


class MemberFacts(RestartFacts, FenceFacts, TagFacts):
    """A member, in the words that Patroni's tools read."""

    name: str
    role: str
    state: str
    host: str
    port: int | None
    api_url: str
    timeline: int | None
    lag: int | str
    """Bytes, or ``unknown``."""


class BackendFacts(TypedDict):
    """A server that clients are sent to."""

    node: str
    host: str
    port: int | None


class BackendsFacts(TypedDict):
    """Where each port sends its clients."""

    primary: list[BackendFacts]
    replica: list[BackendFacts]


# "from" is a word of Python.
SwitchoverFacts = TypedDict(
    "SwitchoverFacts",
    {"at": str, "from": NotRequired[str], "to": NotRequired[str]},
)


class NextFacts(TypedDict):
    """The scheduled switchover that comes next, in Patroni's words."""

    scheduled_switchover: NotRequired[SwitchoverFacts]


class PauseFacts(TypedDict):
    """Present while automatic actions are off; Patroni's word."""

    pause: NotRequired[bool]


class ClusterAnswer(SplitBrain, NextFacts, PauseFacts):
    """The members and where clients are sent."""

    scope: str
    members: list[MemberFacts]
    primary: str | None
    epoch: int
    backends: BackendsFacts
    voting: str


class DecisionFacts(TypedDict):
    """The newest decision and why."""

    reason: str
    sentence: str
    detail: str


class LeaseFacts(TypedDict):
    """A node's lease on the primary role."""

    epoch: int
    left_ms: int


class AssignmentFacts(TypedDict):
    """Who has the primary role."""

    epoch: int
    node: str
    timeline: int
    opened: bool
    revoked: bool
    released: bool


class SynchronousFacts(TypedDict):
    """Whom commits wait for."""

    mode: str
    epoch: int
    names: list[str]
    num_sync: int
    strict: bool
    changed_at: str | None
    """When an operator changed mode, count or strictness; null: never."""


class RoutesFacts(TypedDict):
    """Where this node's proxy sends clients."""

    primary: str | None
    primary_reason: str
    replicas: list[str]
    replica_reason: str


class PolicyFacts(TypedDict):
    """How long leases are, and by whose timings the nodes go."""

    profile: str | None
    """Null: each node goes by its own file's."""
    revision: int
    lease_ms: int
    granted_ms: int
    """The lease that a grant names now: longer for a while after a shortening."""
    longest_ms: int
    """The longest lease that may still run: what waits count with."""
    not_adopted: list[str]
    """The nodes that do not go by its timings yet."""
    changed_at: str | None
    """When an operator changed the profile; null: never."""


class ClusterStateAnswer(TypedDict):
    """Where a node's state machine stands."""

    node: str
    role: str
    state: str
    decision: DecisionFacts
    cluster_decision: DecisionFacts
    view_left_ms: int
    lease: LeaseFacts
    assignment: AssignmentFacts | None
    policy: PolicyFacts | None
    synchronous: SynchronousFacts
    paused: bool
    paused_at: str | None
    """When it was paused, or resumed; null: never."""
    log_index: int
    system_identifier: str | None
    routes: RoutesFacts


class RaftStateAnswer(TypedDict):
    """A node's part in the Raft group."""

    node: str
    member_id: int
    role: str
    term: int
    leader: str | None
    leader_id: int
    voters: list[int]
    learners: list[int]
    quorum: int
    note: str
    committed_index: int
    applied_index: int
    last_index: int
    certificate: CertificateFacts | None


class PeerFacts(TypedDict):
    """A member of the Raft group."""

    id: str
    member_id: int
    address: str
    suffrage: str
    leader: bool
    self: bool
    joined: bool
    matched_index: int | None
    gossip: GossipHint | None


class PeersAnswer(TypedDict):
    """Every member."""

    peers: list[PeerFacts]


class DirectiveFacts(TypedDict):
    """An order and what became of it."""

    id: str
    order: str
    to: str | None
    """None: the best at that time."""
    epoch: int | None
    """None: it is scheduled, and belongs to whatever epoch there is then."""
    cause: str
    at: str
    due_at: NotRequired[str]
    """When it is to be given."""
    expires_at: str
    begun: bool
    outcome: str | None
    detail: str
    settled_at: str | None


class DirectivesAnswer(TypedDict):
    """The newest orders, oldest first."""

    directives: list[DirectiveFacts]


class RoleChangeFacts(TypedDict):
    """How a node got the primary role, and how it lost it."""

    epoch: int
    node: str
    timeline: int
    former: str | None
    cause: str
    sentence: str
    order: str | None
    ordered_by: str | None
    lsn: str | None
    """The end of the WAL with which it was chosen."""
    assigned_at: str | None
    opened_at: str | None
    gap_ms: int | None
    """The longest time without a primary that any node's proxy saw."""
    sessions_closed: int | None
    revoked_at: str | None
    vouched_at: str | None
    vouched_by: str | None
    released_at: str | None
    ended_for: str | None
    ended_lsn: str | None


class ClusterHistoryAnswer(TypedDict):
    """Every change of the primary that is remembered, the oldest first."""

    changes: list[RoleChangeFacts]


class StandbyFacts(TypedDict):
    """A standby against the primary."""

    node: str
    state: str
    sync_role: str
    following: str | None
    wal_end: str | None
    write_lsn: str | None
    flush_lsn: str | None
    replay_lsn: str | None
    lag_bytes: int | None
    """Not replayed yet; null where it cannot be told."""
    lag_seconds: float | None
    """How long the primary waited for the standby's newest replay; 0 when idle."""
    slot: str | None
    progress: str | None


class SlotFacts(TypedDict):
    """A replication slot of the primary, and what it costs."""

    name: str
    kind: str
    active: bool
    restart_lsn: str | None
    wal_status: str
    retained_bytes: int | None


class ReplicationAnswer(TypedDict):
    """Each standby against the primary."""

    primary: str | None
    wal_end: str | None
    timeline: int | None
    standbys: list[StandbyFacts]
    slots: list[SlotFacts]


class PostgresqlFacts(TypedDict):
    """Settings, where Patroni's tools look for them."""

    parameters: dict[str, str]


class ConfigAnswer(TypedDict):
    """What the cluster has agreed on; nothing in it changes by itself."""

    version: int
    by: str
    at: str
    postgresql: PostgresqlFacts
    ttl: float
    synchronous_mode: bool | str
    synchronous_mode_strict: bool


class WaitingFacts(TypedDict):
    """A setting that a server does not have yet, and why."""

    name: str
    reason: str


class NodeConfigFacts(TypedDict):
    """How far a node is with the settings."""

    node: str
    version: int | None
    """The newest version in its files; null: its server does not run."""
    overrides: dict[str, str]
    """What its own file says otherwise."""
    pending_restart: list[WaitingFacts]
    held_back: list[WaitingFacts]


class ConfigStatusAnswer(TypedDict):
    """How far every node is with the settings."""

    version: int
    nodes: list[NodeConfigFacts]


class VersionFacts(TypedDict):
    """One version of the settings."""

    version: int
    by: str
    at: str
    parameters: dict[str, str]


class ConfigHistoryAnswer(TypedDict):
    """The newest versions, oldest first."""

    versions: list[VersionFacts]


class OkAnswer(TypedDict):
    """An order was taken; what else is known stands beside it."""

    ok: bool


class AddressFacts(TypedDict):
    """A virtual address on the node that answers."""

    address: str
    role: str
    interface: str | None
    label: str | None
    state: str
    problem: str | None
    conflict_with: str | None
    for_ms: int


class AddressesOfNode(TypedDict):
    """What a node said last of its virtual addresses."""

    node: str
    held: list[str]
    problem: str | None


class ReplicaAddress(TypedDict):
    """Where an address for replicas is."""

    address: str
    node: str | None
    state: str
    cause: str | None
    problem: str | None


class VipAnswer(TypedDict):
    """The virtual addresses."""

    node: str
    held: bool
    holder: str | None
    addresses: list[AddressFacts]
    nodes: list[AddressesOfNode]
    replicas: list[ReplicaAddress]
    taken_total: int
    dropped_total: int
    announcements_total: int
    conflicts_total: int
    restored_total: int
    hook_failures_total: int
