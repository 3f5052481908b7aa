"""Puts orders to restart one node's server, or to copy it anew, into the log."""

import secrets as random
from collections.abc import Callable
from typing import Final

from pgbastion.api.ports import Outcome, Refused
from pgbastion.clock import wall_text
from pgbastion.control.wall_time import later
from pgbastion.model.cluster import Order, OrderKind
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import Reports
from pgbastion.node.proposing import CAUSE, Log, give_order

VALID_MS: Final = {OrderKind.RESTART: 600_000, OrderKind.REINIT: 86_400_000}
"""How long it may take, beyond the drain; then other orders need not wait for it."""
_SERVING: Final = (PostgresState.STANDBY, PostgresState.PRIMARY)
_COPYABLE: Final = (PostgresState.STANDBY, PostgresState.STOPPED)


class RestartAndCopy:
    """Gives orders about one node's server on behalf of people.

    Args:
        host: The replicated state and the reports.
        reports: Tells what the nodes last said, and how much of it is fresh.
        drain_ms: How long older transactions get where nobody says.
    """

    def __init__(
        self, host: Log, *, reports: Callable[[], Reports], drain_ms: Callable[[], int]
    ) -> None:
        self._host = host
        self._reports = reports
        self._drain_ms = drain_ms

    async def restart(
        self, node: NodeId, *, pending: bool, drain_ms: int | None
    ) -> Outcome:
        """Have PostgreSQL of a node restarted in the role that it has."""
        report = self._report(node)
        if isinstance(report, Refused):
            return report
        if report.state not in _SERVING:
            return _unfit(f"PostgreSQL on {node} is {report.state}")
        if pending and not report.pending_restart:
            return Refused(
                code="nothing_pending",
                message=f"no setting of {node} waits for a restart",
                remedy="leave pending out to restart it all the same",
            )
        drain = self._drain_ms() if drain_ms is None else drain_ms
        return await self._give(OrderKind.RESTART, node, drain_ms=drain)

    async def reinit(self, node: NodeId) -> Outcome:
        """Have a standby's data directory replaced by a copy of the primary's."""
        held = self._host.state.assignment
        if held is None or not held.live or not held.opened:
            return _unfit("there is no primary to copy")
        if held.node == node:
            return _unfit(f"{node} is the primary: its data is what others copy")
        report = self._report(node)
        if isinstance(report, Refused):
            return report
        if report.state not in _COPYABLE:
            return _unfit(f"PostgreSQL on {node} is {report.state}")
        return await self._give(OrderKind.REINIT, node, drain_ms=0)

    def _report(self, node: NodeId) -> NodeReport | Refused:
        if self._host.state.server(node) is None:
            return _unfit(f"{node} is not a member with PostgreSQL")
        return self._reports().fresh(node) or _unfit(f"{node} is silent")

    async def _give(self, kind: OrderKind, node: NodeId, *, drain_ms: int) -> Outcome:
        at = wall_text()
        order = Order(
            order_id=random.token_hex(8),
            order=kind,
            target=node,
            epoch=self._host.state.epoch,
            drain_ms=drain_ms,
            force=False,
            cause=CAUSE,
            at=at,
            expires_at=later(at, VALID_MS[kind] + drain_ms),
        )
        look = "look at /raft/directives, then repeat"
        said = f"the {kind} of {node}"
        return await give_order(self._host, order, said=said, look=look)


def _unfit(message: str) -> Refused:
    return Refused(
        code="unfit", message=message, remedy="look at /cluster, then repeat"
    )
