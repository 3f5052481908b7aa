"""What the Raft leader decides for the cluster: who has the primary role.

``decide_cluster`` looks at one picture of the cluster and answers with commands
for the log and questions to the nodes. Read it top-down: membership when nothing
is more urgent; the first primary; then the life of an assignment: it is renewed,
or its lease runs out or it is released, it is revoked, the nodes are surveyed,
and the next one is assigned.

Source: docs/explanation/lease.md.
"""

from typing import Final

from pgbastion.control.fencing import (
    fence_ms,
    is_fencing,
    needs_no_lease_wait,
    switch_off,
    vouch,
)
from pgbastion.control.lease import (
    granted_ms,
    longest_lease_policy,
    older_grants_end_ms,
    own_grants_end_ms,
)
from pgbastion.control.membership import membership_first, with_membership
from pgbastion.control.orders import failover_order, is_ordered
from pgbastion.control.pause import stops_at_lease_end
from pgbastion.control.policy import decide_policy
from pgbastion.control.schedules_and_fences import (
    decide_schedules_and_fences,
    ended_by_fence,
)
from pgbastion.control.succession import (
    ask_servers,
    choose_by_survey,
    choose_without_survey,
    next_timeline,
)
from pgbastion.control.survey import needs_survey
from pgbastion.model.actions import AskAges, CloseLease, Decision, Propose
from pgbastion.model.cluster import (
    Assignment,
    ClusterState,
    Member,
    OrderOutcome,
    Policy,
)
from pgbastion.model.commands import Assign, Revoke, SettleOrder
from pgbastion.model.ids import DataId, Epoch
from pgbastion.model.reasons import Reason
from pgbastion.model.report import PostgresState
from pgbastion.model.views import ClusterView

AGES_AGAIN_MS: Final = 200
"""How soon voters that have not told their age are asked again."""
STUCK: Final = frozenset(
    {
        Reason.COMMITS_MAY_BE_MISSING,
        Reason.NO_CANDIDATE,
        Reason.LAG_TOO_LARGE,
        Reason.PAUSE_MAY_LAST_THERE,
    }
)
"""Only other nodes, or a person, can move the succession forward."""


def decide_cluster(view: ClusterView) -> Decision:
    """Decide what the cluster does next; only the Raft leader may act on it."""
    raft = view.raft
    if not raft.is_leader:
        return Decision(Reason.NOT_LEADER)
    if not raft.own_entry_applied:
        return Decision(Reason.TERM_NOT_STARTED)
    policy = longest_lease_policy(view.state)
    if policy is None:
        return Decision(Reason.NOT_FOUNDED)
    wanted = _expire_order(view) or decide_schedules_and_fences(view)
    if wanted is not None:
        return wanted
    if view.state.paused and not _operator_wants_change(view.state):
        return membership_first(view, Decision(Reason.PAUSED))
    held = view.state.assignment
    if held is None:
        return _decide_first_primary(view)
    if held.live:
        return _decide_on_holder(view, policy, held)
    decision = _decide_succession(view, policy, held)
    if decision.reason in STUCK:
        # Who is to join may have what is missing, or the vote that is.
        return with_membership(view, decision)
    return decision


def _operator_wants_change(state: ClusterState) -> bool:
    """Tell whether an operator's word asks for another primary, pause or not."""
    ordered = is_ordered(state) or failover_order(state) is not None
    return ordered or ended_by_fence(state)


def _expire_order(view: ClusterView) -> Decision | None:
    """End an order that was not begun in time.

    A restart or a copy of one server has to be finished by then, not only begun.
    """
    order = view.state.order
    if order is None or (order.begun and not order.is_work):
        return None
    outcome = OrderOutcome.FAILED if order.begun else OrderOutcome.EXPIRED
    if order.epoch != view.state.epoch:
        outcome = OrderOutcome.SUPERSEDED
    elif view.at <= order.expires_at:
        return None
    command = SettleOrder(
        order_id=order.order_id, outcome=outcome, detail="", at=view.at
    )
    return Decision(
        Reason.ORDER_EXPIRED, (Propose(command=command),), detail=order.target
    )


def _decide_first_primary(view: ClusterView) -> Decision:
    """Assign the first epoch to the founder once its data directory is made.

    A primary that was found running there goes on, on its timeline, if it is the only
    one.
    """
    founder = view.state.member(view.state.founder)
    received = view.reports.get(founder.name) if founder else None
    if founder is None or received is None:
        return membership_first(view, Decision(Reason.FIRST_PRIMARY_NOT_READY))
    report = received.report
    ready = report.data_id is not None and report.data_id == founder.data_id
    running = report.adopted and report.state is PostgresState.PRIMARY
    if running and report.wal_end is not None:
        timeline = report.wal_end.timeline
        ready = ready and not _others_run_primaries(view, founder)
    else:
        timeline = next_timeline(view, ())
        ready = ready and report.state is PostgresState.STOPPED
    if not ready:
        return membership_first(view, Decision(Reason.FIRST_PRIMARY_NOT_READY))
    command = Assign(
        revision=view.state.revision,
        epoch=Epoch(1),
        member_id=founder.member_id,
        node=founder.name,
        data_id=DataId(report.data_id or ""),
        timeline=timeline,
        surveyed=None,
        cause=Reason.FIRST_PRIMARY,
        at=view.at,
        taken_over=running,
    )
    return Decision(Reason.FIRST_PRIMARY, (Propose(command=command),))


