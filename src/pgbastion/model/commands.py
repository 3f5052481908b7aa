"""Commands for the log, and their encoding.

Encoded as JSON with a version, bounded in length. Fields that a newer release
adds are ignored by an older one; a kind that it does not know is refused by
``apply`` with a reason, on every node alike.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pgbastion.model.cluster import (
    Member,
    Order,
    OrderOutcome,
    Policy,
    ReplicationMode,
    Schedule,
    SyncSet,
)
from pgbastion.model.ids import (
    DataId,
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
    Revision,
    Timeline,
)
from pgbastion.model.settings import Parameters
from pgbastion.model.wal import Lsn, WalEnd

COMMAND_VERSION: Final = 1
COMMAND_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first command of a cluster: its name, its policy, its first member."""

    cluster_name: str
    cluster_id: str
    member: Member
    policy: Policy
    mode: ReplicationMode
    sync_count: int | None
    strict: bool
    kind: Literal["found"] = "found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Take a node in; ``member.member_id`` is ignored, the state gives the next id."""

    member: Member
    kind: Literal["join"] = "join"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Take a member out: the Raft leader then takes its id out of the Raft group."""

    member_id: MemberId
    kind: Literal["leave"] = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declare:
    """A member says where its parts listen, which tags and data directory it has."""

    member: Member
    system_identifier: str | None
    kind: Literal["declare"] = "declare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Give the primary role of the next epoch to a node."""

    revision: Revision
    """Of the state that the decision was made on; a later one refuses this."""
    epoch: Epoch
    member_id: MemberId
    node: NodeId
    data_id: DataId
    timeline: Timeline
    surveyed: WalEnd | None
    cause: str
    at: str
    taken_over: bool = False
    """The node's server was found running as a primary: it goes on in this epoch."""
    kind: Literal["assign"] = "assign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A holder's daemon resumes its epoch, before its first renewal."""

    epoch: Epoch
    member_id: MemberId
    incarnation: Incarnation
    former: Incarnation | None
    """Whom it takes over from: a late word of a former daemon is refused."""
    kind: Literal["resume"] = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The holder's first synchronous set is in force: commits count from now."""

    epoch: Epoch
    incarnation: Incarnation
    sync: SyncSet
    at: str
    kind: Literal["opened"] = "opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSync:
    """The holder changes the synchronous set.

    The set that is in force, once more, settles a change of unknown outcome: after
    it, whatever was proposed before and is still on its way is refused.
    """

    revision: Revision
    """Of the state that the step was decided on; a later one refuses this."""
    epoch: Epoch
    incarnation: Incarnation
    sync: SyncSet
    kind: Literal["set"] = "set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The holder releases its epoch: its guard said "stopped"."""

    epoch: Epoch
    incarnation: Incarnation
    lsn: Lsn | None
    cause: str
    at: str
    ended_at: WalEnd | None = None
    """Where its server ended cleanly: who has flushed this far has everything."""
    kind: Literal["release"] = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """From now on no leader answers a renewal of this epoch."""

    epoch: Epoch
    cause: str
    at: str
    kind: Literal["revoke"] = "revoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Switch automatic actions off, or on again, as a person asks."""

    pause_revision: int
    """One above the state's: what was decided on an older one is refused."""
    paused: bool
    at: str
    kind: Literal["pause"] = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """An operator changes the profile of the cluster, and with it its lease."""

    policy: Policy
    """Its revision is one above the state's: what was decided on an older one is
    refused."""
    at: str
    kind: Literal["set_policy"] = "set_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptPolicy:
    """The nodes go by the timings of a shorter lease: it is granted from now on."""

    policy_revision: int
    kind: Literal["adopt_policy"] = "adopt_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePolicy:
    """Every longer lease of before has surely run out."""

    policy_revision: int
    kind: Literal["settle_policy"] = "settle_policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplication:
    """An operator changes who confirms commits.

    The set in force follows step by step: the holder weakens its promise before the
    server's setting, and strengthens it after that.
    """

    replication_revision: int
    """One above the state's: what was decided on an older one is refused."""
    mode: ReplicationMode
    sync_count: int | None
    strict: bool
    at: str
    kind: Literal["set_replication"] = "set_replication"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The holder knows that no pause is on: from now on it heeds its lease."""

    epoch: Epoch
    incarnation: Incarnation
    pause_revision: int
    """What its guard reads, too."""
    kind: Literal["running"] = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveOrder:
    """An operator orders a change of the primary."""

    order: Order
    kind: Literal["order"] = "order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """Somebody outside says that the holder is off: nobody waits for its lease."""

    epoch: Epoch
    who: str
    at: str
    term: int = 0
    """In which its leader proposed it, after it had stopped answering renewals: for a
    leader of another term the word says nothing about the leases granted since."""
    kind: Literal["vouched"] = "vouched"


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginOrder:
    """The holder is ready to hand its role over: from now on new clients wait."""

    order_id: str
    epoch: Epoch
    incarnation: Incarnation
    kind: Literal["begin_order"] = "begin_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginWork:
    """A node is about to end its server, or its data directory, by an order."""

    order_id: str
    member_id: MemberId
    server_ms: int
    data_id: str
    kind: Literal["begin_work"] = "begin_work"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleOrder:
    """An order ends without a change of the primary."""

    order_id: str
    outcome: OrderOutcome
    detail: str
    at: str
    kind: Literal["settle_order"] = "settle_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOrder:
    """An operator wants a change of the primary at a later time."""

    schedule: Schedule
    kind: Literal["schedule_order"] = "schedule_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unschedule:
    """What was scheduled is dropped: cancelled, or too late."""

    order_id: str
    outcome: OrderOutcome
    detail: str
    at: str
    kind: Literal["unschedule"] = "unschedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFence:
    """An operator fences a node, or takes that back."""

    node: NodeId
    fenced: bool
    force: bool
    drain_ms: int
    cause: str
    at: str
    kind: Literal["set_fence"] = "set_fence"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetParameters:
    """Settings of PostgreSQL for the whole cluster, all of them."""

    base: int
    """The version that they were made from: on any other this is refused."""
    parameters: Parameters
    by: str
    at: str
    kind: Literal["set_parameters"] = "set_parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteOutage:
    """For how long a change of the primary had stopped writes, for the history."""

    epoch: Epoch
    gap_ms: int
    sessions: int
    kind: Literal["note_outage"] = "note_outage"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceAddress:
    """An address for replicas goes to a node; nobody else has it any more."""

    address: str
    serial: int
    """Of its placement, ended, that this replaces; 0: it is nowhere."""
    member_id: MemberId
    node: NodeId
    lease_ms: int
    cause: str
    kind: Literal["place_address"] = "place_address"


@dataclass(frozen=True, slots=True, kw_only=True)
class VacateAddress:
    """The node that has an address for replicas is to let go of it."""

    address: str
    serial: int
    """Of the placement that this ends."""
    cause: str
    forget: bool = False
    """It was ended before, and surely is gone: nobody has it."""
    to: NodeId | None = None
    """Who is to have it next, as an operator asked; None: whoever is chosen."""
    kind: Literal["vacate_address"] = "vacate_address"


Command = (
    Found | Join | Leave | Declare | Assign | Resume | Opened | SetSync | Release
    | Revoke | Pause | Running | GiveOrder | BeginOrder | SettleOrder
    | Vouched | ScheduleOrder | Unschedule | SetFence
    | SetParameters | NoteOutage
    | SetReplication | BeginWork | PlaceAddress | VacateAddress
    | SetPolicy | AdoptPolicy | SettlePolicy
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    v: int
    c: Annotated[Command, Field(discriminator="kind")]


_ENVELOPE: Final = TypeAdapter(_Envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecodable:
    """Bytes that are no command of a version that this release knows."""

    reason: str


def encode_command(command: Command) -> bytes:
    """Return the bytes of a log entry."""
    return _ENVELOPE.dump_json(_Envelope(v=COMMAND_VERSION, c=command))


def decode_command(data: bytes) -> Command | Undecodable:
    """Read a log entry. Any bytes give a command or a reason, never an exception."""
    if len(data) > COMMAND_BYTES_MAX:
        return Undecodable(reason="longer than a command may be")
    try:
        envelope = _ENVELOPE.validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return Undecodable(reason=f"{place}: {first['msg']}")
    if envelope.v != COMMAND_VERSION:
        return Undecodable(reason=f"version {envelope.v}")
    return envelope.c
