"""The addresses for replicas of a simulated machine: its kernel's table, and the port.

The table outlives the daemon, and each address in it has a lifetime on the machine's
clock, as the kernel's have. Setting and removing take their time, so that what was
wanted may be over when it happens.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pgbastion.clock import boottime_ns
from pgbastion.model.addresses import (
    NOT_HELD,
    AddressReport,
    Holding,
    ReplicaReport,
)
from pgbastion.testing.sim.loop import SimLoop

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

SET_MS: Final = (1, 80)
"""A probe of the segment comes first."""
REMOVE_MS: Final = (0, 30)


class SimAddresses:
    """The port of one life of a daemon; fulfils ``ha.ports.Addresses``.

    Args:
        machine: Its table is what counts.
        loop: The daemon's: nothing happens while it is stopped.
        names: The configured addresses.
        fallback: The primary may have them where no standby can.
    """

    may_be_set = False

    def __init__(
        self,
        machine: "Machine",
        loop: SimLoop,
        names: tuple[str, ...],
        *,
        fallback: bool,
    ) -> None:
        self._machine = machine
        self._loop = loop
        self._fallback = fallback
        self._wanted: dict[str, Holding] = dict.fromkeys(names, NOT_HELD)
        self._seen: Mapping[str, int] = {}
        # What an earlier life left behind may be there until it was looked for.
        self._may_be_set = set(names)
        self._busy: set[str] = set()
        for name in names:
            self._later(REMOVE_MS, name)

    # Those that follow the primary role are the product's own business elsewhere.

    def want(self, holding: Holding) -> None:
        """Do nothing: there are none."""

    async def drop(self) -> None:
        """Do nothing: there are none."""

    def want_replicas(
        self, holdings: Mapping[str, Holding], seen: Mapping[str, int]
    ) -> None:
        """Have these here, and no others."""
        self._seen = seen
        for name, before in self._wanted.items():
            holding = holdings.get(name, NOT_HELD)
            self._wanted[name] = holding
            if holding != before:
                self._later(SET_MS if holding.allowed else REMOVE_MS, name)

    def report(self) -> AddressReport:
        """Return what the other nodes are told."""
        return AddressReport(
            replicas=tuple(
                ReplicaReport(
                    address=name,
                    seen=self._seen.get(name, 0),
                    may_be_set=name in self._may_be_set,
                    fallback=self._fallback,
                )
                for name in self._wanted
            )
        )

    def _later(self, between_ms: tuple[int, int], name: str) -> None:
        if name not in self._busy:
            self._busy.add(name)
            pause_ms = self._machine.address_random.uniform(*between_ms)
            self._loop.call_later(pause_ms / 1_000, self._act, name)

    def _act(self, name: str) -> None:
        """Bring the table to what is wanted now."""
        self._busy.discard(name)
        holding = self._wanted[name]
        if holding.allowed and boottime_ns() < holding.until_ns:
            self._may_be_set.add(name)
            self._machine.set_address(name, holding.until_ns)
            return
        self._machine.addresses.pop(name, None)
        self._may_be_set.discard(name)
