"""What `soak-api` watches: memory, files and the series of the metrics."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt
from pathlib import Path
from statistics import linear_regression, median
from typing import Final

from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.processes import Process

_SERIES: Final = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) \S+$")
S_PER_H: Final = 3_600.0
KIB: Final = 1_024
LOOKS_A_FLOOR: Final = 12
STANDARD_ERRORS: Final = 2
GROWTH_MAX_BYTES_PER_H: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at one process."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    files: int
    """Files in the directories that are the process's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How fast memory grows, and by how much that may be wrong either way."""

    bytes_per_h: float
    error: float

    def wrong(self) -> list[str]:
        """Return what is wrong with it; nothing only if it is shown to be small."""
        if self.bytes_per_h - self.error >= GROWTH_MAX_BYTES_PER_H:
            return ["memory grows"]
        if self.bytes_per_h + self.error >= GROWTH_MAX_BYTES_PER_H:
            return ["whether memory grows is not shown"]
        return []


@dataclass(slots=True)
class Watched:
    """One process and what was seen of it."""

    name: str
    process: Process
    folders: tuple[Path, ...] = ()
    looks: list[Look] = field(default_factory=list)

    def look(self, at_s: float) -> None:
        """Look once.

        Raises:
            LabError: It has ended.
        """
        own = Path(f"/proc/{self.process.pid}")
        try:
            text = (own / "status").read_text()
            descriptors = sum(1 for _ in (own / "fd").iterdir())
        except OSError as exc:
            raise LabError(f"{self.name} has ended") from exc
        status = dict(line.split(":", 1) for line in text.splitlines())
        self.looks.append(
            Look(
                at_s=at_s,
                rss_bytes=int(status["VmRSS"].split()[0]) * KIB,
                descriptors=descriptors,
                threads=int(status["Threads"]),
                files=sum(_count(folder) for folder in self.folders),
            )
        )

    def wrong(self, since_s: float) -> list[str]:
        """Return what grows since then, or is not shown not to."""
        looks = [look for look in self.looks if look.at_s >= since_s]
        counted = {
            "descriptors": [look.descriptors for look in looks],
            "threads": [look.threads for look in looks],
            "files": [look.files for look in looks],
        }
        more = [f"{what} grow" for what, values in counted.items() if grows(values)]
        return more + self.growth(since_s).wrong()

    def growth(self, since_s: float) -> Growth:
        """Return the slope of the line through the lowest looks since then.

        A long answer takes megabytes while it is made, and gives them back: of each few
        looks the lowest one counts. The error is that of a slope by least squares.
        """
        seen = [look for look in self.looks if look.at_s >= since_s]
        lowest = [
            min(few, key=lambda look: look.rss_bytes)
            for few in _by(LOOKS_A_FLOOR, seen)
        ]
        if len(lowest) <= 2:
            # A line goes through any two points: how far it is off is not known.
            return Growth(bytes_per_h=0.0, error=inf)
        hours = [look.at_s / S_PER_H for look in lowest]
        found = [float(look.rss_bytes) for look in lowest]
        slope, begin = linear_regression(hours, found)
        middle = sum(hours) / len(hours)
        spread = sum((hour - middle) ** 2 for hour in hours)
        off = sum(
            (rss - begin - slope * hour) ** 2
            for hour, rss in zip(hours, found, strict=True)
        )
        error = sqrt(off / (len(lowest) - 2) / spread)
        return Growth(bytes_per_h=slope, error=STANDARD_ERRORS * error)


def grows(values: Sequence[int]) -> bool:
    """Tell whether there is always more in the end than there usually was before.

    What comes and goes (a connection, an event that waits for a receiver) is now many
    and now few: what counts is that the last third never has as few any more as was
    usual in the first two. That its highest is higher would be chance.
    """
    third = len(values) // 3
    if not third:
        return False
    return min(values[-third:]) > median(values[:-third])


def series_of(metrics: str) -> frozenset[str]:
    """Return every series of a scrape: a name with its labels."""
    found = (_SERIES.match(line) for line in metrics.splitlines())
    return frozenset(match[1] for match in found if match)


def new_series(scrapes: Sequence[frozenset[str]]) -> frozenset[str]:
    """Return the series that were first seen in the last third.

    What comes back was there before, the warm-up included.
    """
    third = len(scrapes) // 3
    if not third:
        return frozenset()
    before = frozenset().union(*scrapes[:-third])
    return frozenset().union(*scrapes[-third:]) - before


def _count(folder: Path) -> int:
    return sum(1 for path in _walk(folder) if path.is_file())


def _walk(folder: Path) -> Iterable[Path]:
    return folder.rglob("*") if folder.is_dir() else ()


def _by(size: int, looks: Sequence[Look]) -> Iterable[Sequence[Look]]:
    """Yield so many looks at a time; what is left in the end is too little to tell."""
    return (looks[at : at + size] for at in range(0, len(looks) - size + 1, size))
