"""The history of the primary role, for people and programs."""

from pgbastion.api import shapes
from pgbastion.control.role_history import (
    RoleChange,
    role_changes,
    sentence_of_change,
)
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.model.wal import Lsn, format_lsn


def cluster_history(snapshot: NodeSnapshot) -> shapes.ClusterHistoryAnswer:
    """Tell every change of the primary: cause, times, positions, and what it cost."""
    return {"changes": [_told(change) for change in role_changes(snapshot.state)]}


def _told(change: RoleChange) -> shapes.RoleChangeFacts:
    return {
        "epoch": change.epoch,
        "node": change.node,
        "timeline": change.timeline,
        "former": change.former,
        "cause": change.cause,
        "sentence": sentence_of_change(change),
        "order": change.order_id or None,
        "ordered_by": change.ordered_by or None,
        "lsn": _lsn(change.lsn),
        "assigned_at": change.assigned_at or None,
        "opened_at": change.opened_at or None,
        "gap_ms": change.gap_ms,
        "sessions_closed": change.sessions,
        "revoked_at": change.revoked_at or None,
        "vouched_at": change.vouched_at or None,
        "vouched_by": change.vouched_by or None,
        "released_at": change.released_at or None,
        "ended_for": change.ended_for or None,
        "ended_lsn": _lsn(change.ended_lsn),
    }


def _lsn(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)
