"""How the state takes an operator's orders.

Source: docs/explanation/lease.md, "Pause"; docs/explanation/orders.md.
"""

from dataclasses import replace
from typing import Final, assert_never

from pgbastion.control.apply_policy import apply_policy
from pgbastion.control.outcomes import Outcome
from pgbastion.model.cluster import (
    AT_MAX,
    CAUSE_MAX,
    MEMBERS_MAX,
    ClusterState,
    Order,
    OrderKind,
    OrderOutcome,
)
from pgbastion.model.commands import (
    AdoptPolicy,
    BeginOrder,
    BeginWork,
    GiveOrder,
    Pause,
    Running,
    SetPolicy,
    SetReplication,
    SettleOrder,
    SettlePolicy,
)
from pgbastion.model.ids import NodeId, Revision

ORDERS_MAX: Final = 50
"""How many orders are kept, the newest ones, with what became of them."""
SYNC_COUNT_MAX: Final = MEMBERS_MAX - 1
"""One fewer than a cluster has members at most."""
DRAIN_MAX_MS: Final = 86_400_000
"""A day."""
DATA_ID_MAX: Final = 80

ModeCommand = Pause | Running | SetReplication | SetPolicy | AdoptPolicy | SettlePolicy
OrderCommand = GiveOrder | BeginOrder | BeginWork | SettleOrder


def apply_mode(state: ClusterState, command: ModeCommand) -> ClusterState | Outcome:
    """Take a change of how the whole cluster works."""
    match command:
        case Pause():
            return apply_pause(state, command)
        case Running():
            return apply_running(state, command)
        case SetReplication():
            return apply_replication(state, command)
        case SetPolicy() | AdoptPolicy() | SettlePolicy():
            return apply_policy(state, command)
        case _:
            assert_never(command)


def apply_pause(state: ClusterState, command: Pause) -> ClusterState | Outcome:
    """Pause or resume; an assignment that was decided before is refused after it."""
    if command.pause_revision != state.pause_revision + 1:
        return Outcome.STALE_REVISION
    if command.paused == state.paused:
        return Outcome.NO_CHANGE
    return replace(
        state,
        revision=Revision(state.revision + 1),
        paused=command.paused,
        pause_revision=command.pause_revision,
        paused_at=command.at[:AT_MAX],
    )


def apply_replication(
    state: ClusterState, command: SetReplication
) -> ClusterState | Outcome:
    """Change who confirms commits; what is promised stays until the holder changes it.

    An assignment that was decided before is refused after it: it may have counted on
    other rules.
    """
    if command.replication_revision != state.replication_revision + 1:
        return Outcome.STALE_REVISION
    count = command.sync_count
    if count is not None and not 0 <= count <= SYNC_COUNT_MAX:
        return Outcome.SENSELESS
    wanted = (command.mode, count, command.strict)
    if wanted == (state.mode, state.sync_count, state.strict):
        return Outcome.NO_CHANGE
    return replace(
        state,
        revision=Revision(state.revision + 1),
        replication_revision=command.replication_revision,
        replication_at=command.at[:AT_MAX],
        mode=command.mode,
        sync_count=count,
        strict=command.strict,
    )


def apply_running(state: ClusterState, command: Running) -> ClusterState | Outcome:
    """Note that the holder heeds its lease again, as of this pause revision."""
    held = state.assignment
    if held is None or held.epoch != command.epoch:
        return Outcome.WRONG_EPOCH
    if held.incarnation != command.incarnation:
        return Outcome.WRONG_INCARNATION
    if state.paused or command.pause_revision != state.pause_revision:
        return Outcome.STALE_REVISION
    if held.running == command.pause_revision:
        return Outcome.NO_CHANGE
    running = replace(held, running=command.pause_revision)
    return replace(state, assignment=running)


def apply_order(state: ClusterState, command: OrderCommand) -> ClusterState | Outcome:
    """Take an order, its beginning, or its end."""
    match command:
        case GiveOrder():
            return _give(state, command.order)
        case BeginOrder():
            return _begin(state, command)
        case BeginWork():
            return _begin_work(state, command)
        case SettleOrder():
            return _settle(state, command)
        case _:
            assert_never(command)


