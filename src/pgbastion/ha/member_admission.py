"""How a member answers guests: who the cluster is, who comes in, who is one no more.

A guest is a node without an identity; :mod:`.joining` is its side of it.
"""

from dataclasses import replace
from typing import Protocol

from pgbastion.control.apply import Outcome
from pgbastion.control.membership import has_left
from pgbastion.ha.messages import (
    Guest,
    Kind,
    StandingAnswer,
    Welcome,
    decode_guest,
    decode_standing,
    encode_standing_answer,
    encode_welcome,
)
from pgbastion.model.cluster import ClusterState, Member
from pgbastion.model.commands import Command, Declare, Join, Leave
from pgbastion.model.ids import NO_MEMBER


class StateMachine(Protocol):
    """The replicated state and the way to change it."""

    state: ClusterState

    async def propose(self, command: Command, *, timeout_s: float) -> Outcome | None:
        """Return what became of a command; None: nobody knows."""


class MemberAdmission:
    """Answers guests on behalf of the cluster, and lets those in that may come.

    Args:
        host: The replicated state.
        own: This node's name and Raft address.
        timeout_s: How long a proposal may take.
    """

    def __init__(self, host: StateMachine, own: Member, *, timeout_s: float) -> None:
        self._host = host
        self._own = own
        self._timeout_s = timeout_s

    async def answer(self, kind: int, payload: bytes) -> bytes:
        """Answer who this cluster is, or let a node in."""
        if kind == Kind.STANDING:
            return self._answer_standing(payload)
        guest = decode_guest(payload)
        state = self._host.state
        known = state.named(guest.member.name) if guest is not None else None
        welcome = Welcome(
            node=self._own.name,
            state="member" if state.cluster_id else "forming",
            raft_address=self._own.raft_address,
            cluster_id=state.cluster_id,
            cluster_name=state.cluster_name,
            known_id=known.member_id if known is not None else NO_MEMBER,
        )
        if guest is None:
            welcome = replace(welcome, refused="not understood")
        elif kind == Kind.JOIN and state.cluster_id:
            welcome = await self._admit(guest, welcome)
        return encode_welcome(welcome)

    def _answer_standing(self, payload: bytes) -> bytes:
        question = decode_standing(payload)
        state = self._host.state
        if question is None or question.cluster_id != state.cluster_id:
            return b""
        left = has_left(state, question.member_id)
        return encode_standing_answer(StandingAnswer(node=self._own.name, left=left))

    async def _admit(self, guest: Guest, welcome: Welcome) -> Welcome:
        if guest.cluster_name != self._host.state.cluster_name:
            refused = "this cluster has another name"
            return replace(welcome, refused=refused, is_final=True)
        other = self._other_of_its_name(guest.member)
        if other:
            return replace(welcome, refused=other, is_final=True)
        refused = await self._make_member(guest)
        member = self._host.state.named(guest.member.name)
        if refused or member is None:
            return replace(welcome, refused=refused or "the outcome is unknown")
        peers = tuple(
            (int(m.member_id), m.raft_address)
            for m in self._host.state.members
            if m.member_id != member.member_id
        )
        return replace(welcome, member_id=member.member_id, peers=peers)

    def _other_of_its_name(self, guest: Member) -> str:
        known = self._host.state.named(guest.name)
        if known is None or known.raft_address == guest.raft_address:
            return ""
        return (
            f"a node called {guest.name} is a member at {known.raft_address}; "
            "give this node another name, or remove that member first"
        )

    async def _make_member(self, guest: Guest) -> str:
        """Make the guest a member; return why not, or nothing."""
        new = replace(guest.member, joined=True)
        known = self._host.state.named(new.name)
        if known is None:
            if guest.auto_join:
                return await self._propose(Join(member=new))
            return (
                f"add it by hand: pgbastion add-node --name {new.name} "
                f"--address {new.raft_address}"
            )
        if not known.joined:
            claimed = replace(new, member_id=known.member_id)
            return await self._propose(Declare(member=claimed, system_identifier=None))
        if guest.known_id not in (None, known.member_id):
            # It asked long ago. Another node has let it in since, and it is at work.
            return "another node has let one of its name in"
        # It has no identity and stands where a member stood: that one's disk is
        # lost (or the answer to it was), and a Raft id is never used again.
        refused = await self._propose(Leave(member_id=known.member_id))
        return refused or await self._propose(Join(member=new))

    async def _propose(self, command: Join | Leave | Declare) -> str:
        outcome = await self._host.propose(command, timeout_s=self._timeout_s)
        return "" if outcome is Outcome.OK else f"not admitted: {outcome}"
