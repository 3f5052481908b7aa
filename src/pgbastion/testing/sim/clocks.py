"""A node's CLOCK_BOOTTIME: it runs a little too fast or slow, and may stand still."""

from collections.abc import Callable
from typing import Final

from pgbastion.testing.sim.world import World

MILLION: Final = 1_000_000


class NodeClock:
    """One machine's clock.

    Args:
        world: True time.
        start_ns: What it shows at the beginning.
        rate_ppm: How much faster than true time it runs, in parts per million.
    """

    def __init__(self, world: World, *, start_ns: int, rate_ppm: int) -> None:
        self._world = world
        self._rate = MILLION + rate_ppm
        self._base_ns = start_ns
        self._since_ns = world.now_ns
        self._shown_ns, self._shown_at_ns = start_ns, -1
        self.stands = False
        self.stood_until_ns = 0
        """True time at which it last ran on after a stand-still."""
        self.stood_at_ns = 0
        """What it showed then."""
        self.on_run: list[Callable[[], None]] = []

    def now_ns(self) -> int:
        """Return what the clock shows."""
        now_ns = self._world.now_ns
        if self.stands:
            return self._base_ns
        if now_ns != self._shown_at_ns:
            passed = now_ns - self._since_ns
            self._shown_ns = self._base_ns + passed * self._rate // MILLION
            self._shown_at_ns = now_ns
        return self._shown_ns

    def until_ns(self, local_ns: int) -> int:
        """Return how much true time passes until the clock shows ``local_ns``."""
        left = local_ns - self.now_ns()
        return -(-left * MILLION // self._rate) if left > 0 else 0

    def stand(self) -> None:
        """Stand still, as when a hypervisor pauses the machine."""
        self._base_ns = self.now_ns()
        self.stands = True

    def run(self) -> None:
        """Go on from where it stood."""
        if self.stands:
            self.stands = False
            self._shown_at_ns = -1
            self.stood_at_ns = self._base_ns
            self._since_ns = self.stood_until_ns = self._world.now_ns
