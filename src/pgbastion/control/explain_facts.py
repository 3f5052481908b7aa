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


def silent(snapshot: NodeSnapshot) -> list[NodeId]:
    """Return the members that report nothing."""
    living = living_reports(snapshot)
    return [m.name for m in snapshot.state.members if m.joined and m.name not in living]


def away(snapshot: NodeSnapshot) -> list[NodeId]:
    """Return the servers besides the primary that are silent or do not stream."""
    held = snapshot.state.assignment
    found = []
    for member in snapshot.state.servers:
        report = snapshot.fresh_report(member.name)
        holds = held is not None and held.node == member.name
        if member.joined and not holds and (report is None or not report.streaming):
            found.append(member.name)
    return found


def is_server(snapshot: NodeSnapshot, node: NodeId) -> bool:
    """Tell whether a member has a PostgreSQL."""
    member = snapshot.state.named(node)
    return member is not None and not member.is_witness


def doing(report: NodeReport) -> str:
    """Return what a node is doing: its progress, or the reason of its last decision."""
    if report.trouble is not None and report.files_lost:
        return report.trouble.sentence
    return report.progress or sentence_of(report.reason)


def return_of(snapshot: NodeSnapshot) -> str:
    """Return what would bring missing servers back; empty: none is missing."""
    found = away(snapshot)
    lost = [n for n in found if snapshot.fresh_report(n) is None]
    steps = [f"bring back {', '.join(lost)}"] if lost else []
    heard = (r for r in fresh_reports(snapshot) if r.node in found)
    steps += [f"wait for {r.node} ({doing(r)})" for r in heard]
    return "; ".join(steps)


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
