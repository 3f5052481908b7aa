"""What an operator orders done to one node's server: a restart, or a fresh copy.

The node itself carries it out. It notes in the log which server (or data directory) is
to end before it ends it, so that a daemon that is restarted in between does it once.

Source: docs/explanation/orders.md, "Restart and copy".
"""

from typing import Final

from pgbastion.control.node_rules import (
    held_by_this,
    job_backoff,
    lease_deadline_ms,
    own_assignment,
    promoted_primary,
)
from pgbastion.control.orders import hold_clients
from pgbastion.control.wall_time import later
from pgbastion.model.actions import (
    Copy,
    Decision,
    PrepareHandOver,
    Propose,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import ClusterState, Order, OrderKind, OrderOutcome
from pgbastion.model.commands import BeginWork, SettleOrder
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.views import NodeView

RELEASE_WAIT_MS: Final = 5_000
"""How long a standby waits to be let out of the synchronous set before it stops."""
STOP_MAX_MS: Final = 60_000
"""How long the orderly end of a standby may take."""
RELEASE_AGAIN_MS: Final = 100
"""How soon it looks again whether it was let out."""


def work_target(state: ClusterState) -> NodeId | None:
    """Return the node that the open order is to work on; None: there is none."""
    order = state.order
    return order.target if order is not None and order.is_work else None


def own_work(view: NodeView) -> Order | None:
    """Return the open order to do something to this node's server; or None."""
    order = view.state.order
    own = order is not None and order.is_work and order.target == view.node
    return order if own else None


def restarts_here(view: NodeView) -> bool:
    """Tell whether this node's server ended, or is to end, to be started again."""
    return _has_begun(view, OrderKind.RESTART)


def is_copied_anew(view: NodeView) -> bool:
    """Tell whether an operator had this node's data replaced while it was there."""
    return _has_begun(view, OrderKind.REINIT)


def _has_begun(view: NodeView, kind: OrderKind) -> bool:
    order = own_work(view)
    return order is not None and order.begun and order.order is kind


def work_on_standby(view: NodeView) -> Decision | None:
    """Carry an order out on a running standby."""
    order = own_work(view)
    if order is None:
        return None
    if not order.begun:
        return _leave_sync_set(view, order) or _begin(view, order)
    if not _is_the_same(view, order):
        return _done(view, order)
    reason = _reason(order)
    stop = StopPostgres(mode=StopMode.FAST, reason=reason, budget_ms=STOP_MAX_MS)
    return Decision(reason, (stop,))


def work_on_stopped(view: NodeView) -> Decision | None:
    """Copy the primary anew if that was ordered; a restart needs a start alone."""
    order, primary = own_work(view), promoted_primary(view)
    if order is None or order.order is not OrderKind.REINIT or primary is None:
        return None
    if not order.begun:
        return _begin(view, order)
    if not _is_the_same(view, order):
        return None
    copy = Copy(primary=primary.node, epoch=view.state.epoch)
    return job_backoff(view) or Decision(
        Reason.REINIT_ORDERED, (copy,), detail=primary.node
    )


def work_on_primary(view: NodeView) -> Decision | None:
    """Restart the primary in its epoch, with clients held at every proxy."""
    order = own_work(view)
    if order is None or order.order is not OrderKind.RESTART:
        return None
    if order.begun and not _is_the_same(view, order):
        return _done(view, order)
    if not order.begun:
        if view.prepared == order.order_id:
            return _begin(view, order)
        prepare = PrepareHandOver(order_id=order.order_id, drain_ms=order.drain_ms)
        actions = () if view.checkpointing else (prepare,)
        again_ms = view.now_ms + view.limits.retry_ms
        return Decision(Reason.PREPARING_HANDOVER, actions, again_ms)
    waiting = hold_clients(view, order)
    if waiting is not None:
        return waiting
    # Until its lease must end: what takes longer is cut short, and recovers.
    left_ms = lease_deadline_ms(view) - view.now_ms + view.limits.stop_ms
    stop = StopPostgres(
        mode=StopMode.FAST,
        reason=Reason.RESTART_ORDERED,
        budget_ms=max(left_ms, view.limits.stop_ms),
    )
    held = held_by_this(view)
    return Decision(Reason.RESTART_ORDERED, (stop,), detail=held.node)


def _leave_sync_set(view: NodeView, order: Order) -> Decision | None:
    """Wait until no commit waits for this standby; the primary knows of the order."""
    opened, data_id = view.state.opened, view.data.data_id
    if opened is None or data_id is None or opened.sync.num_sync == 0:
        return None
    confirms = standby_name(view.node, data_id) in opened.sync.names
    if not confirms or view.at >= later(order.at, RELEASE_WAIT_MS):
        return None
    return Decision(Reason.LEAVING_SYNC_SET, (), view.now_ms + RELEASE_AGAIN_MS)


def _begin(view: NodeView, order: Order) -> Decision:
    command = BeginWork(
        order_id=order.order_id,
        member_id=view.member_id,
        server_ms=view.postgres.started_ms,
        data_id=view.data.data_id or "",
    )
    return Decision(_reason(order), (Propose(command=command),))


def _is_the_same(view: NodeView, order: Order) -> bool:
    """Whether what was to end is still there."""
    if order.order is OrderKind.REINIT:
        return view.data.data_id == order.data_id
    return view.postgres.started_ms == order.server_ms


def _done(view: NodeView, order: Order) -> Decision:
    command = SettleOrder(
        order_id=order.order_id, outcome=OrderOutcome.DONE, detail="", at=view.at
    )
    return Decision(Reason.WORK_DONE, (Propose(command=command),), detail=order.order)


def _reason(order: Order) -> Reason:
    if order.order is OrderKind.REINIT:
        return Reason.REINIT_ORDERED
    return Reason.RESTART_ORDERED


def may_work_under_pause(view: NodeView) -> bool:
    """Tell whether an order goes before a pause on this node."""
    order = own_work(view)
    if order is None or not order.begun:
        return False
    return own_assignment(view) is None or order.order is OrderKind.RESTART
