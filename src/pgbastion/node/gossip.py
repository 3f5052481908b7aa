"""Gossip in a running node: greets whom it knows of, tells what it hears.

It finds clusters for joiners and names nodes that clash; what it suspects makes this
node look sooner. Nothing is decided by it: with its port blocked all works the same.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pgbastion._build import VERSION
from pgbastion.config.model import Config
from pgbastion.consensus.gossip import Gossip
from pgbastion.errors import ConsensusError
from pgbastion.model.cluster import ClusterState, Member, join_host_port
from pgbastion.model.gossip import GossipFacts, GossipView, name_clashes
from pgbastion.model.snapshot import GossipSnapshot
from pgbastion.observe.logging import get_logger

LOOK_EVERY_S: Final = 0.5
OPEN_AGAIN_S: Final = 10.0

log = get_logger("gossip")


class GossipWatch:
    """Gossips, and notes what changes.

    Args:
        config: Where to gossip, and whom to greet first.
        secret: The cluster's secret.
        own: This node's member record.
        state: The replicated state.
        on_suspicion: Called when somebody seems to be gone: a reason to look.
    """

    def __init__(
        self,
        config: Config,
        secret: bytes,
        *,
        own: Callable[[], Member],
        state: Callable[[], ClusterState],
        on_suspicion: Callable[[], None],
    ) -> None:
        self._config = config
        self._secret = secret
        self._own = own
        self._state = state
        self._on_suspicion = on_suspicion
        self._gossip: Gossip | None = None
        self._view = GossipView()
        self._told: dict[str, str] = {}

    def facts(self) -> GossipFacts:
        """Return what this node says of itself."""
        own = self._own()
        return GossipFacts(
            name=own.name,
            cluster_id=self._state().cluster_id,
            raft_address=own.raft_address,
            api_url=own.api_url or "",
            version=VERSION,
        )

    def snapshot(self) -> GossipSnapshot:
        """Return what gossip has told so far."""
        own = self.facts()
        return GossipSnapshot(
            running=self._gossip is not None and not self._view.failed,
            view=self._view,
            clashes=name_clashes(own, self._view),
        )

    def found(self) -> tuple[str, ...]:
        """Return the Raft addresses of the nodes that gossip, this one left out."""
        own = self._own().raft_address
        addresses = (facts.raft_address for facts in self._view.living())
        return tuple(a for a in addresses if a != own)

    async def run(self) -> None:
        """Gossip for ever."""
        while True:
            if self._gossip is None:
                self._gossip = await asyncio.to_thread(self._open)
            if self._gossip is None:
                await asyncio.sleep(OPEN_AGAIN_S)
                continue
            self._look(self._gossip)
            await asyncio.sleep(LOOK_EVERY_S)

    async def stop(self) -> None:
        """Say goodbye to the others."""
        if self._gossip is not None:
            await asyncio.to_thread(self._gossip.stop)

    def _open(self) -> Gossip | None:
        section = self._config.memberlist
        port = section.bind_port
        try:
            made = Gossip(
                bind=join_host_port(section.bind_address, port),
                address=join_host_port(self._config.node.address, port),
                secret=self._secret,
                cluster=self._config.cluster.name,
                facts=self.facts(),
            )
        except ConsensusError as exc:
            log.state(
                "gossip",
                "gossip_not_available",
                level=logging.WARNING,
                error=str(exc),
                remedy="nothing depends on it; correct memberlist.bind_address or "
                "bind_port, or end whoever has the port",
            )
            return None
        log.info("gossip_listening", address=made.address)
        return made

    def _look(self, gossip: Gossip) -> None:
        gossip.describe(self.facts())
        gossip.learn(self.places())
        self._view = gossip.view()
        if self._view.failed:
            log.state("gossip", "gossip_failed", level=logging.WARNING)
            return
        self._tell_states()
        for address in self._view.refused_from:
            log.state(
                f"gossip from {address}",
                "gossip_refused",
                level=logging.WARNING,
                address=address,
                reason="another secret, cluster or version, or no gossip at all",
            )
        for name, addresses in name_clashes(self.facts(), self._view).items():
            log.state(
                f"name {name}",
                "name_clash",
                level=logging.ERROR,
                node=name,
                addresses=", ".join(addresses),
                remedy="give every node a node.name of its own",
            )

    def places(self) -> list[str]:
        """Return where somebody should be: as the file says, and as the state does."""
        port = self._config.memberlist.bind_port
        hosts = [peer.host for peer in self._config.peers]
        hosts += [member.host for member in self._state().members]
        return [join_host_port(host, port) for host in dict.fromkeys(hosts)]

    def _tell_states(self) -> None:
        now = {
            node.facts.raft_address: (node.state, node.facts.name)
            for node in self._view.nodes
            if node.facts is not None
        }
        for address, (state, name) in now.items():
            if self._told.get(address) == state:
                continue
            self._told[address] = state
            log.info("gossip_tells", node=name, address=address, state=state)
            if state != "alive":
                self._on_suspicion()
        for address in self._told.keys() - now.keys():
            del self._told[address]
