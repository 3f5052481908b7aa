"""How this node becomes a member, and lets others become members."""

import asyncio
from dataclasses import replace
from typing import Final

from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.consensus.engine import Engine, ask_as_guest
from pgbastion.control.apply import Outcome
from pgbastion.errors import PgBastionError
from pgbastion.ha.host import Host
from pgbastion.ha.joining import Doorkeeper, Identity, Joiner
from pgbastion.ha.talk import Kind
from pgbastion.model.cluster import Member, Policy, join_host_port
from pgbastion.model.commands import Found
from pgbastion.model.ids import MemberId
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.instance import Instance

GUEST_TIMEOUT_S: Final = 1.0
FOUND_AGAIN_S: Final = 0.2

log = get_logger("node")


class Membership:
    """This node's place in a cluster."""

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        *,
        engine: Engine,
        host: Host,
        instance: Instance | None,
        own: Member,
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._engine = engine
        self._host = host
        self._instance = instance
        self._own = own
        self._joiner: Joiner | None = None
        self._doorkeeper = Doorkeeper(host, own, timeout_s=GUEST_TIMEOUT_S)

    async def obtain(self) -> None:
        """Found a cluster, join one, or take up the identity that there is."""
        known = self._engine.identity()
        if known is None:
            config = self._config
            self._joiner = Joiner(
                own=self._own,
                cluster_name=config.cluster.name,
                peers=[join_host_port(peer.host, peer.port) for peer in config.peers],
                founding=config.raft.bootstrap and await self._may_found(),
                auto_join=config.cluster.auto_join,
                ask=self._ask_peer,
            )
            identity = await self._joiner.run()
            self._take_identity(identity)
            known = self._engine.identity()
        if known is None:
            raise PgBastionError("the consensus engine has no identity")
        self._joiner = None
        if self._instance is not None:
            self._instance.cluster_id = known[0]
        log.info("member", cluster_id=known[0], member_id=known[1])

    async def _may_found(self) -> bool:
        """A data directory with a mark belongs to a cluster: it never founds one."""
        if self._instance is None:
            return True
        facts = await self._instance.inspect(running=False)
        if facts.ours:
            log.warning(
                "not_founding", reason="the data directory has a cluster's mark"
            )
        return not facts.ours

    def _take_identity(self, identity: Identity) -> None:
        if identity.peers:
            self._engine.join(
                identity.cluster_id, identity.member_id, list(identity.peers)
            )
        else:
            self._engine.form(
                identity.cluster_id, identity.member_id, self._own.raft_address
            )

    async def _ask_peer(self, address: str, kind: Kind, payload: bytes) -> bytes | None:
        return await ask_as_guest(
            address, self._secrets.cluster, kind, payload, GUEST_TIMEOUT_S
        )

    async def found(self) -> None:
        """Put the first command into the log of a cluster that this node formed."""
        while not self._host.state.cluster_id:
            raft = self._host.raft()
            identity = self._engine.identity()
            alone = raft.voters == (raft.member_id,)
            if identity and raft.is_leader and raft.own_entry_applied and alone:
                command = self._first_command(identity)
                outcome = await self._host.propose(command, timeout_s=GUEST_TIMEOUT_S)
                if outcome is Outcome.OK:
                    log.info("cluster_founded", name=command.cluster_name)
            await asyncio.sleep(FOUND_AGAIN_S)

    def _first_command(self, identity: tuple[str, int]) -> Found:
        config, timings = self._config, self._config.timings
        return Found(
            cluster_name=config.cluster.name,
            cluster_id=identity[0],
            member=replace(self._own, member_id=MemberId(identity[1]), joined=True),
            policy=Policy(
                lease_ms=timings.lease_ms,
                drift_ppm=timings.drift_ppm,
                margin_ms=timings.margin_ms,
            ),
            mode=config.replication.mode,
            sync_count=config.replication.sync_count,
            strict=config.replication.strict,
        )

    async def answer_guest(self, kind: int, payload: bytes) -> bytes:
        """Answer a node that is no member."""
        if self._joiner is not None:
            return self._joiner.answer(kind, payload)
        return await self._doorkeeper.answer(kind, payload)
