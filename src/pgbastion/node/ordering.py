"""Puts an operator's orders into the log, after the checks that need no log."""

import secrets as random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from pgbastion.api.ports import Done, Outcome, Refused
from pgbastion.clock import boottime_ms, wall_time
from pgbastion.control.loss import possible_loss, primary_lives, why_ineligible
from pgbastion.control.orders import best_target, fit_targets, why_unfit
from pgbastion.control.schedules_and_fences import ORDER_VALID_MS
from pgbastion.model.cluster import Order, OrderKind
from pgbastion.model.ids import NodeId
from pgbastion.model.views import Reports
from pgbastion.node.proposing import Log, give_order, happened
from pgbastion.node.restart_and_copy import RestartAndCopy
from pgbastion.node.schedules_and_fences import SchedulesAndFences
from pgbastion.observe.logging import get_logger

LOOK: Final = (
    "pgbastion explain, or GET /cluster/explain, says what is in the way; then repeat"
)

log = get_logger("orders")


class Ordering:
    """Gives orders on behalf of people, and of a daemon that is told to stop.

    Args:
        host: The replicated state and the reports.
        fresh_ms: How old a report may be that an order rests on.
        drain_ms: How long older transactions get where the order does not say.
    """

    def __init__(
        self, host: Log, *, fresh_ms: int, drain_ms: Callable[[], int]
    ) -> None:
        self._host = host
        self.fresh_ms = fresh_ms
        self._drain_ms = drain_ms
        self.schedules_and_fences = SchedulesAndFences(
            host, reports=self._reports, drain_ms=drain_ms
        )
        self.restart_and_copy = RestartAndCopy(
            host, reports=self._reports, drain_ms=drain_ms
        )

    def on(self, host: Log) -> "Ordering":
        """Return the same on another log."""
        return Ordering(host, fresh_ms=self.fresh_ms, drain_ms=self._drain_ms)

    def best(self) -> NodeId | None:
        """Return who should take the role over now; None: nobody can."""
        return best_target(self._host.state, self._reports())

    def fit(self) -> tuple[NodeId, ...]:
        """Return every node that could take the role over now, the best first."""
        return fit_targets(self._host.state, self._reports())

    def _reports(self) -> Reports:
        fresh_since_ms = boottime_ms() - self.fresh_ms
        return Reports(received=self._host.reports, fresh_since_ms=fresh_since_ms)

    def not_primary(self, meant: NodeId | None) -> Refused | None:
        """Refuse what is meant for another primary than there is; None: it may be."""
        held = self._host.state.assignment
        if meant is None or (held is not None and held.node == meant):
            return None
        there = f"{held.node} has the role" if held else "nobody had the role yet"
        return Refused(
            code="other_primary",
            message=f"{meant} is not the primary: {there}",
            remedy="look at /cluster; leave leader out where any is meant",
        )

    async def switch_over(
        self, to: NodeId | None, drain_ms: int | None, *, cause: str
    ) -> Outcome:
        """Order a planned change of the primary; it is carried out by the holder."""
        target = to or self.best()
        if target is None:
            return Refused(
                code="no_candidate",
                message=f"no standby can take the role over now{self._why_nobody()}",
                remedy=LOOK,
            )
        why = why_unfit(self._host.state, self._reports(), target)
        if why is not None:
            return Refused(
                code="unfit", message=f"no switchover to {target}: {why}", remedy=LOOK
            )
        drain = self._drain_ms() if drain_ms is None else drain_ms
        return await self._give(
            self._order(OrderKind.SWITCHOVER, target, drain_ms=drain, cause=cause)
        )

    async def fail_over(
        self,
        to: NodeId,
        *,
        force: bool,
        cause: str,
        drain_ms: int | None = None,
    ) -> Outcome:
        """Order a change of the primary; a living one hands its role over.

        Without one, what could be lost is told, and accepted with ``force`` only: that
        also vouches that a silent holder is off.
        """
        state, reports = self._host.state, self._reports()
        lives = primary_lives(state, reports)
        if lives:
            why = why_unfit(state, reports, to)
        else:
            why = why_ineligible(state, reports, to)
        if why is not None:
            return Refused(
                code="unfit", message=f"no failover to {to}: {why}", remedy=LOOK
            )
        loss = None if lives else possible_loss(state, reports, to)
        if loss is not None and not force:
            return Refused(
                code="commits_may_be_lost",
                message=f"no failover to {to}: {loss}",
                remedy="wait for more nodes, or make sure that the old primary is off "
                "and accept the loss with force",
            )
        drain = self._drain_ms() if drain_ms is None else drain_ms
        order = self._order(OrderKind.FAILOVER, to, drain_ms=drain, cause=cause)
        # Nobody vouches for the death of a primary that lives.
        given = await self._give(replace(order, force=force and not lives))
        if not isinstance(given, Done):
            return given
        if happened(given, self._host):
            lost = loss or ""
            log.warning("failover_ordered", to=to, force=force, possible_loss=lost)
        facts = {**given.facts, "primary_lives": lives, "possible_loss": loss}
        return replace(given, facts=facts)

    def _why_nobody(self) -> str:
        state, reports = self._host.state, self._reports()
        held = state.assignment
        others = (m.name for m in state.servers if held is None or m.name != held.node)
        reasons = dict.fromkeys(why_unfit(state, reports, node) for node in others)
        said = [why for why in reasons if why is not None]
        return f": {'; '.join(said)}" if said else ""

    def _order(
        self, kind: OrderKind, target: NodeId, *, drain_ms: int, cause: str
    ) -> Order:
        now = wall_time()
        expires = now + timedelta(milliseconds=ORDER_VALID_MS + drain_ms)
        return Order(
            order_id=random.token_hex(8),
            order=kind,
            target=target,
            epoch=self._host.state.epoch,
            drain_ms=drain_ms,
            force=False,
            cause=cause,
            at=now.isoformat(timespec="milliseconds"),
            expires_at=expires.isoformat(timespec="milliseconds"),
        )

    async def _give(self, order: Order) -> Outcome:
        look = "look at /raft/directives and /cluster, then repeat"
        said = f"the {order.order} to {order.target}"
        return await give_order(self._host, order, said=said, look=look)
