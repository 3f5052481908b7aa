"""How this node becomes a member, and lets others become members."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pgbastion.config.facts import runs_server
from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.consensus.certificates import Credentials
from pgbastion.consensus.directory import read_directory
from pgbastion.consensus.engine import (
    Engine,
    PeerDiffersError,
    SecretDiffersError,
    ask_as_guest,
)
from pgbastion.control.apply import Outcome
from pgbastion.errors import (
    ConfigError,
    ConsensusError,
    PgBastionError,
    PostgresError,
)
from pgbastion.ha.host import Host
from pgbastion.ha.joining import Identity, Joiner
from pgbastion.ha.member_admission import MemberAdmission
from pgbastion.ha.messages import Brings, Kind
from pgbastion.ha.ports import DataFacts
from pgbastion.ha.standing import StandingWatch
from pgbastion.model.cluster import Member, join_host_port
from pgbastion.model.commands import Found
from pgbastion.model.ids import MemberId
from pgbastion.node.disaster_recovery import state_of
from pgbastion.node.parts import policy_of
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.instance import Instance
from pgbastion.proxy.sockets import holder_of

GUEST_TIMEOUT_S: Final = 1.0
FOUND_AGAIN_S: Final = 0.2
DATA_NOTE: Final = "had-data"
"""In the Raft directory: this node had a data directory once."""

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
        credentials: Credentials | None,
        found: Callable[[], Sequence[str]],
    ) -> None:
        self._found = found
        self._config = config
        self._secrets = secrets
        self._credentials = credentials
        self._engine = engine
        self._host = host
        self._instance = instance
        self._own = own
        self._joiner: Joiner | None = None
        self._note = config.raft.data_dir / DATA_NOTE
        self.lost_data = False
        """A human said that this member's data is gone: it may be copied anew."""
        self._admission = MemberAdmission(host, own, timeout_s=GUEST_TIMEOUT_S)

    @property
    def peers(self) -> tuple[str, ...]:
        """The Raft addresses of the configured peers."""
        return tuple(join_host_port(p.host, p.port) for p in self._config.peers)

    async def obtain(self) -> None:
        """Found a cluster, join one, or take up the identity that there is."""
        known = self._engine.identity()
        if known is not None:
            refuse_copied_directory(
                self._config.raft.data_dir,
                self._own,
                known_address=self._engine.status().address,
            )
        facts = await self._look_at_data(is_member=known is not None)
        brings = Brings.NOTHING
        if facts is not None and facts.unmarked and known is None:
            brings = await self._check_takeover()
        if brings is not Brings.PRIMARY:
            self._check_port()
        if known is None:
            config = self._config
            self._joiner = Joiner(
                own=self._own,
                cluster_name=config.cluster.name,
                peers=self.peers,
                founding=config.raft.bootstrap and self._may_found(facts),
                marked_cluster_id=facts.cluster_id if facts is not None else None,
                auto_join=config.cluster.auto_join,
                brings=brings,
                ask=self.ask_peer,
                found=self._found,
            )
            identity = await self._joiner.run()
            self._take_identity(identity)
            known = self._engine.identity()
        if known is None:
            raise PgBastionError("the consensus engine has no identity")
        self._joiner = None
        if self._instance is not None:
            self._instance.cluster_id = known[0]
            if facts is not None and facts.cluster_id not in (None, known[0]):
                raise ConfigError(
                    f"postgresql.data_dir belongs to the cluster {facts.cluster_id}, "
                    f"raft.data_dir to {known[0]}: correct one of them"
                )
        log.info("member", cluster_id=known[0], member_id=known[1])

    async def _look_at_data(self, *, is_member: bool) -> DataFacts | None:
        """Look at the data directory before anything is asked of anybody.

        Raises:
            ConfigError: It cannot be this node's; the message has the remedy.
        """
        if self._instance is None:
            return None
        facts = await self._instance.inspect(running=False)
        if facts.unmarked and self._config.raft.bootstrap and not self._note.exists():
            # The founder may bring one. Of a member that is none, the state knows.
            return facts
        if facts.problem is not None:
            raise ConfigError(
                f"postgresql.data_dir: {facts.problem}; correct the setting, or "
                "move what is there away: this node then copies the primary's data"
            )
        if facts.emptied:
            return facts
        note = self._note
        self.lost_data = facts.empty and is_member and not note.exists()
        if facts.empty and is_member and note.exists():
            section = self._config.postgresql
            place = section.data_dir if section is not None else ""
            raise ConfigError(
                f"postgresql.data_dir: {place} is empty, and this node had data there: "
                f"is its file system mounted? If the data is lost, remove {note}, and "
                "this node copies the primary's"
            )
        return facts

    async def _check_takeover(self) -> Brings:
        """Say what PostgreSQL this node brings, once it is sure to be taken over.

        Raises:
            ConfigError: Something is in the way; the message has the remedy.
        """
        if self._instance is None:
            return Brings.NOTHING
        try:
            running = await self._instance.check_takeover()
        except PostgresError as exc:
            raise ConfigError(f"postgresql.data_dir: {exc}") from exc
        brings = Brings.STOPPED if running is None else Brings.PRIMARY
        log.info("postgres_found", brings=brings)
        return brings

    def _check_port(self) -> None:
        """Look whether the server's port is free, as long as no server of ours runs.

        Raises:
            ConfigError: Somebody else has it.
        """
        section = self._config.postgresql
        if section is None or runs_server(section.data_dir):
            return
        address, port = section.listen, section.port
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.create_server((address, port), family=family).close()
        except OSError as exc:
            holder = holder_of(port)
            raise ConfigError(
                f"postgresql.port: PostgreSQL cannot listen on "
                f"{join_host_port(address, port)}: {exc.strerror}"
                + (f", {holder} does: end it, or take another port" if holder else "")
            ) from exc

    def note_data(self) -> None:
        """Remember that this node has data, for a start without its file system."""
        if not self._note.exists():
            self._note.touch(mode=0o600)

    def _may_found(self, facts: DataFacts | None) -> bool:
        """A data directory with a mark belongs to a cluster: it never founds one."""
        if facts is None or not facts.ours:
            return True
        log.warning("not_founding", reason="the data directory has a cluster's mark")
        return False

    def _take_identity(self, identity: Identity) -> None:
        if identity.peers:
            self._engine.join(
                identity.cluster_id, identity.member_id, list(identity.peers)
            )
        else:
            self._engine.form(
                identity.cluster_id, identity.member_id, self._own.raft_address
            )

    async def ask_peer(self, address: str, kind: Kind, payload: bytes) -> bytes | None:
        """Ask one node as a guest; None: it did not answer.

        Raises:
            ConfigError: It has another secret, and this node might found a cluster.
        """
        try:
            return await ask_as_guest(
                address,
                self._secrets.cluster,
                kind,
                payload,
                timeout_s=GUEST_TIMEOUT_S,
                credentials=self._credentials,
            )
        except PeerDiffersError as exc:
            other_secret = isinstance(exc, SecretDiffersError)
            remedy = (
                "cluster.secret_file has to be the same on every node"
                if other_secret
                else "raft.tls_enabled has to be the same on every node"
            )
            if self._config.raft.bootstrap:
                # That one may belong to a cluster: nothing is founded beside it.
                raise ConfigError(f"{exc}: {remedy}") from exc
            log.state(
                f"peer {address}",
                "secret_differs" if other_secret else "transport_differs",
                level=logging.ERROR,
                reason=str(exc),
                remedy=remedy,
            )
            return None
        except ConsensusError as exc:
            log.state(f"peer {address}", "peer_does_not_answer", reason=str(exc))
            return None

    def standing(self, stop_server: Callable[[], Awaitable[None]]) -> StandingWatch:
        """Return who finds out that this member has left its cluster."""
        known = self._engine.identity()
        return StandingWatch(
            host=self._host,
            engine=self._engine,
            cluster_id=known[0] if known else "",
            own_address=self._own.raft_address,
            peers=self.peers,
            ask=self.ask_peer,
            stop_server=stop_server,
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
        config = self._config
        return Found(
            cluster_name=config.cluster.name,
            cluster_id=identity[0],
            member=replace(self._own, member_id=MemberId(identity[1]), joined=True),
            policy=policy_of(config.failover.profile),
            mode=config.replication.mode,
            sync_count=config.replication.sync_count,
            strict=config.replication.strict,
        )

    async def answer_guest(self, kind: int, payload: bytes) -> bytes:
        """Answer a node that is no member."""
        if self._joiner is not None:
            return self._joiner.answer(kind, payload)
        return await self._admission.answer(kind, payload)


def refuse_copied_directory(
    directory: Path, own: Member, *, known_address: str
) -> None:
    """Refuse the Raft directory of another node: two would vote under one id.

    A name or an address alone may have been changed in the configuration.

    Args:
        directory: The Raft directory.
        own: This node, as configured.
        known_address: Where the others call the member that the directory is of;
            empty: nobody knows yet.

    Raises:
        ConfigError: It is another node's.
    """
    if known_address in ("", own.raft_address):
        return
    found = read_directory(directory)
    if found is None:
        return
    member = state_of(found).member(MemberId(found.member_id))
    if member is not None and member.name != own.name:
        raise ConfigError(
            f"raft.data_dir: {directory} is of the node {member.name} at "
            f"{known_address}, and this is {own.name} at {own.raft_address}. Was this "
            "machine copied from that one? Move this directory and "
            "postgresql.data_dir away: this node joins as a member of its own"
        )
