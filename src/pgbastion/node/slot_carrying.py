"""Keeps a standby's slots where the primary's are, for the day it is promoted."""

import asyncio
from typing import Final

from pgbastion.clock import boottime_ms
from pgbastion.config.model import Config
from pgbastion.control.slots import carried_slots
from pgbastion.errors import PostgresError
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.model.ids import NodeId
from pgbastion.model.report import NodeReport
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.instance import Instance
from pgbastion.postgres.slots import CarriedSlots

EVERY_S: Final = 10.0
"""A standby keeps what the others were behind so long ago, and no more."""

log = get_logger("postgres")


class SlotCarrying:
    """Looks at the primary's report every now and then.

    Args:
        own: This node.
        host: The replicated state and the reports.
        observer: Tells whether the server is a standby.
        slots: The server's slots.
        fresh_ms: How old the primary's word may be.
    """

    def __init__(
        self,
        own: NodeId,
        host: Host,
        observer: Observer,
        slots: CarriedSlots,
        *,
        fresh_ms: int,
    ) -> None:
        self._own = own
        self._host = host
        self._observer = observer
        self._slots = slots
        self.fresh_ms = fresh_ms

    async def run(self) -> None:
        """Carry the slots for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.carry()

    async def carry(self) -> None:
        """Carry them once. A server that cannot be asked now is asked the next time."""
        server, primary = self._observer.server, self._primary()
        if server is None or not server.in_recovery or primary is None:
            return
        ends = carried_slots(self._host.state, primary, own=self._own)
        if ends is None:
            return
        try:
            await self._slots.carry(ends)
        except PostgresError as exc:
            log.debug("slots_not_carried", error=str(exc))

    def _primary(self) -> NodeReport | None:
        """Return the newest word of the epoch's primary; None: it is silent."""
        held = self._host.state.assignment
        if held is None or not held.opened:
            return None
        received = self._host.reports.get(held.node)
        if received is None or boottime_ms() - received.at_ms > self.fresh_ms:
            return None
        report = received.report
        return report if report.promoted and report.epoch == held.epoch else None


def carrying(
    config: Config, host: Host, observer: Observer, instance: Instance
) -> SlotCarrying:
    """Return what carries the slots of this node's server."""
    return SlotCarrying(
        NodeId(config.node.name),
        host,
        observer,
        CarriedSlots(instance.address),
        fresh_ms=3 * config.timings.probe_ms,
    )
