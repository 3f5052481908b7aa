"""What the API needs of the daemon."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.ids import NodeId
from pgbastion.model.profile import Profile
from pgbastion.model.snapshot import NodeSnapshot

TakeSnapshot = Callable[[], NodeSnapshot]
"""Returns what the node knows now; it must neither wait nor fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command has taken effect; ``facts`` go into the answer."""

    facts: Mapping[str, object] = field(default_factory=dict)
    follow: str = ""
    """The id of the operation that goes on; empty: all is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A command was not carried out, and nothing has changed."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Nobody can tell whether a command took effect: look before repeating it."""

    message: str
    remedy: str


Outcome = Done | Refused | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A time for later, and for how long after it an order may still begin."""

    due: datetime
    valid_ms: int


class Commands(Protocol):
    """What clients may ask a node to change. Each ends within its own deadline."""

    def rehearsal(self) -> "Commands":
        """Return commands that check all that these do, and change nothing."""

    async def add_peer(self, name: NodeId, host: str, raft_port: int) -> Outcome:
        """Announce a node, so that it is let in when it comes."""

    async def remove_peer(self, name: NodeId) -> Outcome:
        """Take a node out of the cluster."""

    async def transfer(self, to: NodeId) -> Outcome:
        """Hand Raft leadership to a voter."""

    async def take_snapshot(self) -> Outcome:
        """Let this node's log up to now go: the state stands for it."""

    async def set_pause(self, *, paused: bool) -> Outcome:
        """Switch automatic actions off, or on again."""

    async def set_replication(
        self,
        *,
        mode: ReplicationMode | None,
        sync_count: int | Literal["auto"] | None,
        strict: bool | None,
    ) -> Outcome:
        """Change who confirms commits; None leaves a part as it is."""

    async def set_profile(self, profile: Profile) -> Outcome:
        """Change the profile that all nodes go by, and with it the lease."""

    def not_primary(self, meant: NodeId | None) -> Refused | None:
        """Refuse what is meant for another primary than there is; None: it may be."""

    async def switch_over(self, to: NodeId | None, drain_ms: int | None) -> Outcome:
        """Order a planned change of the primary; None: to the best, by the default."""

    async def schedule(
        self, to: NodeId | None, drain_ms: int | None, when: When
    ) -> Outcome:
        """Have a switchover ordered later."""

    async def cancel(self, order_id: str | None) -> Outcome:
        """Drop what is scheduled, or an order that was not begun; None: all of it."""

    async def fail_over(
        self, to: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        """Order a change of the primary that needs no living one."""

    async def fence(
        self, node: NodeId, *, force: bool, drain_ms: int | None
    ) -> Outcome:
        """Keep a node from the primary role; a primary hands it over, or stops."""

    async def restart(
        self, node: NodeId, *, pending: bool, drain_ms: int | None
    ) -> Outcome:
        """Have PostgreSQL of a node restarted in the role that it has."""

    async def reinit(self, node: NodeId) -> Outcome:
        """Have a standby's data directory replaced by a copy of the primary's."""

    async def unfence(self, node: NodeId) -> Outcome:
        """Let a fenced node take part again."""

    async def move_address(self, address: str, to: NodeId | None) -> Outcome:
        """Have an address for replicas at another node; None: at the best."""

    async def set_parameters(
        self, parameters: Mapping[str, str | None], *, whole: bool, base: int | None
    ) -> Outcome:
        """Agree on settings of PostgreSQL for all nodes.

        Args:
            parameters: Names and values; None takes a setting out.
            whole: These are all; else they change what was agreed on before.
            base: The version that they were made from; None: whichever there is.
        """

    async def undo_parameters(self) -> Outcome:
        """Agree on the settings that the version before had."""

    def drain(self, timeout_ms: int | None) -> Outcome:
        """Take this node out of service for clients; None: the default time."""

    def undrain(self) -> Outcome:
        """Let clients in again."""

    async def reload(self) -> Outcome:
        """Read the configuration again and look at everything anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What clients prove themselves with."""

    write: str = field(repr=False)
    """Needed for everything that changes something."""
    read: str | None = field(default=None, repr=False)
    """Needed for reading, but for the checks; None: reading is open."""
    place: str = "the file that api.auth_token_file names"
    """Where a person finds the writing token; shown to those who lack it."""
