"""A server that claims the primary role although the cluster did not give it to it."""

from dataclasses import dataclass
from enum import StrEnum

from pgbastion.model.ids import Epoch, NodeId


class ClaimKind(StrEnum):
    """Why a claim is wrong."""

    NEVER_ASSIGNED = "never_assigned"
    """Promoted, or started, out of band."""
    FORMER_HOLDER = "former_holder"
    """It was the primary of an epoch that is over."""
    UNWATCHED = "unwatched"
    """It answers as a primary, and its node's daemon says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A wrong claim of one node's server."""

    node: NodeId
    kind: ClaimKind
    epoch: Epoch = Epoch(0)
    """The epoch that the server was promoted in; 0: in none, or unknown."""

    @property
    def sentence(self) -> str:
        """The claim as a clause for people."""
        match self.kind:
            case ClaimKind.NEVER_ASSIGNED:
                return f"{self.node} runs as a primary that nobody assigned"
            case ClaimKind.FORMER_HOLDER:
                return f"{self.node} still runs as the primary of epoch {self.epoch}"
            case ClaimKind.UNWATCHED:
                return f"{self.node} answers as a primary, and no daemon speaks for it"
