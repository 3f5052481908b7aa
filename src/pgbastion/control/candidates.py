"""What would make a node a poor primary, known before it is needed."""

from collections.abc import Iterable, Mapping
from typing import Final

from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport
from pgbastion.model.views import ClusterView, Received, SurveyAnswer

DISK_LEAST_PERCENT: Final = 5
"""With less free than this, a new primary would soon be the next that dies."""


def handicaps(report: NodeReport) -> tuple[str, ...]:
    """Return why a node should not get the role while another one can have it.

    Among nodes that have everything these come last; alone, one is still chosen.
    """
    found = [report.unable] if report.unable else []
    found += report.flaws
    if report.replay_paused:
        found.append("its replay is paused")
    if report.trouble is not None:
        found.append(report.trouble.sentence)
    return (*found, *disks_below(report, DISK_LEAST_PERCENT))


def disks_below(report: NodeReport, percent: int) -> list[str]:
    """Return which disks of a node have less free than ``percent``, in words."""
    disks = report.vitals.disks if report.vitals is not None else ()
    return [
        f"{disk.free_bytes * 100 // disk.size_bytes}% of the {disk.holds} disk is free"
        for disk in disks
        if disk.size_bytes and disk.free_bytes * 100 < disk.size_bytes * percent
    ]


def is_able(reports: Mapping[NodeId, Received], node: NodeId) -> bool:
    """Tell whether a node may become a primary, as far as it has said.

    One that lacks what it requires for that would only release the epoch.
    """
    known = reports.get(node)
    return known is None or not known.report.unable


def preferred(view: ClusterView, equals: Iterable[SurveyAnswer]) -> SurveyAnswer | None:
    """Return which of several equals should get the role.

    First the node that was ordered; a node with a handicap comes last, and the former
    holder just before it. Otherwise the operator's priority decides, then which one has
    replayed more: its promotion takes less time.
    """
    former = view.state.assignment.node if view.state.assignment else None
    order = view.state.order
    ordered = order.target if order is not None else None
    priority = {m.name: m.failover_priority for m in view.state.servers}

    def rank(answer: SurveyAnswer) -> tuple[bool, bool, bool, int, int, NodeId]:
        node = answer.node
        known = view.reports.get(node)
        sound = known is None or not handicaps(known.report)
        replayed = known.report.replay_lsn if known is not None else None
        # The former holder has just failed or been given up.
        return (
            node == ordered,
            sound,
            node != former,
            priority[node],
            replayed or 0,
            node,
        )

    return max(equals, key=rank, default=None)
