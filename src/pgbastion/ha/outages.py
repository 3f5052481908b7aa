"""For how long no primary took writes, as one node saw it, and whose sessions ended."""

from collections.abc import Callable, Mapping
from typing import Final

from pgbastion.control.routing import Routing
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.report import Outage
from pgbastion.model.views import Received

SILENT_MS: Final = 1_000
"""A primary that was silent for so long had stopped when it was last heard."""


class OutageMeter:
    """Measures the newest change of the primary on one node.

    ``sessions`` tells how many sessions with the primary the node's proxy has.
    """

    def __init__(self) -> None:
        self.sessions: Callable[[], int] = lambda: 0
        self.newest: Outage | None = None
        self.on_end: Callable[[Outage], None] | None = None
        self._lost_ms: int | None = None
        self._had = 0
        self._is_parking = False
        self._served = Epoch(0)

    def note(
        self,
        now_ms: int,
        routing: Routing,
        reports: Mapping[NodeId, Received],
        *,
        stopping: bool,
    ) -> None:
        """Take what this node knows now.

        Args:
            now_ms: The node's clock.
            routing: Where it sends clients, not in force yet.
            reports: The newest report of each node.
            stopping: This node stops the primary just now.
        """
        if routing.parking and not self._is_parking:
            # Before the stop: afterwards they are gone.
            self._had = self.sessions()
        self._is_parking = bool(routing.parking)
        if not stopping and _serves(routing, reports):
            self._end(now_ms, routing.epoch)
        elif self._served and self._lost_ms is None:
            if not self._is_parking:
                self._had = self.sessions()
            self._lost_ms = _lost_at(now_ms, routing, reports)

    def _end(self, now_ms: int, epoch: Epoch) -> None:
        lost_ms, self._lost_ms = self._lost_ms, None
        if lost_ms is not None and epoch != self._served:
            self.newest = Outage(
                epoch=epoch, gap_ms=max(now_ms - lost_ms, 0), sessions=self._had
            )
            if self.on_end is not None:
                self.on_end(self.newest)
        self._served = epoch


def _serves(routing: Routing, reports: Mapping[NodeId, Received]) -> bool:
    primary = routing.primary
    received = reports.get(primary.name) if primary is not None else None
    return received is not None and received.report.accepting


def _lost_at(now_ms: int, routing: Routing, reports: Mapping[NodeId, Received]) -> int:
    """Return when the primary was lost: now, or when a silent one was last heard."""
    last_ms = max(
        (
            received.at_ms
            for received in reports.values()
            if received.report.accepting and received.report.epoch == routing.epoch
        ),
        default=now_ms,
    )
    return last_ms if now_ms - last_ms >= SILENT_MS else now_ms
