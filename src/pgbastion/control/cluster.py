"""What the Raft leader decides for the cluster: who has the primary role.

``decide_cluster`` looks at one picture of the cluster and answers with commands
for the log and questions to the nodes. Read it top-down: membership when nothing
is more urgent; the first primary; then the life of an assignment: it is renewed,
or its lease runs out or it is released, it is revoked, the nodes are surveyed,
and the next one is assigned.

Source: docs/explanation/lease.md.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pgbastion.control.candidates import preferred
from pgbastion.control.fencing import fence, fence_ms, is_fencing, is_free, vouch
from pgbastion.control.lease import older_grants_end_ms, own_grants_end_ms
from pgbastion.control.membership import and_membership, or_membership
from pgbastion.control.orders import barred_from_role, failover_order, is_ordered
from pgbastion.control.pause import cannot_acknowledge, heeds_lease
from pgbastion.control.survey import (
    complete,
    counted,
    hold_every_commit,
    reached_end,
    surveys,
)
from pgbastion.control.wishes import decide_wish
from pgbastion.model.actions import (
    AskAges,
    CloseLease,
    Decision,
    Propose,
    Survey,
)
from pgbastion.model.cluster import (
    Assignment,
    ClusterState,
    Member,
    OrderOutcome,
    Policy,
)
from pgbastion.model.commands import Assign, Revoke, SettleOrder
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import ClusterView, SurveyAnswer

AGES_AGAIN_MS: Final = 200
SURVEY_AGAIN_MS: Final = 500
HANDOVER_PATIENCE_MS: Final = 1_500
"""How long a planned change waits for the node that was ordered, then for the old
primary, before another node that has everything is taken."""
_STUCK: Final = frozenset(
    {
        Reason.COMMITS_MAY_BE_MISSING,
        Reason.NO_CANDIDATE,
        Reason.LAG_TOO_LARGE,
        Reason.PAUSE_MAY_LAST_THERE,
    }
)
"""Only other nodes, or a person, can bring the succession on."""
SURVEY_PATIENCE_MS: Final = 100
"""How long a survey that suffices waits for nodes that were alive a moment ago."""


def decide_cluster(view: ClusterView) -> Decision:
    """Decide what the cluster does next; only the Raft leader may act on it."""
    raft = view.raft
    if not raft.is_leader:
        return Decision(Reason.NOT_LEADER)
    if not raft.own_entry_applied:
        return Decision(Reason.TERM_NOT_STARTED)
    policy = view.state.policy
    if policy is None:
        return Decision(Reason.NOT_FOUNDED)
    wanted = _expire(view) or decide_wish(view)
    if wanted is not None:
        return wanted
    ordered = is_ordered(view.state) or failover_order(view.state) is not None
    if view.state.paused and not ordered:
        return or_membership(view, Decision(Reason.PAUSED))
    held = view.state.assignment
    if held is None:
        return _decide_first_primary(view)
    if held.live:
        return _decide_on_holder(view, policy, held)
    decision = _decide_succession(view, policy, held)
    if decision.reason in _STUCK:
        # Who is to join may have what is missing, or the vote that is.
        return and_membership(view, decision)
    return decision


def _expire(view: ClusterView) -> Decision | None:
    """End an order that was not begun in time: nobody waits for it any more.

    What is done to one server has to be finished by then.
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
        return or_membership(view, Decision(Reason.FIRST_PRIMARY_NOT_READY))
    report = received.report
    ready = report.data_id is not None and report.data_id == founder.data_id
    running = report.adopted and report.state is PostgresState.PRIMARY
    if running and report.wal_end is not None:
        timeline = report.wal_end.timeline
        ready = ready and not _others_run_primaries(view, founder)
    else:
        timeline = _next_timeline(view, ())
        ready = ready and report.state is PostgresState.STOPPED
    if not ready:
        return or_membership(view, Decision(Reason.FIRST_PRIMARY_NOT_READY))
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


def _next_timeline(view: ClusterView, answers: Iterable[SurveyAnswer]) -> Timeline:
    """Return a timeline id above every one assigned or seen.

    A history file that somebody left behind counts too: PostgreSQL would step over
    its id and take another one than the assigned. Who was promoted and never opened
    may have done just that without a chance to say so: its next id stays unused.
    """
    held = view.state.assignment
    spare = 0 if held is None or held.opened else 1
    told = tuple(answers)
    ends = [answer.wal_end for answer in told]
    reports = [received.report for received in view.reports.values()]
    ends += [report.wal_end for report in reports]
    return Timeline(
        max(
            1,
            view.state.highest_timeline,
            *(answer.newest_timeline for answer in told),
            *(report.timeline or 0 for report in reports),
            *(end.timeline for end in ends if end is not None),
        )
        + 1
        + spare
    )


