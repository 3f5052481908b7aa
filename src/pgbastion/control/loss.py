"""What a failover by hand could lose, estimated from what nodes report."""

from collections.abc import Mapping

from pgbastion.control.orders import barred_from_role
from pgbastion.control.survey import hold_every_commit, needs_survey
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import DataId, NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Received, Reports, SurveyAnswer

_SURVEYABLE = (PostgresState.STANDBY, PostgresState.STOPPED)


def primary_lives(state: ClusterState, reports: Reports) -> bool:
    """Tell whether the holder says that it serves."""
    held = state.assignment
    report = reports.fresh(held.node) if held is not None and held.live else None
    return report is not None and report.promoted and report.epoch == state.epoch


def why_ineligible(state: ClusterState, reports: Reports, target: NodeId) -> str | None:
    """Return why a node cannot get the role even by force; None: it might."""
    member = state.server(target)
    if member is None:
        return f"{target} is not a member with PostgreSQL"
    barred = barred_from_role(state, member)
    if barred is not None:
        return barred
    report = reports.fresh(target)
    if report is None:
        return f"{target} is silent"
    if report.unable:
        return f"{target}: {report.unable}"
    if report.state not in _SURVEYABLE:
        return f"PostgreSQL on {target} is {report.state}"
    return None


def possible_loss(state: ClusterState, reports: Reports, target: NodeId) -> str | None:
    """Return what could be lost if ``target`` took the role, in words; None: nothing.

    The survey that precedes an assignment decides; this is what can be known before.
    """
    surveyed = needs_survey(state)
    if surveyed and hold_every_commit(state, living_answers(state, reports.living())):
        return None
    held = state.assignment
    former = reports.last(held.node) if held is not None else None
    end = former.wal_end if former is not None else None
    report = reports.last(target)
    own = report.wal_end if report is not None else None
    if end is None or own is None or end.timeline != own.timeline:
        return "how much would be lost is unknown"
    behind = end.lsn - own.lsn
    if behind > 0:
        return f"{behind} bytes of WAL that the primary had written are missing there"
    if surveyed:
        return "commits since the primary's last report may be missing there"
    return None


def living_answers(
    state: ClusterState, living: Mapping[NodeId, Received]
) -> tuple[SurveyAnswer, ...]:
    """Return what the nodes that live would say to a survey, from their reports."""
    return tuple(
        SurveyAnswer(
            node=member.name,
            data_id=living[member.name].report.data_id or DataId(""),
            wal_end=living[member.name].report.wal_end,
            timeline_begin=None,
        )
        for member in state.servers
        if member.name in living and _is_surveyable(living[member.name].report)
    )


def _is_surveyable(report: NodeReport) -> bool:
    return report.state in _SURVEYABLE and report.data_id is not None
