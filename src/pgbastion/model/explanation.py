"""What the cluster says about itself, in sentences: state, next step, and why."""

from dataclasses import dataclass
from enum import StrEnum

from pgbastion.model.ids import NodeId
from pgbastion.model.reasons import Reason


class Situation(StrEnum):
    """What the first line is about: the gravest thing that is so."""

    MAJORITY_LOST = "majority_lost"
    SPLIT_BRAIN = "split_brain"
    FENCED = "fenced"
    NO_PRIMARY_YET = "no_primary_yet"
    SWITCHOVER = "switchover_under_way"
    NO_CANDIDATE = "no_candidate"
    FAILOVER = "failover_under_way"
    PRIMARY_SILENT = "primary_silent"
    PRIMARY_STOPPED = "primary_stopped"
    PAUSED = "paused"
    COMMITS_WAIT = "commits_wait"
    DISK_FILLING = "disk_filling"
    NODE_FAILED = "node_failed"
    COPYING = "standby_copying"
    DEGRADED = "degraded"
    NODE_SILENT = "node_silent"
    NOT_STREAMING = "standby_not_streaming"
    REPLAY_PAUSED = "standby_replay_paused"
    WITNESS_LOST = "witness_lost"
    CERTIFICATE_EXPIRING = "certificate_expiring"
    TAKEN_OVER = "taken_over"
    RESTART_PENDING = "restart_pending"
    HEALTHY = "healthy"


class Prospect(StrEnum):
    """What would come of a node's death."""

    NOTHING_CHANGES = "nothing_changes"
    PRIMARY_GOES_ON = "primary_goes_on"
    COMMITS_ALONE = "commits_alone"
    """The primary goes on, and no other node confirms its commits."""
    COMMITS_WAIT = "commits_wait"
    OTHER_PRIMARY = "other_primary"
    NO_PRIMARY = "no_primary"
    MAJORITY_LOST = "majority_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What the decisions would come to if a node died now."""

    node: NodeId
    prospect: Prospect
    sentence: str
    primary: NodeId | None = None
    """Who would be the primary then."""
    reason: Reason | None = None
    """The decision with which it would end; None: none would be taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a node that is not the primary could become it, in words."""

    node: NodeId
    ready: bool
    """Whether it could take the role of the living primary now."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer to: what is going on, and what should be done."""

    situation: Situation
    state: str
    next_step: str
    node: NodeId
    """Who answers."""
    leader: NodeId | None
    leader_url: str | None
    """Where the Raft leader's API is: it knows more than the others."""
    primary: NodeId | None
    serving: bool
    """Whether this node sends clients to the primary."""
    primary_lines: tuple[str, ...]
    others: tuple[Readiness, ...]
    foreseen: tuple[Foreseen, ...]
    blocking: tuple[str, ...]
    """What keeps an automatic failover from happening, if the primary died now."""
    warnings: tuple[str, ...]