def _others_run_primaries(view: ClusterView, founder: Member) -> bool:
    return any(
        received.report.state is PostgresState.PRIMARY
        for node, received in view.reports.items()
        if node != founder.name
    )


def _decide_on_holder(view: ClusterView, policy: Policy, held: Assignment) -> Decision:
    """Leave a holder that renews alone; revoke one that was silent for a lease."""
    last_ms = view.raft.last_answer_ms
    half_ms = last_ms + granted_ms(view.state) // 2
    if last_ms and view.now_ms < half_ms:
        changing = decide_policy(view)
        if changing is not None:
            return changing
        return membership_first(view, Decision(Reason.PRIMARY_HAS_LEASE, (), half_ms))
    # A fresh assignment has not renewed yet. Patience only, no safety rests on it.
    patience_ms = view.assigned_seen_ms + policy.lease_ms
    until_ms = max(lease_ends_ms(view, policy), patience_ms)
    vouching = vouch(view, held) or switch_off(view, held, until_ms)
    if vouching is not None:
        return vouching
    waiting = _wait_for_lease(view, held, until_ms)
    if waiting is not None:
        return waiting
    if not needs_survey(view.state) and not stops_at_lease_end(view.state):
        return Decision(Reason.PAUSE_MAY_LAST_THERE, detail=held.node)
    revoke = Revoke(epoch=held.epoch, cause=Reason.LEASE_RAN_OUT, at=view.at)
    return Decision(
        Reason.LEASE_RAN_OUT,
        (CloseLease(epoch=held.epoch), Propose(command=revoke)),
        detail=held.node,
    )


def _wait_for_lease(
    view: ClusterView, held: Assignment, until_ms: int
) -> Decision | None:
    """Return the decision to wait, or None when the wait is over.

    A leader that answered no renewal itself knows less, and asks: the voters'
    ages may end the wait sooner.
    """
    if view.now_ms >= until_ms:
        return None
    if view.raft.last_answer_ms or _ages_known(view):
        reason = Reason.LEASE_MAY_RUN
        if is_fencing(view, held):
            reason = Reason.FENCING_HOLDER
        early_ms = fence_ms(view, until_ms)
        wake_ms = early_ms if view.now_ms < early_ms < until_ms else until_ms
        return Decision(reason, (), wake_ms, detail=held.node)
    again_ms = view.ages_asked_ms + AGES_AGAIN_MS
    if view.ages_asked_ms and view.now_ms < again_ms:
        return Decision(Reason.AGES_UNKNOWN, (), min(again_ms, until_ms))
    again_ms = view.now_ms + AGES_AGAIN_MS
    return Decision(Reason.AGES_UNKNOWN, (AskAges(),), min(again_ms, until_ms))


def lease_ends_ms(view: ClusterView, policy: Policy) -> int:
    """Return when every lease of the current epoch has surely run out."""
    return max(
        own_grants_end_ms(policy, view.raft.last_answer_ms),
        older_grants_end_ms(policy, view.raft, view.ages),
    )


def _ages_known(view: ClusterView) -> bool:
    """Tell whether a majority of each configuration has answered in this term."""
    known = {a.member_id for a in view.ages if a.term >= view.raft.term}
    return all(
        len(known.intersection(voters)) > len(voters) // 2
        for voters in view.raft.configurations
    )


def _decide_succession(view: ClusterView, policy: Policy, held: Assignment) -> Decision:
    """Find the next holder of the primary role, now that nobody may renew."""
    until_ms = lease_ends_ms(view, policy)
    vouching = vouch(view, held) or switch_off(view, held, until_ms)
    if vouching is not None:
        return vouching
    if not needs_no_lease_wait(view, held):
        waiting = _wait_for_lease(view, held, until_ms)
        if waiting is not None:
            return waiting
    if not needs_survey(view.state):
        if not (needs_no_lease_wait(view, held) or stops_at_lease_end(view.state)):
            return Decision(Reason.PAUSE_MAY_LAST_THERE, detail=held.node)
        return choose_without_survey(view, held)
    if not held.revoked:
        revoke = Revoke(epoch=held.epoch, cause=Reason.HOLDER_RELEASED, at=view.at)
        return Decision(
            Reason.HOLDER_RELEASED,
            # Whoever released can renew no more, whatever becomes of the revocation,
            # so nobody's answer has to wait for it.
            (CloseLease(epoch=held.epoch), *ask_servers(view), Propose(command=revoke)),
            detail=held.node,
        )
    return choose_by_survey(view, held)
