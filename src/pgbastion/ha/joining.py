"""How a node without an identity gets one: it founds a cluster or joins one.

A node asks its peers first, always. One that may found a cluster does so only when
no peer belongs to one and no other founder goes first: of founders that see each
other, one that brings a PostgreSQL founds, else the lowest address, so that one
cluster or none comes of it. One whose PostgreSQL runs waits until all peers answer:
it goes on as a primary, and none of them may have another.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pgbastion.clock import boottime_ms
from pgbastion.errors import ConfigError
from pgbastion.ha.messages import (
    Brings,
    Guest,
    Kind,
    Welcome,
    decode_guest,
    decode_welcome,
    encode_guest,
    encode_welcome,
)
from pgbastion.model.cluster import Member
from pgbastion.model.ids import MemberId
from pgbastion.observe.logging import get_logger

ASK_AGAIN_S: Final = 0.5
CONTENDER_MS: Final = 5_000
"""For so long another founder that was heard of may still go first."""

log = get_logger("join")

AskPeer = Callable[[str, Kind, bytes], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node needs to be a member."""

    cluster_id: str
    member_id: MemberId
    peers: tuple[tuple[int, str], ...]
    """The other members; empty for the founder."""


class Joiner:
    """Finds out which cluster this node belongs to.

    Args:
        own: This node's member record; its id is ignored.
        cluster_name: The configured name.
        peers: Raft addresses of the configured peers.
        found: Raft addresses of further nodes, as gossip knows them at that moment.
        founding: Whether this node may found a cluster.
        auto_join: Whether it asks to be let in.
        marked_cluster_id: Whose mark the data directory carries: it joins no other.
        brings: A PostgreSQL without a mark in the data directory: it joins none.
        ask: Asks one peer as a guest; None: it did not answer.
    """

    def __init__(
        self,
        *,
        own: Member,
        cluster_name: str,
        peers: Sequence[str],
        founding: bool,
        auto_join: bool,
        ask: AskPeer,
        marked_cluster_id: str | None = None,
        brings: Brings = Brings.NOTHING,
        found: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._found = found
        self._marked_cluster_id = marked_cluster_id
        self._guest = Guest(
            member=own,
            cluster_name=cluster_name,
            founding=founding,
            auto_join=auto_join,
            brings=brings,
        )
        self._peers = tuple(peers)
        self._ask = ask
        self._contenders: dict[str, tuple[int, Brings]] = {}
        self.stage: Literal["waiting", "founding", "forming"] = (
            "founding" if founding else "waiting"
        )

    async def run(self) -> Identity:
        """Ask until this node has an identity.

        Raises:
            ConfigError: A cluster refuses this node for what a human has to correct.
        """
        while True:
            welcomes = await self._ask_all()
            identity = await self._join_one(welcomes)
            if identity is not None:
                return identity
            if self._may_form(welcomes):
                # From here on every guest is told so: nobody forms beside us.
                self.stage = "forming"
                return Identity(
                    cluster_id=secrets.token_hex(16), member_id=MemberId(1), peers=()
                )
            await asyncio.sleep(ASK_AGAIN_S)

    async def _ask_all(self) -> tuple[Welcome, ...]:
        question = encode_guest(self._guest)
        answers = await asyncio.gather(
            *(
                self._ask(peer, Kind.WHO, question)
                for peer in dict.fromkeys((*self._peers, *self._found()))
            )
        )
        decoded = (decode_welcome(a) for a in answers if a is not None)
        return tuple(w for w in decoded if w is not None)

    async def _join_one(self, welcomes: tuple[Welcome, ...]) -> Identity | None:
        own = self._guest.member.name
        for welcome in welcomes:
            if welcome.state != "member":
                continue
            self._check_cluster(welcome)
            guest = replace(self._guest, known_id=welcome.known_id)
            data = await self._ask(welcome.raft_address, Kind.JOIN, encode_guest(guest))
            answer = None if data is None else decode_welcome(data)
            if answer is None:
                continue
            if answer.member_id:
                return Identity(
                    cluster_id=answer.cluster_id,
                    member_id=answer.member_id,
                    peers=answer.peers,
                )
            if answer.is_final:
                raise ConfigError(
                    f"{answer.node} does not let {own} in: {answer.refused}"
                )
            log.state("join", "not_admitted", peer=answer.node, reason=answer.refused)
        return None

    def _check_cluster(self, welcome: Welcome) -> None:
        configured = self._guest.cluster_name
        peer = f"the node {welcome.node} at {welcome.raft_address}"
        if welcome.cluster_name != configured:
            raise ConfigError(
                f"cluster.name: {peer} belongs to the cluster {welcome.cluster_name}, "
                f"this node is configured for {configured}: correct cluster.name or "
                "cluster.peers"
            )
        if self._guest.brings is not Brings.NOTHING:
            raise ConfigError(
                f"postgresql.data_dir: it holds a PostgreSQL, and {peer} belongs to a "
                "cluster already: move the directory away, so that this node copies "
                "the cluster's data, or correct postgresql.data_dir or cluster.peers"
            )
        if self._marked_cluster_id not in (None, welcome.cluster_id):
            raise ConfigError(
                "postgresql.data_dir belongs to the cluster "
                f"{self._marked_cluster_id}, {peer} to {welcome.cluster_id}: move the "
                "directory away, or correct postgresql.data_dir or cluster.peers"
            )

    def _may_form(self, welcomes: tuple[Welcome, ...]) -> bool:
        if not self._guest.founding:
            return False
        if any(w.state in ("member", "forming") for w in welcomes):
            return False
        self._check_nobody_else_brings(welcomes)
        if self._guest.brings is Brings.PRIMARY and len(welcomes) < len(self._peers):
            answered = ", ".join(sorted(w.raft_address for w in welcomes))
            log.state(
                "join",
                "waiting_for_all_peers",
                reason="a running primary is taken over when all peers answer",
                answered=answered,
            )
            return False
        own = self._guest.member.raft_address
        now_ms = boottime_ms()
        seen = {(w.raft_address, w.brings) for w in welcomes if w.state == "founding"}
        seen |= {
            (address, brings)
            for address, (at_ms, brings) in self._contenders.items()
            if now_ms - at_ms < CONTENDER_MS
        }
        first = _rank(own, self._guest.brings)
        return all(first <= _rank(address, brings) for address, brings in seen)

    def _check_nobody_else_brings(self, welcomes: tuple[Welcome, ...]) -> None:
        """Refuse to choose between two databases: a human has to."""
        if self._guest.brings is Brings.NOTHING:
            return
        for welcome in welcomes:
            if welcome.brings is not Brings.NOTHING:
                raise ConfigError(
                    "postgresql.data_dir: this node and "
                    f"{welcome.node} at {welcome.raft_address} both hold a PostgreSQL "
                    "that could found the cluster: move one of the two away"
                )

    def answer(self, kind: int, payload: bytes) -> bytes:
        """Answer a guest while this node is none's member itself."""
        guest = decode_guest(payload) if kind in (Kind.WHO, Kind.JOIN) else None
        if guest is not None and guest.founding:
            contender = (boottime_ms(), guest.brings)
            self._contenders[guest.member.raft_address] = contender
        own = self._guest.member
        return encode_welcome(
            Welcome(
                node=own.name,
                state=self.stage,
                raft_address=own.raft_address,
                refused="this node is not a member of a cluster itself",
                brings=self._guest.brings,
            )
        )


def _rank(address: str, brings: Brings) -> tuple[bool, str]:
    """Return what the least of founds the cluster: who brings data comes first."""
    return brings is Brings.NOTHING, address
