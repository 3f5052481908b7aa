"""Who votes: the next change of the Raft group, when nothing is more urgent."""

from typing import Final

from pgbastion.control.lease import older_grants_end_ms
from pgbastion.model.actions import (
    ChangeMember,
    Decision,
    MemberChange,
    MoveLeadership,
)
from pgbastion.model.cluster import (
    Member,
)
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView

VOTERS_MAX: Final = 5


def or_membership(view: ClusterView, otherwise: Decision) -> Decision:
    """Return a change of membership if one is due, else the other decision."""
    change = _membership(view, otherwise.wake_at_ms)
    return otherwise if change is None else change


def _membership(view: ClusterView, wake_ms: int | None) -> Decision | None:
    raft = view.raft
    if raft.change_pending or not _may_change_members(view):
        return None
    known = {m.member_id: m for m in view.state.members}
    for member_id in raft.learners:
        member = known.get(member_id)
        if member is not None and _becomes_voter(view, member):
            action = ChangeMember(change=MemberChange.PROMOTE, member_id=member_id)
            return Decision(
                Reason.PROMOTING_LEARNER, (action,), wake_ms, detail=member.name
            )
    for member_id in (*raft.learners, *raft.voters):
        if member_id not in known and member_id != raft.member_id:
            action = ChangeMember(change=MemberChange.REMOVE, member_id=member_id)
            return Decision(Reason.REMOVING_MEMBER, (action,), wake_ms)
    for member in view.state.members:
        if member.member_id not in (*raft.voters, *raft.learners):
            action = ChangeMember(
                change=MemberChange.ADD_LEARNER,
                member_id=member.member_id,
                address=member.raft_address,
            )
            return Decision(
                Reason.ADDING_MEMBER, (action,), wake_ms, detail=member.name
            )
    return _move_leadership(view, wake_ms)


def _may_change_members(view: ClusterView) -> bool:
    """No change before the ages' wait is over: ages speak of known configurations."""
    policy = view.state.policy
    if policy is None or view.state.assignment is None:
        return True
    return view.now_ms >= older_grants_end_ms(policy, view.raft, view.ages)


def _becomes_voter(view: ClusterView, member: Member) -> bool:
    raft = view.raft
    return member.member_id in raft.caught_up and len(raft.voters) < VOTERS_MAX


def _move_leadership(view: ClusterView, wake_ms: int | None) -> Decision | None:
    """Primary and Raft leader sit on one node, as soon as the primary accepts."""
    held = view.state.assignment
    if held is None or not held.opened or held.member_id == view.raft.member_id:
        return None
    received = view.reports.get(held.node)
    accepts = received is not None and received.report.accepting
    if not accepts or held.member_id not in view.raft.voters:
        return None
    if held.member_id not in view.raft.caught_up:
        return None
    return Decision(
        Reason.MOVING_LEADERSHIP,
        (MoveLeadership(member_id=held.member_id),),
        wake_ms,
        detail=held.node,
    )
