"""The network between machines."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from pgbastion.testing.sim.world import World, ms


@dataclass(slots=True)
class LinkQuality:
    """How well packets travel; delays in milliseconds."""

    least_ms: float = 0.15
    most_ms: float = 1.5
    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    """Share of packets that take up to ``late_ms``."""
    late_ms: float = 0.0


STORM = LinkQuality(most_ms=8.0, lost=0.12, repeated=0.05, late=0.1, late_ms=900.0)


@dataclass(slots=True)
class Links:
    """All links; each direction of each pair draws from a stream of its own."""

    world: World
    quality: LinkQuality = field(default_factory=LinkQuality)
    cuts: set[tuple[int, int]] = field(default_factory=set)
    _streams: dict[tuple[int, int], Random] = field(default_factory=dict)
    slow: dict[tuple[int, int], float] = field(default_factory=dict)
    """Milliseconds that are added in one direction."""
    on_cut: list[Callable[[int, int], None]] = field(default_factory=list)
    on_heal: list[Callable[[], None]] = field(default_factory=list)

    def _stream(self, source: int, target: int) -> Random:
        stream = self._streams.get((source, target))
        if stream is None:
            stream = self.world.stream(f"link {source} {target}")
            self._streams[source, target] = stream
        return stream

    def send(
        self, source: int, target: int, deliver: Callable[..., object], *args: object
    ) -> None:
        """Send a packet: it may be lost, repeated, late, and overtaken by others."""
        if (source, target) in self.cuts:
            return
        quality, random = self.quality, self._stream(source, target)
        if quality.lost and random.random() < quality.lost:
            return
        added_ms = self.slow.get((source, target), 0.0)
        self._carry(random, added_ms, deliver, args)
        if quality.repeated and random.random() < quality.repeated:
            self._carry(random, added_ms, deliver, args)

    def _carry(
        self,
        random: Random,
        added_ms: float,
        deliver: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        quality = self.quality
        delay_ms = added_ms + random.uniform(quality.least_ms, quality.most_ms)
        if quality.late and random.random() < quality.late:
            delay_ms += random.uniform(0, quality.late_ms)
        self.world.after(ms(delay_ms), deliver, *args)

    def delay_ns(self, source: int, target: int) -> int:
        """Return how long a byte of a connection takes; nothing of it is lost."""
        quality, random = self.quality, self._stream(source, target)
        added_ms = self.slow.get((source, target), 0.0)
        delay_ms = added_ms + random.uniform(quality.least_ms, quality.most_ms)
        if quality.lost and random.random() < quality.lost:
            # A lost segment is sent again.
            delay_ms += 200.0
        return ms(delay_ms)

    def connects(self, one: int, other: int) -> bool:
        """Tell whether packets pass both ways."""
        return (one, other) not in self.cuts and (other, one) not in self.cuts

    def cut(self, source: int, target: int) -> None:
        """Let nothing pass in this direction."""
        if (source, target) not in self.cuts:
            self.cuts.add((source, target))
            for tell in self.on_cut:
                tell(source, target)

    def heal(self) -> None:
        """Let everything pass everywhere."""
        if self.cuts:
            self.cuts.clear()
            for tell in self.on_heal:
                tell()