def _give(state: ClusterState, order: Order) -> ClusterState | Outcome:
    """Take an order for the current epoch, one at a time."""
    if any(known.order_id == order.order_id for known in state.orders):
        return Outcome.DUPLICATE
    open_one = state.order
    if open_one is not None and (order.is_work or not open_one.is_work):
        return Outcome.ORDER_OPEN
    held = state.assignment
    if held is None or order.epoch != held.epoch:
        return Outcome.WRONG_EPOCH
    if state.server(order.target) is None:
        return Outcome.UNKNOWN_MEMBER
    if not order.order_id or not 0 <= order.drain_ms <= DRAIN_MAX_MS:
        return Outcome.SENSELESS
    is_holder = held.live and order.target == held.node
    if is_holder and order.order is not OrderKind.RESTART:
        return Outcome.SENSELESS
    new = replace(
        order,
        begun=False,
        server_ms=0,
        data_id="",
        outcome=None,
        cause=order.cause[:CAUSE_MAX],
        at=order.at[:AT_MAX],
        expires_at=order.expires_at[:AT_MAX],
        detail="",
        settled_at="",
    )
    orders = state.orders
    if open_one is not None:
        # A change of the primary waits for nobody's copy or restart.
        superseded = replace(
            open_one, outcome=OrderOutcome.SUPERSEDED, settled_at=new.at
        )
        orders = (*orders[:-1], superseded)
    left = tuple(s for s in state.scheduled if s.order_id != order.order_id)
    return replace(state, orders=(*orders, new)[-ORDERS_MAX:], scheduled=left)


def _begin(state: ClusterState, command: BeginOrder) -> ClusterState | Outcome:
    """Begin the open order: only the living holder of its epoch can."""
    order, held = state.order, state.assignment
    if order is None or order.is_work or order.order_id != command.order_id:
        return Outcome.NO_SUCH_ORDER
    if held is None or not held.epoch == command.epoch == order.epoch:
        return Outcome.WRONG_EPOCH
    if held.incarnation != command.incarnation:
        return Outcome.WRONG_INCARNATION
    if not held.live:
        return Outcome.EPOCH_OVER
    if order.begun:
        return Outcome.NO_CHANGE
    return _with(state, replace(order, begun=True))


def _begin_work(state: ClusterState, command: BeginWork) -> ClusterState | Outcome:
    """Begin the open order: only the node that it names can, and once."""
    order = state.order
    if order is None or not order.is_work or order.order_id != command.order_id:
        return Outcome.NO_SUCH_ORDER
    member = state.named(order.target)
    if member is None or member.member_id != command.member_id:
        return Outcome.UNKNOWN_MEMBER
    if order.begun:
        return Outcome.NO_CHANGE
    held = state.assignment
    is_holder = held is not None and held.live and held.node == order.target
    if is_holder and order.order is OrderKind.REINIT:
        return Outcome.SENSELESS
    begun = replace(
        order,
        begun=True,
        server_ms=command.server_ms,
        data_id=command.data_id[:DATA_ID_MAX],
    )
    return _with(state, begun)


def _settle(state: ClusterState, command: SettleOrder) -> ClusterState | Outcome:
    """End the open order; one that was begun does not expire."""
    order = state.order
    if order is None or order.order_id != command.order_id:
        return Outcome.NO_SUCH_ORDER
    may_end = (OrderOutcome.FAILED, OrderOutcome.DONE)[: 1 + order.is_work]
    if order.begun and command.outcome not in may_end:
        return Outcome.SENSELESS
    return _with(
        state,
        replace(
            order,
            outcome=command.outcome,
            detail=command.detail[:CAUSE_MAX],
            settled_at=command.at[:AT_MAX],
        ),
    )


def settled_by(
    state: ClusterState, node: NodeId, at: str, why: str
) -> tuple[Order, ...]:
    """Return the orders after a node got the next epoch: the open one has ended."""
    order = state.order
    if order is None:
        return state.orders
    outcome, detail = OrderOutcome.DONE, ""
    if order.is_work:
        # The node goes on with it or not; the primary has changed meanwhile.
        outcome, detail = OrderOutcome.SUPERSEDED, f"{node}: {why}"[:CAUSE_MAX]
    elif node != order.target:
        outcome, detail = OrderOutcome.OTHER_CHOSEN, f"{node}: {why}"[:CAUSE_MAX]
    ended = replace(order, outcome=outcome, detail=detail, settled_at=at[:AT_MAX])
    return (*state.orders[:-1], ended)


def _with(state: ClusterState, order: Order) -> ClusterState:
    return replace(state, orders=(*state.orders[:-1], order))
