"""Takes nodes in, takes them out, and moves Raft leadership, at an operator's word."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pgbastion.api.ports import Done, Outcome, Refused, Unknown
from pgbastion.clock import boottime_ms
from pgbastion.control.apply import Outcome as LogOutcome
from pgbastion.control.membership import keeps_majority, next_leaders
from pgbastion.control.outcomes import SENTENCES
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.cluster import Member, join_host_port
from pgbastion.model.commands import Join, Leave
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.node.proposing import Log, Rehearsal, outside
from pgbastion.observe.logging import get_logger

PROPOSE_TIMEOUT_S: Final = 2.0
TRANSFER_TIMEOUT_S: Final = 2.0
LOOK: Final = "look at /raft/peers, then repeat"

log = get_logger("members")


class MemberOrders:
    """Changes of the membership on behalf of people, and of a daemon that stops.

    Args:
        host: The replicated state and the reports.
        engine: The consensus engine.
        own: This node's member record.
        fresh_ms: How old a report of a living node may be.
    """

    def __init__(
        self,
        host: Log,
        engine: RaftEngine,
        *,
        own: Callable[[], Member],
        fresh_ms: int,
    ) -> None:
        self._host = host
        self._engine = engine
        self._own = own
        self.fresh_ms = fresh_ms

    def on(self, host: Log) -> "MemberOrders":
        """Return the same on another log."""
        return MemberOrders(host, self._engine, own=self._own, fresh_ms=self.fresh_ms)

    @property
    def _rehearses(self) -> bool:
        return isinstance(self._host, Rehearsal)

    async def add(self, name: NodeId, host: str, raft_port: int) -> Outcome:
        """Announce a node, so that it is let in when it comes."""
        if (refused := outside(self._host)) is not None:
            return refused
        known = self._host.state.named(name)
        address = join_host_port(host, raft_port)
        if known is not None and known.raft_address == address:
            return Done(facts={"id": name, "member_id": int(known.member_id)})
        if known is not None:
            return Refused(
                code="name_taken",
                message=f"{name} is a member at {known.raft_address}",
                remedy="choose another name, or remove that member first",
            )
        # Where its other parts listen, it says itself when it comes. Until then it
        # counts as no server: a slot that nobody reads would keep WAL for ever, and
        # half of the servers would be one more.
        announced = replace(
            self._own(),
            name=name,
            host=host,
            raft_port=raft_port,
            postgres_port=None,
            joined=False,
            data_id=None,
        )
        outcome = await self._host.propose(
            Join(member=announced), timeout_s=PROPOSE_TIMEOUT_S
        )
        member = self._host.state.named(name)
        if outcome is None:
            return _unknown(f"{name} was added")
        if outcome is not LogOutcome.OK or member is None:
            return Refused(
                code=str(outcome),
                message=f"{name} at {address} was not added: {SENTENCES[outcome]}",
                remedy="look at /raft/peers",
            )
        if not self._rehearses:
            log.info("peer_announced", node=name, address=address)
        return Done(facts={"id": name, "member_id": int(member.member_id)})

    async def remove(self, name: NodeId) -> Outcome:
        """Take a node out of the cluster; the Raft leader then takes its vote."""
        if (refused := outside(self._host)) is not None:
            return refused
        member = self._host.state.named(name)
        if member is None:
            names = ", ".join(m.name for m in self._host.state.members)
            return Refused(
                code="unknown_member",
                message=f"there is no member {name}",
                remedy=f"the members are {names}",
            )
        refused = self._removal_refused(member)
        if refused is not None:
            return refused
        outcome = await self._host.propose(
            Leave(member_id=member.member_id), timeout_s=PROPOSE_TIMEOUT_S
        )
        if outcome is None:
            return _unknown(f"{name} was removed")
        if outcome is LogOutcome.HOLDS_EPOCH:
            return _is_primary(name)
        if outcome is not LogOutcome.OK:
            return Refused(
                code=str(outcome),
                message=f"{name} was not removed: {SENTENCES[outcome]}",
                remedy=LOOK,
            )
        if not self._rehearses:
            log.info("peer_removed", node=name, member_id=member.member_id)
        return Done(facts={"id": name, "member_id": int(member.member_id)})

    def _removal_refused(self, member: Member) -> Refused | None:
        state, name = self._host.state, member.name
        held = state.assignment
        if held is not None and held.member_id == member.member_id:
            if held.live:
                return _is_primary(name)
            if not held.released:
                # It may have commits that no other node has.
                return Refused(
                    code="held_last",
                    message=f"{name} was the last primary, and there is no other yet",
                    remedy="wait for the failover, or order one (pgbastion failover)",
                )
        others = [m for m in state.members if m is not member]
        if not any(m.joined for m in others):
            return Refused(
                code="last_member",
                message=f"{name} is the cluster's last node",
                remedy="stop its daemon instead",
            )
        status = self._engine.status()
        known = {int(m.member_id) for m in state.members}
        group = {*status.voters, *status.learners}
        if group - known:
            return Refused(
                code="pending",
                message=f"{name} was not removed: another node is still leaving",
                remedy=LOOK,
            )
        heard = self._heard()
        if not keeps_majority(self._host.raft(), member.member_id, heard):
            return Refused(
                code="loses_majority",
                message=f"without {name} the voters that answer are no majority",
                remedy="bring silent nodes back, or remove those first",
            )
        return None

    def _heard(self) -> set[MemberId]:
        """Return the members that were heard of just now, this one included."""
        since_ms = boottime_ms() - self.fresh_ms
        heard = {self._host.raft().member_id}
        for node, received in self._host.reports.items():
            member = self._host.state.named(node)
            if member is not None and received.at_ms >= since_ms:
                heard.add(member.member_id)
        return heard

    async def transfer(self, to: NodeId) -> Outcome:
        """Hand Raft leadership to a voter."""
        member, raft = self._host.state.named(to), self._host.raft()
        if member is None or member.member_id not in raft.voters:
            return Refused(
                code="not_voter",
                message=f"{to} is not a voter",
                remedy="look at /raft/peers for the voters",
            )
        if not raft.leader:
            return Refused(
                code="no_leader",
                message="there is no Raft leader that could hand leadership on",
                remedy="look at /raft/state on a majority of the nodes",
            )
        facts: dict[str, object] = {
            "leader": to,
            "changed": raft.leader != member.member_id,
        }
        held = self._host.state.assignment
        if held is not None and held.live and held.member_id != member.member_id:
            facts["note"] = (
                f"it goes back to the primary's node, {held.node}, by itself"
            )
        if raft.leader == member.member_id or self._rehearses:
            return Done(facts=facts)
        began_ms = boottime_ms()
        if not await self._engine.transfer(member.member_id, TRANSFER_TIMEOUT_S):
            return Refused(
                code="not_transferred",
                message=f"{to} did not take Raft leadership in time",
                remedy="look whether it is reachable, and at /raft/peers how far it is",
            )
        return Done(facts={**facts, "ms": boottime_ms() - began_ms})

    async def hand_leadership_on(self) -> None:
        """Have another voter lead before this daemon ends, so that nobody waits."""
        raft = self._host.raft()
        if not raft.is_leader:
            return
        for member_id in next_leaders(self._host.state, raft, self._heard()):
            moved = await self._engine.transfer(member_id, TRANSFER_TIMEOUT_S / 2)
            log.info("leadership_handed_on", member=member_id, moved=moved)
            if moved:
                return

    async def snapshot(self) -> Outcome:
        """Let this node's log up to now go: the state stands for it."""
        index = self._host.compact()
        return Done(facts={"node": self._own().name, "index": index})


def _is_primary(name: NodeId) -> Refused:
    return Refused(
        code="is_primary",
        message=f"{name} holds the primary role",
        remedy="switch over first (pgbastion remove-node does both)",
    )


def _unknown(what: str) -> Unknown:
    return Unknown(message=f"nobody can tell yet whether {what}", remedy=LOOK)
