"""Whom the Raft leader assigns next, once nobody may renew any more.

In ``sync`` and ``quorum`` every server that answers is cut off from the epoch and
says what it has: the furthest of those that surely hold every acknowledged commit is
assigned. In ``async`` the most advanced that reports, within the lag limit.

Source: docs/explanation/lease.md, "Assigning another node".
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from pgbastion.control.candidates import preferred
from pgbastion.control.fencing import needs_no_lease_wait
from pgbastion.control.orders import failover_order, is_ordered, may_hold
from pgbastion.control.pause import cannot_acknowledge, stops_at_lease_end
from pgbastion.control.survey import (
    answers_with_every_commit,
    furthest_end,
    hold_every_commit,
    reached_end,
    usable_answers,
)
from pgbastion.model.actions import CatchUp, CloseLease, Decision, Propose, Survey
from pgbastion.model.cluster import Assignment, ClusterState
from pgbastion.model.commands import Assign
from pgbastion.model.ids import Epoch, NodeId, Timeline
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import ClusterView, SurveyAnswer

SURVEY_AGAIN_MS: Final = 500
"""How soon a node that has not answered a survey is asked again. Until then nobody
concludes that commits are missing."""
HANDOVER_PATIENCE_MS: Final = 1_500
"""How long a planned change waits for the node that was ordered, then for the old
primary, before another node that has everything is taken."""
SURVEY_PATIENCE_MS: Final = 100
"""How long a survey that suffices waits for nodes that were alive a moment ago."""


def choose_by_survey(view: ClusterView, held: Assignment) -> Decision:
    """In ``sync`` and ``quorum``: the furthest of those that have every commit."""
    survey = view.survey
    asking = ask_servers(view)
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
            chosen = _assign(view, held, forced, answers)
            return replace(chosen, reason=Reason.FORCED)
        reason = Reason.SURVEYING if waiting else Reason.COMMITS_MAY_BE_MISSING
        return Decision(reason, asking, wake_ms, detail=_describe(answers))
    stopped = needs_no_lease_wait(view, held) or stops_at_lease_end(view.state)
    if not stopped and not cannot_acknowledge(view.state, answers):
        reason = Reason.PAUSE_MAY_LAST_THERE
        return Decision(reason, asking, wake_ms, detail=_describe(answers))
    patient_ms = survey.started_ms + SURVEY_PATIENCE_MS
    if held.ended_at is not None and is_ordered(view.state):
        patient_ms = survey.started_ms + HANDOVER_PATIENCE_MS
        waits = not _ordered_has_everything(view, answers)
    else:
        waits = _some_living_are_silent(view, answers)
    if view.now_ms < patient_ms and waits:
        return Decision(Reason.SURVEYING, asking, patient_ms, detail=_describe(answers))
    able = may_hold(view.state, view.reports)
    best = preferred(view, answers_with_every_commit(view.state, answers, able))
    if best is not None:
        return _assign(view, held, best, answers)
    return _catch_up(view, able) or Decision(
        Reason.NO_CANDIDATE, asking, wake_ms, detail=_describe(answers)
    )


def _catch_up(view: ClusterView, able: frozenset[NodeId]) -> Decision | None:
    """Have a node that may be promoted stream from a further one that may not.

    Both stay cut from the epoch, and the WAL of the further one ends where it did: the
    other one reaches that, and answers the survey anew.
    """
    survey = view.survey
    end = furthest_end(view.state, survey.answers) if survey is not None else None
    if survey is None or end is None:
        return None
    usable = usable_answers(survey.answers)
    sources = [a for a in usable if a.wal_end == end and _can_be_read(view, a)]
    behind = [a for a in usable if a.node in able and a.wal_end and a.wal_end < end]
    if not sources or not behind:
        return None
    # Who came no closer at its last turn may be on another history.
    fewest = min(survey.stuck.get(a.node, 0) for a in behind)
    behind = [a for a in behind if survey.stuck.get(a.node, 0) == fewest]
    nearest = max(a.wal_end for a in behind if a.wal_end is not None)
    chosen = preferred(view, [a for a in behind if a.wal_end == nearest]) or behind[0]
    source = sources[0].node
    action = CatchUp(epoch=survey.epoch, node=chosen.node, source=source, upto=end)
    return Decision(
        Reason.CATCHING_UP,
        () if survey.catching_up else (action,),
        view.now_ms + SURVEY_AGAIN_MS,
        detail=f"{chosen.node}: {chosen.wal_end}, {source}: {end}",
    )


def _can_be_read(view: ClusterView, source: SurveyAnswer) -> bool:
    """Tell whether a node's server runs in recovery, so that another can stream."""
    report = view.known_reports.fresh(source.node)
    return report is not None and report.state is PostgresState.STANDBY


