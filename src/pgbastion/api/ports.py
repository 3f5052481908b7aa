"""What the API needs of the daemon."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pgbastion.model.ids import NodeId
from pgbastion.model.snapshot import NodeSnapshot

TakeSnapshot = Callable[[], NodeSnapshot]
"""Returns what the node knows now; it must neither wait nor fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command has taken effect; ``facts`` go into the answer."""

    facts: Mapping[str, object] = field(default_factory=dict)


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


class Commands(Protocol):
    """What clients may ask a node to change. Each ends within its own deadline."""

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

    async def switch_over(self, to: NodeId | None, drain_ms: int | None) -> Outcome:
        """Order a planned change of the primary; None: to the best, by the default."""

    async def fail_over(self, to: NodeId, *, force: bool) -> Outcome:
        """Order a change of the primary that needs no living one."""

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
