"""An order to change the primary: who may take the role, and the holder's steps.

The holder prepares while it serves, has all proxies hold new clients, stops its server
cleanly and releases the epoch with the place where its WAL ends. A node that has
flushed that far has everything, so one answer to the survey is enough to assign it.

Source: docs/explanation/orders.md.
"""

from collections.abc import Mapping
from typing import Final

from pgbastion.control.candidates import handicaps, is_able
from pgbastion.control.node_rules import held_by_this, lease_deadline_ms, release_epoch
from pgbastion.model.actions import (
    Decision,
    PrepareHandOver,
    Propose,
    ReadySlots,
    StopMode,
    StopPostgres,
)
from pgbastion.model.cluster import (
    ClusterState,
    Member,
    Order,
    OrderKind,
    OrderOutcome,
)
from pgbastion.model.commands import BeginOrder, SettleOrder
from pgbastion.model.ids import NodeId, standby_name
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import NodeView, Received, Reports

LAG_MAX_BYTES: Final = 16 << 20
"""A target may lag by this much behind where the primary's WAL ended a probe ago."""
OPENING_MS: Final = 100
"""How long sessions that are being opened when new ones are held may take."""
HOLD_PATIENCE_MS: Final = 400
"""How long a stop waits for proxies that have not said that they hold clients."""


def why_unfit(state: ClusterState, reports: Reports, target: NodeId) -> str | None:
    """Return why a node cannot take the role of a living primary; None: it can."""
    held = state.assignment
    member = state.server(target)
    if held is None or not held.live:
        return "there is no primary"
    if member is None:
        return f"{target} is not a member with PostgreSQL"
    if target == held.node:
        return f"{target} is the primary"
    barred = barred_from_role(state, member)
    if barred is not None:
        return barred
    report = reports.fresh(target)
    if report is None:
        return f"{target} is silent"
    if report.state is not PostgresState.STANDBY or not report.streaming:
        return f"{target} does not stream from {held.node}"
    opened = state.opened
    if opened is None or opened.epoch != held.epoch:
        return f"{held.node} is still being promoted"
    if member.data_id is None or report.data_id != member.data_id:
        return f"{target} has another data directory than it declared"
    names = opened.sync.names
    if opened.sync.num_sync and standby_name(target, member.data_id) not in names:
        return f"{target} is not in the synchronous set"
    return _hindered(reports.last(held.node), report)


def barred_from_role(state: ClusterState, member: Member) -> str | None:
    """Return why an operator keeps a node from the primary role; None: nobody does."""
    if member.nofailover:
        return f"{member.name} is tagged nofailover"
    return f"{member.name} is fenced" if state.fence(member.name) else None


def may_hold(
    state: ClusterState, reports: Mapping[NodeId, Received]
) -> frozenset[NodeId]:
    """Return the nodes that nobody keeps from the primary role, themselves neither."""
    return frozenset(
        member.name
        for member in state.servers
        if not barred_from_role(state, member) and is_able(reports, member.name)
    )


def _hindered(primary: NodeReport | None, report: NodeReport) -> str | None:
    for handicap in handicaps(report):
        return f"{report.node}: {handicap}"
    end = primary.wal_end if primary is not None else None
    if end is None or report.wal_end is None or report.replay_lsn is None:
        return f"how far {report.node} lags is unknown"
    if report.wal_end.timeline != end.timeline:
        return f"{report.node} is on timeline {report.wal_end.timeline}"
    # What the target says of itself is as old as a probe. The primary's end moves by
    # a whole segment at once where it switches to a new one, so it is as old here.
    earlier = primary.earlier_end if primary is not None else None
    due = end.lsn if earlier is None else earlier
    for what, lsn in (("receives", report.wal_end.lsn), ("replays", report.replay_lsn)):
        behind = due - lsn
        if behind > LAG_MAX_BYTES:
            return f"{report.node} {what} {behind} bytes behind the primary"
    return None


def best_target(state: ClusterState, reports: Reports) -> NodeId | None:
    """Return the node that should take the role over; None: nobody can."""
    return next(iter(fit_targets(state, reports)), None)


def fit_targets(state: ClusterState, reports: Reports) -> tuple[NodeId, ...]:
    """Return every node that can take the role over, the best first."""

    def rank(member: Member) -> tuple[int, int, NodeId]:
        report = reports.last(member.name)
        replayed = report.replay_lsn if report is not None else None
        return member.failover_priority, replayed or 0, member.name

    fit = (m for m in state.servers if why_unfit(state, reports, m.name) is None)
    return tuple(m.name for m in sorted(fit, key=rank, reverse=True))


