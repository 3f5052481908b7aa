"""How the state takes the founding of a cluster, and its members.

Source: docs/explanation/lease.md, "What is replicated".
"""

from dataclasses import replace
from typing import assert_never

from pgbastion.control.apply_policy import is_sensible
from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import MEMBERS_MAX, ClusterState
from pgbastion.model.commands import Declare, Found, Join, Leave
from pgbastion.model.ids import MemberId, Revision

MembershipCommand = Join | Leave | Declare


def found_cluster(state: ClusterState, command: Found) -> ClusterState | Outcome:
    """Begin the state with its first member; a cluster is founded once."""
    if state.cluster_id:
        return Outcome.ALREADY_FOUNDED
    if not command.cluster_id or command.member.member_id < 1:
        return Outcome.SENSELESS
    if not is_sensible(command.policy):
        return Outcome.SENSELESS
    return replace(
        state,
        revision=Revision(state.revision + 1),
        cluster_name=command.cluster_name,
        cluster_id=command.cluster_id,
        founder=command.member.member_id,
        next_member_id=MemberId(command.member.member_id + 1),
        members=(command.member,),
        policy=command.policy,
        mode=command.mode,
        sync_count=command.sync_count,
        strict=command.strict,
    )


def apply_membership(
    state: ClusterState, command: MembershipCommand
) -> ClusterState | Outcome:
    """Take a member in or out, or what it says of itself."""
    match command:
        case Join():
            return _join(state, command)
        case Leave():
            return _leave(state, command)
        case Declare():
            return _declare(state, command)
        case _:
            assert_never(command)


def _join(state: ClusterState, command: Join) -> ClusterState | Outcome:
    new = command.member
    if state.named(new.name) is not None:
        return Outcome.NAME_TAKEN
    if any(m.raft_address == new.raft_address for m in state.members):
        return Outcome.ADDRESS_TAKEN
    if len(state.members) >= MEMBERS_MAX:
        return Outcome.TOO_MANY_MEMBERS
    # The data directory is declared later, when the node is a member.
    member = replace(new, member_id=state.next_member_id, data_id=None)
    return replace(
        state,
        revision=Revision(state.revision + 1),
        next_member_id=MemberId(state.next_member_id + 1),
        members=(*state.members, member),
    )


def _leave(state: ClusterState, command: Leave) -> ClusterState | Outcome:
    member = state.member(command.member_id)
    if member is None:
        return Outcome.UNKNOWN_MEMBER
    if not any(m.joined for m in state.members if m.member_id != member.member_id):
        return Outcome.LAST_MEMBER
    # A revoked epoch is renewed no more. Its holder, back without its Raft log, may be
    # the only one whose data counts, so it has to be able to join anew.
    if state.is_held_by(member.member_id):
        return Outcome.HOLDS_EPOCH
    kept = tuple(m for m in state.members if m.member_id != member.member_id)
    fences = tuple(f for f in state.fences if f.node != member.name)
    return replace(
        state, revision=Revision(state.revision + 1), members=kept, fences=fences
    )


def _declare(state: ClusterState, command: Declare) -> ClusterState | Outcome:
    new = command.member
    old = state.member(new.member_id)
    if old is None:
        return Outcome.UNKNOWN_MEMBER
    other = state.named(new.name)
    if other is not None and other.member_id != new.member_id:
        return Outcome.NAME_TAKEN
    known = state.system_identifier
    declared = command.system_identifier
    if known is not None and declared is not None and declared != known:
        return Outcome.SENSELESS
    if known is None and new.member_id != state.founder:
        declared = None
    if new == old and (declared is None or declared == known):
        return Outcome.NO_CHANGE
    members = tuple(new if m.member_id == new.member_id else m for m in state.members)
    return replace(
        state,
        revision=Revision(state.revision + 1),
        members=members,
        system_identifier=known or declared,
    )
