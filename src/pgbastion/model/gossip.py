"""What gossip tells: who is there, who seems to be gone. Nothing is decided by it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class GossipFacts:
    """What a node says of itself."""

    name: str
    cluster_id: str
    """Empty: it is not a member yet."""
    raft_address: str
    api_url: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipNode:
    """Another node as gossip sees it."""

    address: str
    state: Literal["alive", "suspect", "down"]
    facts: GossipFacts | None
    """None: of a version that is not understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipView:
    """What gossip knows at one instant."""

    nodes: tuple[GossipNode, ...] = ()
    sent: int = 0
    received: int = 0
    refused: int = 0
    """Datagrams of another secret, cluster or version, or that came twice."""
    refused_from: tuple[str, ...] = ()
    failed: bool = False
    """Gossip has ended by itself; the node goes on without."""

    def node_at(self, raft_address: str) -> GossipNode | None:
        """Return the node whose Raft port is there; of several the one that lives."""
        found = [
            node
            for node in self.nodes
            if node.facts is not None and node.facts.raft_address == raft_address
        ]
        return min(found, key=lambda node: node.state, default=None)

    def living(self) -> tuple[GossipFacts, ...]:
        """Return what those say that are not gone."""
        return tuple(
            node.facts
            for node in self.nodes
            if node.facts is not None and node.state != "down"
        )


def name_clashes(own: GossipFacts, view: GossipView) -> dict[str, tuple[str, ...]]:
    """Return names that several living nodes have, with the Raft addresses of each."""
    places: dict[str, set[str]] = {}
    for facts in (own, *view.living()):
        places.setdefault(facts.name, set()).add(facts.raft_address)
    return {
        name: tuple(sorted(addresses))
        for name, addresses in places.items()
        if len(addresses) > 1
    }