def is_ordered(state: ClusterState) -> bool:
    """Tell whether the current epoch ends by an operator's word."""
    order = state.order
    if order is None or order.is_work:
        return False
    return order.epoch == state.epoch and order.begun


def failover_order(state: ClusterState) -> Order | None:
    """Return the open order that counts without a living primary, too; or None."""
    order = state.order
    if order is None or order.epoch != state.epoch:
        return None
    return order if order.order is OrderKind.FAILOVER else None


# The target's step


def ready_slots(view: NodeView) -> Decision | None:
    """Have the slots that a primary needs before clients wait for them.

    A standby has most of them (`control.slots`); one may be new. One that did not get
    the role keeps them as standbys do.
    """
    order = view.state.order
    wanted, nodes = "", tuple[NodeId, ...]()
    if order is not None and is_ordered(view.state) and order.target == view.node:
        wanted = order.order_id
        nodes = tuple(m.name for m in view.state.servers if m.name != view.node)
    if view.prepared == wanted:
        return None
    return Decision(Reason.KEEPING_SLOTS, (ReadySlots(order_id=wanted, nodes=nodes),))


# The holder's steps


def hand_over(view: NodeView) -> Decision | None:
    """Carry an open order for this epoch out."""
    order = view.state.order
    if order is None or order.is_work or order.epoch != view.state.epoch:
        return None
    reports = view.reports_within(view.limits.sync_silent_ms)
    why = why_unfit(view.state, reports, order.target)
    if order.begun:
        return _fail(view, order, why) if why else _stop(view, order)
    again_ms = view.now_ms + view.limits.retry_ms
    if why is not None:
        return Decision(Reason.HANDOVER_WAITS, (), again_ms, detail=why)
    if view.prepared != order.order_id:
        prepare = PrepareHandOver(order_id=order.order_id, drain_ms=order.drain_ms)
        actions = () if view.checkpointing else (prepare,)
        return Decision(Reason.PREPARING_HANDOVER, actions, again_ms)
    begin = BeginOrder(
        order_id=order.order_id,
        epoch=view.state.epoch,
        incarnation=view.incarnation,
    )
    return Decision(Reason.HOLDING_CLIENTS, (Propose(command=begin),))


def _fail(view: NodeView, order: Order, why: str) -> Decision:
    """Go on as the primary: nothing was stopped yet."""
    command = SettleOrder(
        order_id=order.order_id, outcome=OrderOutcome.FAILED, detail=why, at=view.at
    )
    return Decision(Reason.HANDOVER_FAILED, (Propose(command=command),), detail=why)


def _stop(view: NodeView, order: Order) -> Decision:
    """Stop cleanly once no proxy sends anybody new."""
    waiting = hold_clients(view, order)
    if waiting is not None:
        return waiting
    # Until its lease must end, so that an orderly end is not cut short.
    left_ms = lease_deadline_ms(view) - view.now_ms + view.limits.stop_ms
    action = StopPostgres(
        mode=StopMode.FAST,
        reason=Reason.HANDING_OVER,
        budget_ms=max(left_ms, view.limits.stop_ms),
    )
    return Decision(Reason.HANDING_OVER, (action,), detail=order.target)


def hold_clients(view: NodeView, order: Order) -> Decision | None:
    """Wait until every proxy lets new clients wait; None: they do."""
    patient_ms = view.begun_ms + HOLD_PATIENCE_MS
    living = view.reports_within(view.limits.sync_silent_ms).living()
    not_holding = [n for n, r in living.items() if r.report.holding != order.order_id]
    if not_holding and view.now_ms < patient_ms:
        detail = ", ".join(not_holding)
        return Decision(Reason.HOLDING_CLIENTS, (), patient_ms, detail=detail)
    opened_ms = view.begun_ms + OPENING_MS
    if view.now_ms < opened_ms:
        return Decision(Reason.HOLDING_CLIENTS, (), opened_ms)
    return None


def release_for_order(view: NodeView) -> Decision | None:
    """Release the epoch once the server has ended for an order."""
    if not is_ordered(view.state):
        return None
    held = held_by_this(view)
    if view.data.promoted_epoch != held.epoch:
        return None
    return release_epoch(view, Reason.HANDED_OVER)