def _decide_on_holder(view: ClusterView, policy: Policy, held: Assignment) -> Decision:
    """Leave a holder that renews alone; revoke one that was silent for a lease."""
    last_ms = view.raft.last_answer_ms
    half_ms = last_ms + policy.lease_ms // 2
    if last_ms and view.now_ms < half_ms:
        return or_membership(view, Decision(Reason.PRIMARY_HAS_LEASE, (), half_ms))
    # A fresh assignment has not renewed yet. Patience only, no safety rests on it.
    patience_ms = view.assigned_seen_ms + policy.lease_ms
    until_ms = max(lease_ends_ms(view, policy), patience_ms)
    vouching = vouch(view, held) or fence(view, held, until_ms)
    if vouching is not None:
        return vouching
    waiting = _wait(view, held, until_ms)
    if waiting is not None:
        return waiting
    if not surveys(view.state) and not heeds_lease(view.state):
        return Decision(Reason.PAUSE_MAY_LAST_THERE, detail=held.node)
    revoke = Revoke(epoch=held.epoch, cause=Reason.LEASE_RAN_OUT, at=view.at)
    return Decision(
        Reason.LEASE_RAN_OUT,
        (CloseLease(epoch=held.epoch), Propose(command=revoke)),
        detail=held.node,
    )


def _wait(view: ClusterView, held: Assignment, until_ms: int) -> Decision | None:
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
    vouching = vouch(view, held) or fence(view, held, until_ms)
    if vouching is not None:
        return vouching
    if not is_free(view, held):
        waiting = _wait(view, held, until_ms)
        if waiting is not None:
            return waiting
    if not surveys(view.state):
        if not (is_free(view, held) or heeds_lease(view.state)):
            return Decision(Reason.PAUSE_MAY_LAST_THERE, detail=held.node)
        return _choose_without_survey(view, held)
    if not held.revoked:
        revoke = Revoke(epoch=held.epoch, cause=Reason.HOLDER_RELEASED, at=view.at)
        return Decision(
            Reason.HOLDER_RELEASED,
            # Whoever released can renew no more, whatever becomes of the revocation,
            # so nobody's answer has to wait for it.
            (CloseLease(epoch=held.epoch), *_survey(view), Propose(command=revoke)),
            detail=held.node,
        )
    return _choose_by_survey(view, held)


def _survey(view: ClusterView) -> tuple[Survey, ...]:
    """Ask the servers that have not answered yet, now and then.

    The holder comes later where its standbys can do without it: reading the end of
    a stopped server's WAL takes time and processor, just when both are short.
    """
    survey = view.survey
    epoch = view.state.epoch
    servers = tuple(m.name for m in view.state.servers)
    if survey is None or survey.epoch != epoch:
        first = _others(view) if _standbys_may_suffice(view.state) else servers
        return (Survey(epoch=epoch, nodes=first),)
    told = {a.node for a in counted(survey.answers)}
    silent = tuple(name for name in servers if name not in told)
    if silent and view.now_ms >= survey.asked_ms + SURVEY_AGAIN_MS:
        return (Survey(epoch=epoch, nodes=silent),)
    return ()


def _others(view: ClusterView) -> tuple[NodeId, ...]:
    held = view.state.assignment
    holder = held.node if held is not None else None
    return tuple(m.name for m in view.state.servers if m.name != holder)


def _standbys_may_suffice(state: ClusterState) -> bool:
    """Tell whether a survey without the holder can find every commit."""
    opened = state.opened
    return opened is not None and opened.sync.num_sync > 0


def _choose_by_survey(view: ClusterView, held: Assignment) -> Decision:
    survey = view.survey
    asking = _survey(view)
    if survey is None or survey.epoch != held.epoch:
        return Decision(Reason.SURVEYING, asking, view.now_ms + SURVEY_AGAIN_MS)
    wake_ms = survey.asked_ms + SURVEY_AGAIN_MS
    if wake_ms <= view.now_ms:
        wake_ms = view.now_ms + SURVEY_AGAIN_MS
    answers = survey.answers
    if not hold_every_commit(view.state, answers):
        started_ms = survey.started_ms + SURVEY_AGAIN_MS
        waiting = view.now_ms < started_ms
        forced = None if waiting else _forced(view, answers)
        if forced is not None:
            return _assign(view, held, forced, answers)
        reason = Reason.SURVEYING if waiting else Reason.COMMITS_MAY_BE_MISSING
        return Decision(reason, asking, wake_ms, detail=_told(answers))
    stopped = is_free(view, held) or heeds_lease(view.state)
    if not stopped and not cannot_acknowledge(view.state, answers):
        reason = Reason.PAUSE_MAY_LAST_THERE
        return Decision(reason, asking, wake_ms, detail=_told(answers))
    patient_ms = survey.started_ms + SURVEY_PATIENCE_MS
    if held.ended_at is not None and is_ordered(view.state):
        patient_ms = survey.started_ms + HANDOVER_PATIENCE_MS
        waits = not _ordered_has_everything(view, answers)
    else:
        waits = _some_living_are_silent(view, answers)
    if view.now_ms < patient_ms and waits:
        return Decision(Reason.SURVEYING, asking, patient_ms, detail=_told(answers))
    best = _candidate(view, answers)
    if best is None:
        return Decision(Reason.NO_CANDIDATE, asking, wake_ms, detail=_told(answers))
    return _assign(view, held, best, answers)


