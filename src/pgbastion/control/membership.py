"""Who votes: the next change of the Raft group, when nothing is more urgent."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from pgbastion.control.lease import longest_lease_policy, older_grants_end_ms
from pgbastion.model.actions import (
    ChangeMember,
    Decision,
    MemberChange,
    MoveLeadership,
)
from pgbastion.model.cluster import VOTERS_MAX, ClusterState, Member
from pgbastion.model.ids import MemberId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, RaftView


def membership_first(view: ClusterView, otherwise: Decision) -> Decision:
    """Return the change of membership that is due, else the other decision."""
    change = _next_change(view, otherwise.wake_at_ms)
    return otherwise if change is None else change


def with_membership(view: ClusterView, decision: Decision) -> Decision:
    """Return the decision, with the change of membership that is due after it.

    It comes last, so that a change that fails does not keep the rest back.
    """
    change = _next_change(view, decision.wake_at_ms)
    if change is None:
        return decision
    return replace(decision, actions=(*decision.actions, *change.actions))


def _next_change(view: ClusterView, wake_ms: int | None) -> Decision | None:
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
    heard = _heard(view)
    for member_id in _leaving(view, known):
        if member_id != raft.member_id and keeps_majority(raft, member_id, heard):
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
    if any(_leaving(view, known)):
        return _hand_leadership_on(view, wake_ms)
    return _move_leadership(view, wake_ms)


def _leaving(view: ClusterView, known: Collection[MemberId]) -> Iterator[MemberId]:
    """Yield the ids of the Raft group that the state has no member for any more."""
    raft = view.raft
    return (m for m in (*raft.learners, *raft.voters) if m not in known)


def keeps_majority(
    raft: RaftView, leaving: MemberId, heard: Collection[MemberId]
) -> bool:
    """Tell whether most of the voters that stay are among those that were heard of.

    Without one the group could never change itself again, and no lease be renewed.
    """
    stay = [m for m in raft.voters if m != leaving]
    if len(stay) == len(raft.voters):
        return True
    return 2 * len([m for m in stay if m in heard]) > len(stay)


def next_leaders(
    state: ClusterState, raft: RaftView, heard: Collection[MemberId]
) -> tuple[MemberId, ...]:
    """Return who could lead instead of this leader, the best first."""
    held = state.assignment
    holder = held.member_id if held is not None else None
    able = (m.member_id for m in state.members if m.member_id != raft.member_id)
    fit = (m for m in able if m in raft.voters and m in raft.caught_up and m in heard)
    return tuple(sorted(fit, key=lambda m: (m != holder, m)))


def _heard(view: ClusterView) -> set[MemberId]:
    living = view.known_reports.living()
    heard = {m.member_id for m in view.state.members if m.name in living}
    return heard | {view.raft.member_id}


def _hand_leadership_on(view: ClusterView, wake_ms: int | None) -> Decision:
    """Let another voter remove this leader, or wait for voters to be heard of."""
    if view.state.member(view.raft.member_id) is None:
        for member_id in next_leaders(view.state, view.raft, _heard(view)):
            action = MoveLeadership(member_id=member_id)
            return Decision(Reason.LEAVING_LEADERSHIP, (action,), wake_ms)
    return Decision(Reason.REMOVAL_WAITS, (), wake_ms)


def has_left(state: ClusterState, member_id: MemberId) -> bool:
    """Tell whether a member with this id was one once and is none any more.

    Ids rise and are given once, so what any state says of this holds for ever.
    """
    given = 0 < member_id < state.next_member_id
    return bool(state.cluster_id) and given and state.member(member_id) is None


def _may_change_members(view: ClusterView) -> bool:
    """No change before the ages' wait is over: ages speak of known configurations."""
    policy = longest_lease_policy(view.state)
    if policy is None or view.state.assignment is None:
        return True
    return view.now_ms >= older_grants_end_ms(policy, view.raft, view.ages)


def _becomes_voter(view: ClusterView, member: Member) -> bool:
    raft = view.raft
    return member.member_id in raft.caught_up and len(raft.voters) < VOTERS_MAX


def _move_leadership(view: ClusterView, wake_ms: int | None) -> Decision | None:
    """Primary and Raft leader sit on one node, as soon as the primary accepts."""
    held = view.state.assignment
    if held is None or not (held.opened and held.live):
        return None
    if held.member_id == view.raft.member_id:
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


def voting_note(voters: int, learners: int) -> str:
    """Return what a person should know of how many vote; nothing: all is usual."""
    notes = []
    if voters == 1:
        notes.append("one voter: the cluster does not survive its loss")
    elif voters % 2 == 0 and voters:
        spare = (voters - 1) // 2
        notes.append(
            f"{voters} voters stand the loss of {spare or 'none'}, as {voters - 1} do: "
            "add a node or a witness, or remove one"
        )
    if learners:
        full = f": no more than {VOTERS_MAX} vote" if voters >= VOTERS_MAX else ""
        notes.append(f"{learners} without a vote{full}")
    return "; ".join(notes)
