"""Read endpoints of Patroni, so that monitoring that was written for it goes on."""

from itertools import pairwise
from typing import Final

from pgbastion.api.answers import running_word, standing
from pgbastion.api.patroni_shapes import (
    HistoryLine,
    PatroniAnswer,
    ServerFacts,
    XlogFacts,
)
from pgbastion.model.report import NodeReport
from pgbastion.model.snapshot import NodeRole, NodeSnapshot

# Tools tell by the release which words to expect: a standby that streams is healthy to
# them since 3.0.4, one of a quorum since 4.0.
SPOKEN: Final = "4.0.0"


def patroni(snapshot: NodeSnapshot) -> PatroniAnswer:
    """Tell what this node is, in Patroni's words."""
    report = snapshot.report
    return {
        "state": running_word(report) if report else "starting",
        "role": "primary" if snapshot.role is NodeRole.PRIMARY else "replica",
        "patroni": {
            "version": SPOKEN,
            "scope": snapshot.scope,
            "name": snapshot.node,
        },
        "pause": snapshot.state.paused,
        **standing(snapshot),
        **_server(snapshot, report),
    }


def _server(snapshot: NodeSnapshot, report: NodeReport | None) -> ServerFacts:
    facts: ServerFacts = {}
    if snapshot.state.system_identifier is not None:
        facts["database_system_identifier"] = snapshot.state.system_identifier
    if report is None:
        return facts
    if report.streaming:
        facts["replication_state"] = "streaming"
    if report.adopted or report.pending_restart:
        facts["pending_restart"] = True
    if report.wal_end is not None:
        facts["timeline"] = report.wal_end.timeline
        facts["xlog"] = _xlog(snapshot, report)
    if report.postgres_version is not None:
        facts["server_version"] = report.postgres_version
    return facts


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