def _forced(view: ClusterView, answers: Iterable[SurveyAnswer]) -> SurveyAnswer | None:
    """Return the node that an operator wants although commits may be missing there.

    It was cut and has answered the survey; a node that is further goes first.
    """
    order, held = failover_order(view.state), view.state.assignment
    if order is None or not order.force or held is None:
        return None
    if not (held.vouched or held.released):
        return None
    if view.state.fence(order.target) is not None:
        return None
    usable = usable_answers(answers)
    return next((a for a in usable if a.node == order.target), None)


def _ordered_has_everything(view: ClusterView, answers: Iterable[SurveyAnswer]) -> bool:
    """Tell whether the node that was ordered has all that the holder wrote.

    Or the holder itself, stopped, has answered: nobody is further than that.
    """
    order, held = view.state.order, view.state.assignment
    wanted = {order.target if order else None, held.node if held else None}
    return any(a.node in wanted and reached_end(view.state, a) for a in answers)


def _describe(answers: tuple[SurveyAnswer, ...]) -> str:
    return ", ".join(f"{a.node}: {a.wal_end or 'unknown'}" for a in answers)


def _some_living_are_silent(
    view: ClusterView, answers: tuple[SurveyAnswer, ...]
) -> bool:
    """Tell whether a standby that lives, as far as is known, has not answered yet."""
    living = view.known_reports.living()
    answered = {a.node for a in answers}
    return any(name in living and name not in answered for name in _others(view))


def choose_without_survey(view: ClusterView, held: Assignment) -> Decision:
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
    last = view.known_reports.last(held.node)
    former = last.wal_end if last is not None else None
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
    able = may_hold(view.state, view.reports)
    reports = view.known_reports
    for member in view.state.servers:
        report = reports.fresh(member.name)
        if report is None or member.name not in able or not _may_be_promoted(report):
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
        timeline=next_timeline(view, answers),
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
    if needs_no_lease_wait(view, held):
        return Reason.VOUCHED_FOR
    return Reason.LEASE_RAN_OUT


def ask_servers(view: ClusterView) -> tuple[Survey, ...]:
    """Ask the servers that have not answered yet, from time to time.

    The holder comes later where its standbys can do without it: reading the end of
    a stopped server's WAL takes time and processor, just when both are short.
    """
    survey = view.survey
    epoch = view.state.epoch
    servers = tuple(m.name for m in view.state.servers)
    if survey is None or survey.epoch != epoch:
        first = _others(view) if _standbys_may_suffice(view.state) else servers
        return (Survey(epoch=epoch, nodes=first),)
    answered = {a.node for a in usable_answers(survey.answers)}
    silent = tuple(name for name in servers if name not in answered)
    if silent and view.now_ms >= survey.asked_ms + SURVEY_AGAIN_MS:
        return (Survey(epoch=epoch, nodes=silent),)
    return ()


def _others(view: ClusterView) -> tuple[NodeId, ...]:
    """Return the servers besides the holder."""
    held = view.state.assignment
    holder = held.node if held is not None else None
    return tuple(m.name for m in view.state.servers if m.name != holder)


def _standbys_may_suffice(state: ClusterState) -> bool:
    """Tell whether a survey without the holder can find every commit."""
    opened = state.opened
    return opened is not None and opened.sync.num_sync > 0


def next_timeline(view: ClusterView, answers: Iterable[SurveyAnswer]) -> Timeline:
    """Return a timeline id above every one assigned or seen.

    A history file that somebody left behind counts too: PostgreSQL would step over
    its id and take another one than the assigned. Who was promoted and never opened
    may have done just that without a chance to say so: its next id stays unused.
    """
    held = view.state.assignment
    spare = 0 if held is None or held.opened else 1
    answered = tuple(answers)
    ends = [answer.wal_end for answer in answered]
    reports = [received.report for received in view.reports.values()]
    ends += [report.wal_end for report in reports]
    return Timeline(
        max(
            1,
            view.state.highest_timeline,
            *(answer.newest_timeline for answer in answered),
            *(report.timeline or 0 for report in reports),
            *(end.timeline for end in ends if end is not None),
        )
        + 1
        + spare
    )
