"""Somebody outside says that a silent holder is off: nobody waits for its lease then.

That somebody is an operator who forces a failover, or the configured program that
switches nodes off. A word counts in the term whose leader took it, after that leader
had stopped answering renewals; what an earlier or a later leader granted it says
nothing about. A program that failed, or did not end in time, changes nothing.

Source: docs/explanation/lease.md, "Assigning another node".
"""

from typing import Final

from pgbastion.control.loss import living_answers
from pgbastion.control.orders import failover_order, may_hold
from pgbastion.control.pause import stops_at_lease_end
from pgbastion.control.survey import (
    answers_with_every_commit,
    hold_every_commit,
    needs_survey,
)
from pgbastion.model.actions import CallFence, CloseLease, Decision, Propose
from pgbastion.model.cluster import Assignment
from pgbastion.model.commands import Vouched
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, FenceCall

FENCE_AGAIN_MS: Final = 5_000
"""After a call that failed the next one waits so long."""
WHO: Final = "failover.fence_command"


def needs_no_lease_wait(view: ClusterView, held: Assignment) -> bool:
    """Tell whether the role may be given on without a wait for its lease."""
    return held.released or _vouched_here(view, held)


def vouch(view: ClusterView, held: Assignment) -> Decision | None:
    """Take an operator's word that a silent holder is off, instead of waiting."""
    order = failover_order(view.state)
    if order is None or not order.force or needs_no_lease_wait(view, held):
        return None
    if view.now_ms < _heard_ms(view):
        return None
    return _take_word(view, held, order.cause)


def switch_off(view: ClusterView, held: Assignment, until_ms: int) -> Decision | None:
    """Have a silent holder switched off, or take the program's word that it is.

    Args:
        view: What the leader sees.
        held: The assignment of the silent holder.
        until_ms: When every lease of it has surely run out.

    Returns:
        None: there is nothing to do now, the lease is waited out.
    """
    call = call_of(view, held)
    if call is not None and call.confirmed and not needs_no_lease_wait(view, held):
        return _take_word(view, held, WHO)
    if not _may_call(view, held, until_ms) or view.now_ms < fence_ms(view, until_ms):
        return None
    member = view.state.member(held.member_id)
    if member is None:
        return None
    calling = CallFence(
        epoch=held.epoch, node=held.node, host=member.host, term=view.raft.term
    )
    return Decision(Reason.FENCING_HOLDER, (calling,), until_ms, detail=held.node)


def fence_ms(view: ClusterView, until_ms: int) -> int:
    """Return from when on the program may be called for a silent holder.

    By then a living holder has begun to stop by itself: nobody who serves is ever
    switched off because a message was late.
    """
    lead_ms = view.fencing.lead_ms if view.fencing is not None else 0
    return max(until_ms - lead_ms, _heard_ms(view))


def call_of(view: ClusterView, held: Assignment) -> FenceCall | None:
    """Return the program's newest run if it counts for this epoch, here and now.

    It does not when another term has begun since, or when a renewal was answered
    after its start: whom it switched off has come back.
    """
    call = view.fencing.call if view.fencing is not None else None
    if call is None or (call.epoch, call.term) != (held.epoch, view.raft.term):
        return None
    return call if call.started_ms > view.raft.last_answer_ms else None


def is_fencing(view: ClusterView, held: Assignment) -> bool:
    """Tell whether the program runs for this holder."""
    call = call_of(view, held)
    return call is not None and not call.ended_ms


def _vouched_here(view: ClusterView, held: Assignment) -> bool:
    return held.vouched and held.vouched_term == view.raft.term


def _heard_ms(view: ClusterView) -> int:
    """Return when a new leader and a new holder have surely heard of each other."""
    lease_ms = view.state.policy.lease_ms if view.state.policy is not None else 0
    return max(view.assigned_seen_ms, view.raft.elected_ms) + lease_ms // 2


def _take_word(view: ClusterView, held: Assignment, who: str) -> Decision:
    command = Vouched(epoch=held.epoch, who=who, at=view.at, term=view.raft.term)
    return Decision(
        Reason.VOUCHED_FOR,
        # Nobody answers it while that is on its way to the log.
        (CloseLease(epoch=held.epoch), Propose(command=command)),
        detail=held.node,
    )


def _may_call(view: ClusterView, held: Assignment, until_ms: int) -> bool:
    if view.fencing is None or view.state.paused or needs_no_lease_wait(view, held):
        return False
    if held.member_id == view.raft.member_id:
        # This node looks after its own PostgreSQL.
        return False
    if view.now_ms >= until_ms and stops_at_lease_end(view.state):
        # Nobody waits for it any more.
        return False
    newest = view.fencing.call
    if newest is not None and not newest.ended_ms:
        # One at a time, also where it was called for somebody else.
        return False
    failed = call_of(view, held)
    if failed is not None and view.now_ms < failed.ended_ms + FENCE_AGAIN_MS:
        return False
    return _is_replaceable(view, held)


def _is_replaceable(view: ClusterView, held: Assignment) -> bool:
    """Tell whether somebody could take the role over, from what nodes report.

    A node that nobody can replace is not switched off: it may come back by itself.
    """
    state = view.state
    living = view.known_reports.living()
    living.pop(held.node, None)
    able = may_hold(state, view.reports)
    answers = living_answers(state, living)
    if not needs_survey(state):
        return any(a.node in able for a in answers)
    known = tuple(a for a in answers if a.wal_end is not None)
    if not hold_every_commit(state, known):
        return False
    return bool(answers_with_every_commit(state, known, able))
