"""How the state takes schedules of switchovers, and fences around nodes.

Source: docs/explanation/orders.md.
"""

from dataclasses import replace
from typing import Final, assert_never

from pgbastion.control.apply_orders import DRAIN_MAX_MS, ORDERS_MAX
from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import (
    AT_MAX,
    CAUSE_MAX,
    ClusterState,
    Fence,
    Order,
    OrderKind,
    OrderOutcome,
    Schedule,
)
from pgbastion.model.commands import ScheduleOrder, SetFence, Unschedule
from pgbastion.model.ids import NodeId, Revision

SCHEDULED_MAX: Final = 10

ScheduleOrFence = ScheduleOrder | Unschedule | SetFence


def apply_schedule_or_fence(
    state: ClusterState, command: ScheduleOrFence
) -> ClusterState | Outcome:
    """Take a schedule, its end, a fence, or the end of that."""
    match command:
        case ScheduleOrder():
            return _schedule(state, command.schedule)
        case Unschedule():
            return _unschedule(state, command)
        case SetFence():
            return _set_fence(state, command)
        case _:
            assert_never(command)


def _schedule(state: ClusterState, schedule: Schedule) -> ClusterState | Outcome:
    ordered = {order.order_id for order in state.orders}
    if schedule.order_id in ordered | {s.order_id for s in state.scheduled}:
        return Outcome.DUPLICATE
    if len(state.scheduled) >= SCHEDULED_MAX:
        return Outcome.TOO_MANY_SCHEDULED
    if schedule.target is not None and state.server(schedule.target) is None:
        return Outcome.UNKNOWN_MEMBER
    bounded = 0 <= schedule.drain_ms <= DRAIN_MAX_MS
    if not (schedule.order_id and bounded and schedule.due_at < schedule.expires_at):
        return Outcome.SENSELESS
    taken = replace(
        schedule,
        cause=schedule.cause[:CAUSE_MAX],
        at=schedule.at[:AT_MAX],
        due_at=schedule.due_at[:AT_MAX],
        expires_at=schedule.expires_at[:AT_MAX],
    )
    return replace(state, scheduled=(*state.scheduled, taken))


def _unschedule(state: ClusterState, command: Unschedule) -> ClusterState | Outcome:
    """Drop what was scheduled, and keep it among the orders with its outcome."""
    by_id = {s.order_id: s for s in state.scheduled}
    schedule = by_id.get(command.order_id)
    if schedule is None:
        return Outcome.NO_SUCH_ORDER
    if command.outcome not in (OrderOutcome.CANCELLED, OrderOutcome.EXPIRED):
        return Outcome.SENSELESS
    dropped = Order(
        order_id=schedule.order_id,
        order=OrderKind.SWITCHOVER,
        target=schedule.target or NodeId(""),
        epoch=state.epoch,
        drain_ms=schedule.drain_ms,
        force=False,
        cause=schedule.cause,
        at=schedule.at,
        expires_at=schedule.expires_at,
        outcome=command.outcome,
        detail=command.detail[:CAUSE_MAX],
        settled_at=command.at[:AT_MAX],
    )
    left = tuple(s for s in state.scheduled if s is not schedule)
    # Only the last one may be without outcome.
    settled = len(state.orders) - (state.order is not None)
    orders = (*state.orders[:settled], dropped, *state.orders[settled:])
    return replace(state, scheduled=left, orders=orders[-ORDERS_MAX:])


def _set_fence(state: ClusterState, command: SetFence) -> ClusterState | Outcome:
    """Fence a node or take that back; an assignment decided before is refused."""
    if state.server(command.node) is None:
        return Outcome.UNKNOWN_MEMBER
    if not 0 <= command.drain_ms <= DRAIN_MAX_MS:
        return Outcome.SENSELESS
    old = state.fence(command.node)
    others = tuple(f for f in state.fences if f.node != command.node)
    if not command.fenced:
        if old is None:
            return Outcome.NO_CHANGE
        return replace(state, revision=Revision(state.revision + 1), fences=others)
    fence = Fence(
        node=command.node,
        force=command.force or (old is not None and old.force),
        drain_ms=command.drain_ms,
        cause=command.cause[:CAUSE_MAX],
        at=command.at[:AT_MAX],
    )
    if old is not None and old.force == fence.force:
        return Outcome.NO_CHANGE
    return replace(
        state, revision=Revision(state.revision + 1), fences=(*others, fence)
    )
