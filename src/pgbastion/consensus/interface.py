"""What the consensus engine tells: the values that other parts import."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A committed log entry; empty data: the leader's own entry, or a change."""

    index: int
    term: int
    proposal_id: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The state at ``index`` replaces whatever was applied before."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWanted:
    """The log has become long on disk: the state should take its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersChanged:
    """The Raft configuration is another one now."""

    index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderChanged:
    """Who leads, as far as this node knows; 0: nobody."""

    term: int
    leader: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question (or, with ``request_id`` 0, a broadcast) of a member or a guest."""

    request_id: int
    member_id: int
    """0: a guest, which has proven the cluster's secret."""
    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """This node's lease was renewed."""

    epoch: int
    expiry_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """A renewal was refused."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Something that the engine wants in the log."""

    level: str
    event: str
    fields: dict[str, object]


Event = (
    Committed | SnapshotTaken | MembersChanged | LeaderChanged | Request | Granted
    | Denied | Logged | BaseWanted
)  # fmt: skip
