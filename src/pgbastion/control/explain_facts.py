"""What one node knows of the others, for the sentences of an explanation."""

from typing import Final

from pgbastion.control.explain_what_if import living_reports
from pgbastion.model.ids import NodeId
from pgbastion.model.reasons import Reason, sentence_of
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.snapshot import NodeSnapshot

NEEDS_ATTENTION: Final = frozenset(
    {Reason.DATA_DIRECTORY_MISSING, Reason.FOREIGN_DATA, Reason.REJOIN_FAILED}
)
"""Decisions of a node that waiting does not help."""


def fresh_reports(snapshot: NodeSnapshot) -> list[NodeReport]:
    """Return the reports of the members that are heard from."""
    members = snapshot.state.members
    reports = (snapshot.fresh_report(m.name) for m in members)
    return [r for r in reports if r is not None]


def silent_members(snapshot: NodeSnapshot) -> list[NodeId]:
    """Return the members that report nothing."""
    living = living_reports(snapshot)
    return [m.name for m in snapshot.state.members if m.joined and m.name not in living]


def standbys_away(snapshot: NodeSnapshot) -> list[NodeId]:
    """Return the servers besides the primary that are missing or returning."""
    held = snapshot.state.assignment
    found = []
    for member in snapshot.state.servers:
        report = snapshot.fresh_report(member.name)
        holds = held is not None and held.node == member.name
        if member.joined and not holds and (report is None or not report.streaming):
            found.append(member.name)
    return found


def missing_standbys(snapshot: NodeSnapshot) -> list[NodeId]:
    """Return those of the standbys that are away from which nothing is heard."""
    return [n for n in standbys_away(snapshot) if snapshot.fresh_report(n) is None]


def returning_standbys(snapshot: NodeSnapshot) -> list[NodeReport]:
    """Return the reports of those that are away, are heard from and do not stream."""
    away = standbys_away(snapshot)
    return [r for r in fresh_reports(snapshot) if r.node in away]


def doing(report: NodeReport) -> str:
    """Return what a node is doing: its progress, or the reason of its last decision.

    A node that waits for a person says what is in its way, and a standby that does not
    stream with what its attempts end.
    """
    if report.trouble is not None and report.files_lost:
        return report.trouble.sentence
    if report.progress:
        return report.progress
    if report.replay_paused:
        settings = ", ".join(report.pending_restart)
        until = f" until a restart ({settings})" if settings else ""
        return f"its replay is paused{until}"
    if cannot_stream(report):
        return f"it does not stream: {report.stream_failure}"
    sentence = sentence_of(report.reason)
    waits = report.reason == Reason.WAITING_FOR_START
    if report.detail and (waits or needs_attention(report)):
        return f"{sentence} ({report.detail})"
    return sentence


def how_standbys_return(snapshot: NodeSnapshot) -> str:
    """Return what would bring standbys back that are away; empty: none is."""
    missing = missing_standbys(snapshot)
    steps = [f"bring back {', '.join(missing)}"] if missing else []
    returning = returning_standbys(snapshot)
    steps += [how_it_returns(r) for r in returning]
    return "; ".join(steps)


def how_it_returns(report: NodeReport) -> str:
    """Return what would bring a standby back that is heard from."""
    if report.replay_paused and report.pending_restart:
        # With less than the primary has, it waits for that, and cannot be promoted.
        # Source: PostgreSQL, "Hot Standby", "Administrator's Overview".
        return f"pgbastion restart {report.node}"
    if report.replay_paused:
        return f"SELECT pg_wal_replay_resume() on {report.node}"
    step = "see to" if cannot_stream(report) else "wait for"
    return f"{step} {report.node} ({doing(report)})"


def cannot_stream(report: NodeReport) -> bool:
    """Tell whether a standby that follows the primary fails to stream from it."""
    follows = report.reason == Reason.FOLLOWING and not report.streaming
    return follows and bool(report.stream_failure)


def needs_attention(report: NodeReport) -> bool:
    """Tell whether a node waits for a person."""
    failed = report.state is PostgresState.FAILED or report.reason in NEEDS_ATTENTION
    return failed or report.files_lost


def members_short(snapshot: NodeSnapshot) -> str:
    """Return how far the votes that are heard fall short of a majority; "" if not."""
    voters = set(snapshot.raft.voters)
    members = (snapshot.state.named(node) for node in living_reports(snapshot))
    heard = sum(m is not None and m.member_id in voters for m in members)
    quorum = snapshot.raft.quorum
    if not voters or heard >= quorum:
        return ""
    return f"{heard} of {len(voters)} votes answer, {quorum} are needed"
