"""This node's part in the gossip, as the native engine talks it."""

from typing import Any

from pgbastion.consensus import _engine
from pgbastion.consensus.engine_errors import as_consensus_error
from pgbastion.model.gossip import GossipFacts, GossipNode, GossipView


class Gossip:
    """Talks in a thread of its own until it is stopped.

    Args:
        bind: ``HOST:PORT`` to listen on, UDP.
        address: ``HOST:PORT`` under which the others reach it.
        secret: The cluster's secret; datagrams are sealed with what follows from it.
        cluster: The cluster's name; another one's gossip is not understood.
        facts: What this node says of itself.

    Raises:
        ConsensusError: The port cannot be had.
    """

    def __init__(
        self,
        *,
        bind: str,
        address: str,
        secret: bytes,
        cluster: str,
        facts: GossipFacts,
    ) -> None:
        with as_consensus_error():
            self._native = _engine.Gossip(
                bind=bind,
                address=address,
                secret=secret,
                cluster=cluster,
                facts=_said(facts),
            )

    @property
    def address(self) -> str:
        """Where the others reach it, with the port that the system chose for 0."""
        return self._native.address()

    def learn(self, places: list[str]) -> None:
        """Greet these places, ``HOST:PORT``, until each is known."""
        self._native.learn(places)

    def describe(self, facts: GossipFacts) -> None:
        """Say something else of this node from now on.

        Raises:
            ConsensusError: One of the facts is too long.
        """
        with as_consensus_error():
            self._native.describe(_said(facts))

    def view(self) -> GossipView:
        """Return what gossip knows now."""
        raw: dict[str, Any] = self._native.view()
        return GossipView(
            nodes=tuple(
                GossipNode(
                    address=address,
                    state=state,
                    facts=None if facts is None else GossipFacts(*facts),
                )
                for address, state, facts in raw["seen"]
            ),
            sent=raw["sent"],
            received=raw["received"],
            refused=raw["refused"],
            refused_from=tuple(raw["refused_from"]),
            failed=raw["failed"],
        )

    def stop(self) -> None:
        """Say goodbye, and end the thread."""
        self._native.stop()


def _said(facts: GossipFacts) -> tuple[str, str, str, str, str]:
    return (
        facts.name,
        facts.cluster_id,
        facts.raft_address,
        facts.api_url,
        facts.version,
    )
