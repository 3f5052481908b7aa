"""Read endpoints of Patroni, so that monitoring that was written for it goes on."""

from itertools import pairwise

from pgbastion.api.answers import state_word
from pgbastion.api.shapes import HistoryLine, PatroniAnswer, XlogFacts
from pgbastion.model.report import NodeReport
from pgbastion.model.snapshot import NodeRole, NodeSnapshot


def patroni(snapshot: NodeSnapshot) -> PatroniAnswer:
    """Tell what this node is, in Patroni's words."""
    report = snapshot.report
    state = snapshot.state
    answer: PatroniAnswer = {
        "state": state_word(report) if report else "starting",
        "role": "primary" if snapshot.role is NodeRole.PRIMARY else "replica",
        "patroni": {
            "version": snapshot.version,
            "scope": state.cluster_name,
            "name": snapshot.node,
        },
        "pause": state.paused,
    }
    if state.system_identifier is not None:
        answer["database_system_identifier"] = state.system_identifier
    if report is not None and report.wal_end is not None:
        answer["timeline"] = report.wal_end.timeline
        answer["xlog"] = _xlog(snapshot, report)
    if report is not None and report.postgres_version is not None:
        answer["server_version"] = report.postgres_version
    return answer


def history(snapshot: NodeSnapshot) -> list[HistoryLine]:
    """Tell of each timeline that was left, where, why and for whom.

    The position is the primary's own word; null where it has forgotten it.
    """
    held = snapshot.state.assignment
    source = snapshot.reports.get(held.node) if held else None
    left = dict(source.report.history) if source else {}
    changes = [c for c in snapshot.state.history if c.what == "assigned"]
    return [
        [old.timeline, left.get(old.timeline, new.lsn), new.cause, new.at, new.node]
        for old, new in pairwise(changes)
    ]


def _xlog(snapshot: NodeSnapshot, report: NodeReport) -> XlogFacts:
    assert report.wal_end is not None, "asked only where there is one"
    if snapshot.role is NodeRole.PRIMARY:
        return {"location": report.wal_end.lsn}
    return {
        "received_location": report.wal_end.lsn,
        "replayed_location": report.replay_lsn,
        "paused": False,
    }