def _forced(view: ClusterView, answers: Iterable[SurveyAnswer]) -> SurveyAnswer | None:
    """Return the node that an operator wants although commits may be missing there.

    It was cut and says what it has; another one that is further goes first.
    """
    order, held = failover_order(view.state), view.state.assignment
    if order is None or not order.force or held is None:
        return None
    if not (held.vouched or held.released):
        return None
    if view.state.fence(order.target) is not None:
        return None
    told = [a for a in counted(answers) if a.node == order.target]
    return told[0] if told else None


def _ordered_has_everything(view: ClusterView, answers: Iterable[SurveyAnswer]) -> bool:
    """Tell whether the node that was ordered has all that the holder wrote.

    Or the holder itself, stopped, has answered: nobody is further than that.
    """
    order, held = view.state.order, view.state.assignment
    wanted = {order.target if order else None, held.node if held else None}
    return any(a.node in wanted and reached_end(view.state, a) for a in answers)


def _told(answers: tuple[SurveyAnswer, ...]) -> str:
    return ", ".join(f"{a.node}: {a.wal_end or 'unknown'}" for a in answers)


def _some_living_are_silent(
    view: ClusterView, answers: tuple[SurveyAnswer, ...]
) -> bool:
    told = {a.node for a in answers}
    held = view.state.assignment
    for member in view.state.servers:
        received = view.reports.get(member.name)
        if member.name in told or received is None:
            continue
        if held is not None and held.node == member.name:
            continue
        if view.now_ms - received.at_ms < view.report_ms:
            return True
    return False


def _candidate(
    view: ClusterView, answers: tuple[SurveyAnswer, ...]
) -> SurveyAnswer | None:
    """Return the best of the nodes that have everything and may be promoted."""
    able = {m.name for m in view.state.servers if not barred_from_role(view.state, m)}
    return preferred(view, complete(view.state, answers, able))


def _choose_without_survey(view: ClusterView, held: Assignment) -> Decision:
    """In ``async``: the most advanced standby that answers, within the lag limit."""
    again_ms = view.now_ms + SURVEY_AGAIN_MS
    found = tuple(_candidates_by_report(view))
    if held.ended_at is not None and is_ordered(view.state):
        patient_ms = view.released_seen_ms + HANDOVER_PATIENCE_MS
        if view.now_ms < patient_ms and not _target_reached(view, found):
            return Decision(Reason.TARGET_NOT_AS_FAR, (), patient_ms)
    end = max((a.wal_end for a in found if a.wal_end is not None), default=None)
    best = preferred(view, (a for a in found if a.wal_end == end))
    if best is None or end is None:
        return Decision(Reason.NO_CANDIDATE, (), again_ms)
    last = view.reports.get(held.node)
    former = last.report.wal_end if last is not None else None
    if former is not None and former.timeline == end.timeline:
        behind = former.lsn - end.lsn
        order = failover_order(view.state)
        forced = order is not None and order.force
        if not forced and behind > view.lag_max_bytes:
            return Decision(
                Reason.LAG_TOO_LARGE, (), again_ms, detail=f"{behind} bytes"
            )
    return _assign(view, held, best, found)


def _target_reached(view: ClusterView, found: Iterable[SurveyAnswer]) -> bool:
    order = view.state.order
    return order is not None and any(
        a.node == order.target and reached_end(view.state, a) for a in found
    )


def _candidates_by_report(view: ClusterView) -> Iterator[SurveyAnswer]:
    for member in view.state.servers:
        received = view.reports.get(member.name)
        if received is None or view.now_ms - received.at_ms > view.report_ms:
            continue
        report = received.report
        barred = barred_from_role(view.state, member)
        if barred or not _may_be_promoted(report):
            continue
        if report.wal_end is not None and report.data_id is not None:
            yield SurveyAnswer(
                node=member.name,
                data_id=report.data_id,
                wal_end=report.wal_end,
                timeline_begin=None,
            )


def _may_be_promoted(report: NodeReport) -> bool:
    return report.state in (PostgresState.STANDBY, PostgresState.STOPPED)


def _assign(
    view: ClusterView,
    held: Assignment,
    best: SurveyAnswer,
    answers: Iterable[SurveyAnswer],
) -> Decision:
    member = next(m for m in view.state.servers if m.name == best.node)
    command = Assign(
        revision=view.state.revision,
        epoch=Epoch(held.epoch + 1),
        member_id=member.member_id,
        node=best.node,
        data_id=best.data_id,
        timeline=_next_timeline(view, answers),
        surveyed=best.wal_end,
        cause=_cause(view, held),
        at=view.at,
    )
    return Decision(
        Reason.FURTHEST_CHOSEN,
        (CloseLease(epoch=held.epoch), Propose(command=command)),
        detail=f"{best.node}: {best.wal_end}",
    )


def _cause(view: ClusterView, held: Assignment) -> Reason:
    if held.released:
        return Reason.HOLDER_RELEASED
    return Reason.VOUCHED_FOR if is_free(view, held) else Reason.LEASE_RAN_OUT
