"""The addresses for replicas on this node: a manager each, since each comes alone."""

import asyncio
from collections.abc import Callable, Mapping

from pgbastion.model.addresses import (
    NOT_HELD,
    AddressCounts,
    AddressStatus,
    Holding,
    ReplicaReport,
    VirtualAddress,
)
from pgbastion.vip.manager import Leave, VipManager


class ReplicaAddresses:
    """Keeps those that the log places here.

    Args:
        addresses: What this node's configuration names.
        make: Makes the manager of one.
        fallback: They may be at the primary while no standby can have them.
    """

    def __init__(
        self,
        addresses: tuple[VirtualAddress, ...],
        *,
        make: Callable[[VirtualAddress], VipManager],
        fallback: bool,
    ) -> None:
        self._managers = {each.address: make(each) for each in addresses}
        self._fallback = fallback
        self._seen: Mapping[str, int] = {}

    def end_sessions_by(self, leave: Leave) -> None:
        """Have ``leave`` end clients' sessions before their address goes."""
        for manager in self._managers.values():
            manager.leave = leave

    def want(self, holdings: Mapping[str, Holding], seen: Mapping[str, int]) -> None:
        """Have these here, and no others."""
        for address, manager in self._managers.items():
            manager.want(holdings.get(address, NOT_HELD))
        # From here on a report may say of these placements what became of them.
        self._seen = seen

    async def drop(self) -> None:
        """Remove them, for good as far as their placements of now go."""
        for manager in self._managers.values():
            await manager.drop()

    def reports(self) -> tuple[ReplicaReport, ...]:
        """Return what the other nodes are told."""
        return tuple(self._report(*each) for each in self._managers.items())

    def _report(self, address: str, manager: VipManager) -> ReplicaReport:
        report = manager.report()
        return ReplicaReport(
            address=address,
            seen=self._seen.get(address, 0),
            may_be_set=manager.may_be_set,
            held=bool(report.held),
            problem=report.problem,
            conflict=report.conflict,
            fallback=self._fallback,
        )

    def statuses(self) -> tuple[AddressStatus, ...]:
        """Return how each stands here."""
        managers = self._managers.values()
        return tuple(status for manager in managers for status in manager.statuses())

    def counts(self) -> tuple[AddressCounts, ...]:
        """Return what has happened to each so far."""
        return tuple(manager.counts() for manager in self._managers.values())

    async def start(self) -> None:
        """Remove what an earlier life left behind.

        Raises:
            VipError: The kernel does not let us.
        """
        for manager in self._managers.values():
            await manager.start()

    async def run(self) -> None:
        """Keep them until cancelled."""
        async with asyncio.TaskGroup() as group:
            for address, manager in self._managers.items():
                group.create_task(manager.run(), name=f"address-{address}")

    async def close(self) -> None:
        """Remove them and close everything; what fails is logged."""
        for manager in self._managers.values():
            await manager.close()
