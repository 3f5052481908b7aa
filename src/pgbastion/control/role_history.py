"""The history of roles: one record an epoch, put together from the log's notes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pgbastion.model.actions import Decision, Propose
from pgbastion.model.cluster import Change, ClusterState, Order
from pgbastion.model.commands import NoteOutage
from pgbastion.model.ids import Epoch, NodeId, Timeline
from pgbastion.model.reasons import Reason, sentence_of
from pgbastion.model.views import ClusterView
from pgbastion.model.wal import Lsn

NOTE_AFTER_MS: Final = 2_000
"""How long after an assignment every node may say how it saw the change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChange:
    """How a node got the primary role, and how it lost it."""

    epoch: Epoch
    node: NodeId
    timeline: Timeline
    former: NodeId | None = None
    """Who had the role before; None: it is not in the history any more."""
    former_ended_for: str = ""
    """Why the former one lost it."""
    cause: str = ""
    order_id: str = ""
    ordered_by: str = ""
    lsn: Lsn | None = None
    """The end of the WAL with which it was chosen."""
    assigned_at: str = ""
    opened_at: str = ""
    gap_ms: int | None = None
    """The longest time without a primary that any node saw; None: nobody said."""
    sessions: int | None = None
    """How many sessions ended."""
    revoked_at: str = ""
    vouched_at: str = ""
    vouched_by: str = ""
    released_at: str = ""
    ended_for: str = ""
    """Why it lost the role."""
    ended_lsn: Lsn | None = None


def role_changes(state: ClusterState) -> tuple[RoleChange, ...]:
    """Return what the history still has, the oldest first."""
    found: dict[Epoch, RoleChange] = {}
    for change in state.history:
        record = found.get(change.epoch) or RoleChange(
            epoch=change.epoch, node=change.node, timeline=change.timeline
        )
        found[change.epoch] = _with(record, change, state.orders)
    records = list(found.values())
    for at in range(1, len(records)):
        before = records[at - 1]
        records[at] = replace(
            records[at], former=before.node, former_ended_for=before.ended_for
        )
    return tuple(records)


def sentence_of_change(change: RoleChange) -> str:
    """Say why the role moved: for whoever gave it up, why that one did."""
    if change.ordered_by:
        return f"ordered: {change.ordered_by}"
    if change.cause == Reason.HOLDER_RELEASED and change.former_ended_for:
        return f"{change.former} gave it up: {sentence_of(change.former_ended_for)}"
    return sentence_of(change.cause)


def _with(record: RoleChange, change: Change, orders: Iterable[Order]) -> RoleChange:
    match change.what:
        case "assigned":
            order = next((o for o in orders if o.order_id == change.order_id), None)
            return replace(
                record,
                cause=change.cause,
                order_id=change.order_id,
                ordered_by=order.cause if order is not None else "",
                lsn=change.lsn,
                assigned_at=change.at,
            )
        case "opened":
            return replace(
                record,
                opened_at=change.at,
                gap_ms=change.gap_ms,
                sessions=change.sessions,
            )
        case "revoked":
            ended_for = record.ended_for or change.cause
            return replace(record, revoked_at=change.at, ended_for=ended_for)
        case "vouched":
            return replace(record, vouched_at=change.at, vouched_by=change.cause)
        case "released":
            return replace(
                record,
                released_at=change.at,
                ended_for=change.cause,
                ended_lsn=change.lsn,
            )


def note_outage(view: ClusterView) -> Decision | None:
    """Keep for how long the newest change stopped writes, once nodes have told."""
    state = view.state
    noted = next(
        (
            change
            for change in reversed(state.history)
            if change.what == "opened" and change.epoch == state.epoch
        ),
        None,
    )
    if noted is None or noted.gap_ms is not None:
        return None
    if view.now_ms < view.assigned_seen_ms + NOTE_AFTER_MS:
        return None
    seen = [
        received.report.outage
        for received in view.reports.values()
        if received.report.outage is not None
        and received.report.outage.epoch == state.epoch
    ]
    if not seen:
        return None
    command = NoteOutage(
        epoch=state.epoch,
        gap_ms=max(outage.gap_ms for outage in seen),
        sessions=sum(outage.sessions for outage in seen),
    )
    return Decision(Reason.NOTING_OUTAGE, (Propose(command=command),))
