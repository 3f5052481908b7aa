"""Whether this node is still a member of its cluster, and what follows if it is not.

A member that is removed while it runs reads so in the log. One that was away finds no
leader, and asks the others. One whose cluster was begun again without it may have a
leader in its old group, so now and then it asks all the same. Only a word under the
cluster's secret counts, and it does so for ever: ids are given once.

A member keeps the Raft address that it joined with. One that was given another is
called in vain, and tells of it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pgbastion.control.membership import has_left
from pgbastion.ha.messages import (
    Kind,
    Standing,
    decode_standing_answer,
    encode_standing,
)
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import MemberId
from pgbastion.observe.logging import get_logger

LOOK_EVERY_S: Final = 1.0
ASK_EVERY_S: Final = 10.0
"""How often a node that has a leader asks whether it is still a member."""

log = get_logger("standing")

AskPeer = Callable[[str, Kind, bytes], Awaitable[bytes | None]]


class Replicated(Protocol):
    """The replicated state."""

    state: ClusterState


class StandingWatch:
    """Waits until this node is a member no more.

    Args:
        host: The replicated state.
        engine: The consensus engine.
        cluster_id: Of the cluster that this node belonged to when it started.
        own_address: This node's own Raft address, as configured; it is not asked.
        peers: Raft addresses of the configured peers.
        ask: Asks one node as a guest; None: it did not answer.
        stop_server: Stops this node's PostgreSQL.
    """

    def __init__(
        self,
        *,
        host: Replicated,
        engine: RaftEngine,
        cluster_id: str,
        own_address: str,
        peers: tuple[str, ...],
        ask: AskPeer,
        stop_server: Callable[[], Awaitable[None]],
    ) -> None:
        self._host = host
        self._engine = engine
        self._cluster_id = cluster_id
        self._own_address = own_address
        self._peers = peers
        self._ask = ask
        self._stop_server = stop_server
        self._noticed = asyncio.Event()

    def notice(self) -> None:
        """Look at once if the log says that this node has left."""
        if self._has_left():
            self._noticed.set()

    async def run(self) -> None:
        """Return when this node has left the cluster and the Raft group.

        Until it has left the group its vote may be needed to take it out, so its engine
        goes on; its PostgreSQL does not.
        """
        stopped = False
        asked_s = time.monotonic()
        while True:
            self._compare_addresses()
            removed = False
            due = time.monotonic() >= asked_s + ASK_EVERY_S
            if due or not self._engine.status().leader:
                asked_s = time.monotonic()
                removed = await self._others_say_removed()
            if removed or self._has_left():
                if not stopped:
                    log.warning("removed_from_cluster", member_id=self._member_id())
                    await self._stop_server()
                    stopped = True
                if removed or not self._in_group():
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._noticed.wait()
                    # Seen once; from then on only the group's word is waited for.
                    self._noticed = asyncio.Event()

    def _compare_addresses(self) -> None:
        status = self._engine.status()
        if status.address in ("", self._own_address):
            return
        if status.voters == (status.member_id,):
            remedy = "pgbastion raft recover, with this daemon stopped"
        else:
            remedy = (
                "remove this node (pgbastion remove-node), move raft.data_dir away and "
                "start it: it joins anew, with its data"
            )
        log.state(
            "raft address",
            "address_differs",
            level=logging.WARNING,
            configured=self._own_address,
            known=status.address,
            reason="the other nodes call this one at the address that it joined with",
            remedy=f"give it back, or {remedy}",
        )

    def _member_id(self) -> MemberId:
        return MemberId(self._engine.status().member_id)

    def _has_left(self) -> bool:
        return has_left(self._host.state, self._member_id())

    def _in_group(self) -> bool:
        status = self._engine.status()
        return status.member_id in (*status.voters, *status.learners)

    async def _others_say_removed(self) -> bool:
        question = encode_standing(
            Standing(cluster_id=self._cluster_id, member_id=self._member_id())
        )
        addresses = {m.raft_address for m in self._host.state.members}
        addresses.update(self._peers)
        addresses.discard(self._own_address)
        answers = await asyncio.gather(
            *(self._ask(address, Kind.STANDING, question) for address in addresses)
        )
        decoded = (decode_standing_answer(answer) for answer in answers if answer)
        return any(answer is not None and answer.left for answer in decoded)
