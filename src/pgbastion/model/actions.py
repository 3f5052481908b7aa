"""What a decision can ask for. The executor in ``ha`` carries it out."""

from dataclasses import dataclass
from enum import StrEnum

from pgbastion.model.cluster import SyncSet
from pgbastion.model.commands import Command
from pgbastion.model.ids import Epoch, MemberId, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.wal import WalEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Put a command into the log. An unknown outcome is decided again."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLease:
    """Answer no renewal of this epoch or an earlier one from now on."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAges:
    """Ask every voter when it last confirmed an older leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Ask nodes to cut themselves off from ``epoch`` and to say what they have."""

    epoch: Epoch
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFence:
    """Have the configured program switch the holder of this epoch off."""

    epoch: Epoch
    node: NodeId
    host: str
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """Have a node that is cut from ``epoch`` stream from another one that is, too."""

    epoch: Epoch
    node: NodeId
    source: NodeId
    upto: WalEnd
    """Where the source's WAL ends."""


class MemberChange(StrEnum):
    """A step of a Raft membership change."""

    ADD_LEARNER = "add_learner"
    PROMOTE = "promote"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeMember:
    """Change the Raft configuration by one member."""

    change: MemberChange
    member_id: MemberId
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveLeadership:
    """Hand Raft leadership to a member."""

    member_id: MemberId


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLease:
    """Renew the lease of this epoch from now on."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class LatchRelease:
    """Note that this epoch is released, before that is proposed."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Ask the guard to kill PostgreSQL when the lease of this epoch runs out."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class EndEpoch:
    """Ask the guard to start no primary in this epoch or an earlier one ever again."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAddresses:
    """Remove the virtual addresses, before the epoch that they stand for is released.

    In the same epoch they do not come back.
    """

    epoch: Epoch


class StopMode(StrEnum):
    """How PostgreSQL is stopped."""

    FAST = "fast"
    """Fast, then immediate, then kill, within the profile's stop budget."""
    KILL = "kill"
    """Every process at once: for a server that hangs or must not write any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPostgres:
    """Stop PostgreSQL until the guard says "stopped"."""

    mode: StopMode
    reason: Reason
    budget_ms: int = 0
    """How long it may take; 0: the profile's stop budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartStandby:
    """Start PostgreSQL in recovery, following ``primary`` or nobody."""

    primary: NodeId | None
    epoch: Epoch
    """The epoch of ``primary``; with None, the epoch that the start is for."""
    for_promotion: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPrimary:
    """Start a crashed primary again in its epoch and on its timeline."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Ask the running standby to promote to this timeline."""

    epoch: Epoch
    timeline: Timeline
    surveyed: WalEnd | None
    """The permit: it is not done if the end of WAL is another by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Point the running standby at the primary of this epoch."""

    primary: NodeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class InitDb:
    """Make the cluster's first data directory, with its roles and its mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """Make a PostgreSQL that somebody else set up the cluster's first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePrimary:
    """Note in the data directory that its server is the primary of this epoch."""

    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Examine:
    """Compare the stopped data directory with the primary's history."""

    primary: NodeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Replace the data directory by a copy of the primary's."""

    primary: NodeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """Rewind the stopped data directory to the primary's history."""

    primary: NodeId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverCrash:
    """Let the stopped, crashed server recover on its own, without clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplySyncSet:
    """Put this set into the server's setting; confirm that it is effective."""

    sync: SyncSet
    first: bool = False
    """No set is promised yet: that commits wait at all has to be seen before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepSlots:
    """Have exactly these members' slots."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadySlots:
    """Have these members' slots on a standby that is about to be promoted.

    With no nodes and no order: it is not promoted after all.
    """

    order_id: str
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Write a checkpoint on the primary's own timeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareHandOver:
    """Checkpoint, let older transactions end, and checkpoint once more."""

    order_id: str
    drain_ms: int


Action = (
    Propose | CloseLease | AskAges | Survey | CatchUp | CallFence | ChangeMember
    | MoveLeadership | HoldLease | LatchRelease | Arm | EndEpoch | StopPostgres
    | StartStandby | StartPrimary | Promote | Follow | InitDb | TakeOver | NotePrimary
    | Examine | Copy | Rewind | RecoverCrash | ApplySyncSet | KeepSlots | ReadySlots
    | Checkpoint
    | PrepareHandOver | DropAddresses
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and when to look again if nothing happens before."""

    reason: Reason
    actions: tuple[Action, ...] = ()
    wake_at_ms: int | None = None
    detail: str = ""
    """Names and numbers that make the reason's sentence concrete."""
