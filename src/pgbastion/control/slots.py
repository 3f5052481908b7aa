"""For whom a server keeps WAL: slots on the primary, and the same on its standbys."""

from collections.abc import Mapping

from pgbastion.model.actions import Decision, KeepSlots
from pgbastion.model.cluster import ClusterState
from pgbastion.model.ids import NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport
from pgbastion.model.views import NodeView
from pgbastion.model.wal import Lsn


def keep_slots(view: NodeView) -> Decision | None:
    """Have one slot for each other server of the cluster that was heard of lately.

    Every node hears every other one, so that who is missing, and since when, is the
    same after a change of the primary.
    """
    slots = view.postgres.slots
    others = (m.name for m in view.state.servers if m.member_id != view.member_id)
    wanted = tuple(sorted(name for name in others if not _is_missing(view, name)))
    if slots is None or tuple(sorted(slots)) == wanted:
        return None
    return Decision(Reason.KEEPING_SLOTS, (KeepSlots(nodes=wanted),))


def _is_missing(view: NodeView, node: NodeId) -> bool:
    """Whether a member has been silent for so long that no WAL is kept for it."""
    ttl_ms = view.limits.slots_ttl_ms
    received = view.reports.get(node)
    heard_ms = received.at_ms if received else view.postgres.watched_ms
    return 0 < ttl_ms <= view.now_ms - heard_ms


def carried_slots(
    state: ClusterState, primary: NodeReport, *, own: NodeId
) -> Mapping[NodeId, Lsn | None] | None:
    """Return the slots of a standby, and up to where each may let go of WAL.

    A standby that is promoted has what the others need only if it kept it before
    (safety rule 55). Each slot stays where the primary's slot is for the same member:
    at what that has confirmed. A primary that comes back begins at a checkpoint, so its
    own slot stays at this standby's: None.

    Args:
        state: Who belongs to the cluster.
        primary: The primary's newest report.
        own: This standby.

    Returns:
        None: the primary says nothing of its slots, and nothing is to change.
    """
    if primary.vitals is None or not primary.vitals.slots:
        return None
    confirmed = {slot.node: slot.restart_lsn for slot in primary.vitals.slots}
    ends: dict[NodeId, Lsn | None] = {}
    for member in state.servers:
        if member.name == primary.node:
            ends[member.name] = None
        elif member.name != own and confirmed.get(member.name) is not None:
            ends[member.name] = confirmed[member.name]
    return ends
