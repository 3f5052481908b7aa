"""True time, the queue of events, the streams of random numbers, what was seen.

Events fire one at a time, ordered by their instant and, at one instant, in the order
in which they were put in. Every node, link and disk draws from a stream of its own,
so that a change in one place leaves the others' numbers alone.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000


class Violation(Exception):  # noqa: N818 - it is what a run looks for
    """A promise is broken; ``promise`` is its name."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise


@dataclass(slots=True)
class Tally:
    """What a run has reached."""

    events: int = 0
    failovers: int = 0
    commits: int = 0
    addressings: int = 0
    """Times that an address for replicas came to a node."""
    reasons: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count what another run has reached too."""
        self.events += other.events
        self.failovers += other.failovers
        self.commits += other.commits
        self.addressings += other.addressings
        self.reasons += other.reasons
        self.transitions += other.transitions
        self.faults += other.faults


class World:
    """The queue of events of one run.

    Args:
        seed: All randomness comes from it.
        trace: Takes a line for each thing worth telling; None: nobody listens.
    """

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now_ns = 0
        self.tally = Tally()
        self.trace = trace
        self._queue: list[
            tuple[int, int, Callable[..., object], tuple[object, ...]]
        ] = []
        self._sequence = 0
        self._broken: Violation | None = None

    def broken(self, promise: str, text: str) -> Violation:
        """Return a violation to raise; it ends the run wherever it is raised."""
        self._broken = Violation(promise, text)
        return self._broken

    def stream(self, name: str) -> Random:
        """Return the stream of random numbers of this name."""
        return Random(f"{self.seed}/{name}")

    def after(self, delay_ns: int, do: Callable[..., object], *args: object) -> None:
        """Have ``do(*args)`` happen after a while."""
        self._sequence += 1
        heapq.heappush(
            self._queue, (self.now_ns + max(delay_ns, 0), self._sequence, do, args)
        )

    def run(self, until_ns: int) -> None:
        """Let everything happen up to an instant.

        Raises:
            Violation: A promise was broken.
        """
        queue, pop = self._queue, heapq.heappop
        fired = 0
        while queue and queue[0][0] <= until_ns:
            self.now_ns, _, do, args = pop(queue)
            fired += 1
            do(*args)
            if self._broken is not None:
                raise self._broken
        self.tally.events += fired
        self.now_ns = until_ns

    def say(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            self.trace(f"{self.now_ns / NS_PER_MS:12.3f} {who:<6} {what}")


def ms(value: float) -> int:
    """Return milliseconds as the nanoseconds of true time."""
    return int(value * NS_PER_MS)
