"""Scheduled switchovers, and fences: when an operator's wish is carried out.

A schedule becomes an order within its window of wall-clock time, once, or is dropped. A
fenced primary gets an order to hand its role over, again and again until it could.

Source: docs/explanation/orders.md.
"""

from typing import Final

from pgbastion.control.orders import best_target, why_unfit
from pgbastion.control.role_history import note_outage
from pgbastion.control.wall_time import later
from pgbastion.model.actions import Decision, Propose
from pgbastion.model.cluster import (
    ClusterState,
    Fence,
    Order,
    OrderKind,
    OrderOutcome,
    Schedule,
)
from pgbastion.model.commands import GiveOrder, Unschedule
from pgbastion.model.ids import NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, NodeView, Reports

ORDER_VALID_MS: Final = 300_000
"""Beyond the drain: an order that was not begun by then is void."""
AGAIN_MS: Final = 10_000
"""How long after a hand-over of a fenced primary that failed the next one begins."""


def decide_schedules_and_fences(view: ClusterView) -> Decision | None:
    """Give the order that a schedule or a fence asks for now; None: nothing is due."""
    late = _drop_late(view)
    if late is not None:
        return late
    held = view.state.assignment
    if view.state.order is not None or held is None or not held.live:
        return None
    fence = view.state.fence(held.node)
    if fence is not None:
        return _hand_fenced_over(view, fence)
    return _give_due(view) or note_outage(view)


def _drop_late(view: ClusterView) -> Decision | None:
    """Drop what could not be given within its window."""
    for schedule in view.state.scheduled:
        if view.at > schedule.expires_at:
            why = _target_of(view, schedule)[1] or "nobody could give it in time"
            drop = Unschedule(
                order_id=schedule.order_id,
                outcome=OrderOutcome.EXPIRED,
                detail=why,
                at=view.at,
            )
            actions = (Propose(command=drop),)
            return Decision(Reason.SCHEDULE_MISSED, actions, detail=why)
    return None


def _give_due(view: ClusterView) -> Decision | None:
    """Give the first order that is due and can be carried out."""
    for schedule in view.state.scheduled:
        if not schedule.due_at <= view.at <= schedule.expires_at:
            continue
        target, why = _target_of(view, schedule)
        if target is None or why is not None:
            # Its window is still open: who lags or is silent now may be ready then.
            continue
        order = _order(
            view,
            schedule.order_id,
            target,
            drain_ms=schedule.drain_ms,
            cause=schedule.cause,
        )
        give = Propose(command=GiveOrder(order=order))
        return Decision(Reason.SCHEDULE_DUE, (give,), detail=target)
    return None


def _target_of(
    view: ClusterView, schedule: Schedule
) -> tuple[NodeId | None, str | None]:
    """Return the node that a schedule means now, and why it cannot take the role."""
    reports = view.known_reports
    if schedule.target is None:
        best = best_target(view.state, reports)
        return best, None if best else "no standby could take the role"
    return schedule.target, why_unfit(view.state, reports, schedule.target)


def _hand_fenced_over(view: ClusterView, fence: Fence) -> Decision | None:
    """Have a fenced primary hand its role over, if a standby can take it."""
    if fence.force:
        # It stops by itself, whoever is ready.
        return None
    if _failed_lately(view):
        return None
    target = best_target(view.state, view.known_reports)
    if target is None:
        return None
    # The index makes the id unique: each attempt has its own.
    order_id = f"fence-{view.state.epoch}-{view.state.index}"
    cause = f"{fence.node} is fenced: {fence.cause}"
    order = _order(view, order_id, target, drain_ms=fence.drain_ms, cause=cause)
    return Decision(
        Reason.FENCED_HANDS_OVER,
        (Propose(command=GiveOrder(order=order)),),
        detail=f"{fence.node} to {target}",
    )


def _failed_lately(view: ClusterView) -> bool:
    last = view.state.orders[-1] if view.state.orders else None
    if last is None or last.epoch != view.state.epoch:
        return False
    return view.at < later(last.settled_at, AGAIN_MS)


def _order(
    view: ClusterView, order_id: str, target: NodeId, *, drain_ms: int, cause: str
) -> Order:
    return Order(
        order_id=order_id,
        order=OrderKind.SWITCHOVER,
        target=target,
        epoch=view.state.epoch,
        drain_ms=drain_ms,
        force=False,
        cause=cause,
        at=view.at,
        expires_at=later(view.at, ORDER_VALID_MS + drain_ms),
    )


def why_not_fence(state: ClusterState, reports: Reports, node: NodeId) -> str | None:
    """Return why fencing a node needs force; None: it does not."""
    held = state.assignment
    is_primary = held is not None and held.live and held.node == node
    if is_primary and best_target(state, reports) is None:
        return f"{node} is the primary and no standby can take the role over now"
    left = [m for m in state.servers if not m.nofailover and not state.fence(m.name)]
    if [m.name for m in left] == [node]:
        return f"no node that may become the primary would be left without {node}"
    return None


def ended_by_fence(state: ClusterState) -> bool:
    """Tell whether the primary released its epoch because of a fence by force.

    That is an operator's word too: also under pause another node gets the role.
    """
    held = state.assignment
    if held is None or not held.released:
        return False
    fence = state.fence(held.node)
    return fence is not None and fence.force


def is_fenced_by_force(view: NodeView) -> bool:
    """Tell whether this node holds an epoch and an operator fenced it by force."""
    fence = view.state.fence(view.node)
    return fence is not None and fence.force
