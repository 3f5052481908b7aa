"""The program that switches nodes off, modelled: it works, fails, or hangs."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pgbastion.clock import boottime_ms
from pgbastion.config.timings import Timings
from pgbastion.model.actions import CallFence
from pgbastion.model.snapshot import FenceCounts
from pgbastion.model.views import FenceCall, FencingView
from pgbastion.testing.sim.world import ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.loop import SimLoop
    from pgbastion.testing.sim.machine import Machine

LIMIT_MS: Final = 3_000
WORKS: Final = 0.6
"""Share of the runs that switch the node off and say so."""
OFF_AND_UNSAID: Final = 0.2
"""Share of the other runs that switch it off all the same."""


class SimFencer:
    """A power switch that a leader reaches; fulfils ``ha.ports.Fencer``.

    Args:
        machine: Whose daemon calls it.
        loop: That daemon's.
        on_change: Called when a run has begun or ended.
        timings: Returns what the daemon goes by.
    """

    def __init__(
        self,
        machine: "Machine",
        loop: "SimLoop",
        on_change: Callable[[], None],
        *,
        timings: Callable[[], Timings],
    ) -> None:
        self._machine = machine
        self._loop = loop
        self._on_change = on_change
        self._timings = timings
        self._newest: FenceCall | None = None
        self.counts = FenceCounts()

    def view(self) -> FencingView:
        """Return what came of the newest run."""
        timings = self._timings()
        return FencingView(
            lead_ms=timings.stop_ms + timings.margin_ms, call=self._newest
        )

    def call(self, order: CallFence) -> None:
        """Switch a machine off after a while, or not."""
        if self._newest is not None and not self._newest.ended_ms:
            return
        call = FenceCall(epoch=order.epoch, term=order.term, started_ms=boottime_ms())
        self._newest = call
        machine = self._machine
        target = machine.peers[machine.number_of(order.node)]
        share = machine.setting.fence_works or 0.0
        works = machine.random.random() < share
        unsaid = OFF_AND_UNSAID if share else 0.0
        switches = works or machine.random.random() < unsaid
        hangs = not works and machine.random.random() < 0.5
        delay_ms = LIMIT_MS if hangs else machine.random.uniform(50, 1_500)
        machine.world.say(machine.name, f"fences {target.name}: {works=} {switches=}")
        if switches:
            machine.world.after(ms(delay_ms * 0.9), self._switch, target)
        machine.world.after(
            ms(delay_ms), self._loop.call_soon, lambda: self._end(call, works)
        )

    def _switch(self, target: "Machine") -> None:
        target.power_off()
        target.world.after(ms(target.random.uniform(500, 20_000)), target.power_on)

    def _end(self, call: FenceCall, works: bool) -> None:  # noqa: FBT001
        self._newest = replace(call, ended_ms=boottime_ms(), confirmed=works)
        self._on_change()

    async def close(self) -> None:
        """End nothing: the switch does what it was told."""
