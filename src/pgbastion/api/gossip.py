"""The answer about the gossip, and what of it stands in the answer about members."""

from pgbastion.api.transport_shapes import (
    GossipAnswer,
    GossipHint,
    GossipNodeFacts,
)
from pgbastion.model.gossip import GossipNode
from pgbastion.model.snapshot import NodeSnapshot


def gossip_answer(snapshot: NodeSnapshot) -> GossipAnswer:
    """Tell of every node that gossip has heard of: hints, not grounds to act."""
    gossip = snapshot.gossip
    return {
        "node": snapshot.node,
        "running": gossip.running,
        "nodes": [_node(node) for node in gossip.view.nodes],
        "clashes": [
            {"name": name, "addresses": list(addresses)}
            for name, addresses in gossip.clashes.items()
        ],
        "sent_total": gossip.view.sent,
        "received_total": gossip.view.received,
        "refused_total": gossip.view.refused,
    }


def gossip_hint(snapshot: NodeSnapshot, raft_address: str) -> GossipHint | None:
    """Return what gossip says of the member at that address; None: nothing."""
    node = snapshot.gossip.view.node_at(raft_address)
    if node is None or node.facts is None:
        return None
    return {
        "state": node.state,
        "version": node.facts.version,
        "api_url": node.facts.api_url,
    }


def _node(node: GossipNode) -> GossipNodeFacts:
    facts = node.facts
    return {
        "name": facts.name if facts else None,
        "address": node.address,
        "state": node.state,
        "cluster_id": facts.cluster_id if facts else None,
        "raft_address": facts.raft_address if facts else None,
        "api_url": facts.api_url if facts else None,
        "version": facts.version if facts else None,
    }
