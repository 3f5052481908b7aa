"""The virtual address: what it is, and what a node says of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from pgbastion.model.ids import Epoch, MemberId, NodeId


class AddressRole(StrEnum):
    """Whom an address leads to."""

    PRIMARY = "primary"
    """It follows the primary role."""
    REPLICA = "replica"
    """It is at one healthy standby."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualAddress:
    """An address that clients use instead of a node's."""

    address: str
    """Without a prefix length, in the form that the kernel prints."""
    prefix: int
    interface: str
    label: str = ""
    """IPv4 only: the name under which older tools show it."""
    role: AddressRole = AddressRole.PRIMARY

    @property
    def value(self) -> IPv4Interface | IPv6Interface:
        """The address with its prefix length."""
        return ip_interface(f"{self.address}/{self.prefix}")

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.value.version

    def __str__(self) -> str:
        """Return ADDRESS/PREFIX."""
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Whether the node may have its addresses now, and until when."""

    epoch: Epoch
    """The epoch that they are held for; of an address for replicas the serial of its
    placement; 0: they are not to be here."""
    until_ns: int = 0
    """CLOCK_BOOTTIME; by then they have to be gone; 0: no end, under a pause."""
    scouting: bool = False
    """The holder says that somebody else answers for an address: look too."""

    @property
    def allowed(self) -> bool:
        """Whether the addresses are to be on this node."""
        return self.epoch > 0


NOT_HELD = Holding(epoch=Epoch(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the log says that an address for replicas is."""

    address: str
    serial: int
    """The log index of the newest change of it."""
    member_id: MemberId
    node: NodeId
    lease_ms: int
    """How long the node may have it after it last asked whether this still stands."""
    ended: bool = False
    """The node is to let go of it; nobody else has it before that is sure."""
    cause: str = ""
    """Why it was placed there, or why it is to leave."""
    to: NodeId | None = None
    """Who is to have it next, at an operator's word; None: whoever is chosen."""


class AddressState(StrEnum):
    """How one address stands on one node."""

    ABSENT = "absent"
    PROBING = "probing"
    """Before it is taken the segment is asked whether somebody has it."""
    HELD = "held"
    CONFLICT = "conflict"
    """Somebody else answers for it."""
    FAILED = "failed"
    """It cannot be set here; the problem says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressStatus:
    """One address on one node, as the node itself sees it."""

    address: VirtualAddress
    state: AddressState
    problem: str = ""
    conflict_with: str = ""
    """The hardware address of whoever answers for it; empty: nobody."""
    since_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressCounts:
    """What has happened to the addresses since the daemon's start."""

    taken_total: int = 0
    dropped_total: int = 0
    announcements_total: int = 0
    conflicts_total: int = 0
    restored_total: int = 0
    """Times that an address was gone without our doing and was put back."""
    hook_failures_total: int = 0

    def __add__(self, other: "AddressCounts") -> "AddressCounts":
        """Return what happened to both."""
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name)
            for each in fields(self)
        }
        return AddressCounts(**sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a node tells the others about one address for replicas; volatile."""

    address: str
    seen: int
    """The newest change of its placement that the node knows and heeds; 0: none."""
    may_be_set: bool
    """False: it is not there, and will not be before a newer placement."""
    held: bool = False
    problem: str = ""
    """Why it is not, or could not be, there; empty: nothing is in the way."""
    conflict: bool = False
    """The problem is that somebody else answers for it."""
    fallback: bool = False
    """It may be at the primary while no standby can have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressReport:
    """What a node tells the others about its addresses; volatile."""

    held: tuple[str, ...] = ()
    problem: str = ""
    """Why this node does not, or could not, have them; empty: nothing is in the way."""
    conflict: bool = False
    """The problem is that somebody else answers for one."""
    replicas: tuple[ReplicaReport, ...] = ()
    """The addresses for replicas that are configured there."""

    def replica(self, address: str) -> ReplicaReport | None:
        """Return what it says of an address for replicas; None: not configured."""
        return next((r for r in self.replicas if r.address == address), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressView:
    """What deciding about addresses looks at; instants in milliseconds."""

    now_ms: int
    node: NodeId
    epoch: Epoch
    """The epoch that this node holds with a lease and an armed guard; 0: none."""
    held_since_ms: int
    """Since when it holds it."""
    reports: Mapping[NodeId, AddressReport]
    problem_since_ms: int = 0
    """Since when this node cannot have an address that it should; 0: it can."""
    handed_on_at: tuple[str, ...] = ()
    """Wall-clock times of the newest orders that were given for an address's sake."""
    at: str = ""
    fit: tuple[NodeId, ...] = field(default=())
    """The nodes that can take the primary role now, the best first."""
