"""Compare what was acknowledged with what the servers have.

A row that was acknowledged and is missing was lost. A row that is there twice was
applied twice. A row that nobody wrote means that the check itself is wrong. Rows that
were written and never acknowledged may be there or not: their outcome is unknown.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from pgbastion.bench.lab.writers import Acknowledged
from pgbastion.clock import NS_PER_MS

_WINDOW_NS: Final = 1_000 * NS_PER_MS
_STEP_NS: Final = 50 * NS_PER_MS
_FULL: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCheck:
    """What is wrong on one server; all empty: nothing."""

    server: str
    rows: int
    lost: tuple[int, ...]
    duplicated: tuple[int, ...]
    never_written: tuple[int, ...]

    @property
    def clean(self) -> bool:
        """Whether the server has each acknowledged row exactly once."""
        return not (self.lost or self.duplicated or self.never_written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time without an acknowledged write, on CLOCK_BOOTTIME."""

    start_ns: int
    end_ns: int

    @property
    def ms(self) -> int:
        """Its length in milliseconds, rounded."""
        return round((self.end_ns - self.start_ns) / NS_PER_MS)


def compare(
    server: str,
    stored: Iterable[int],
    acknowledged: Iterable[int],
    attempted: range,
) -> ServerCheck:
    """Compare the ids stored on ``server`` with those acknowledged and attempted."""
    counted = Counter(stored)
    return ServerCheck(
        server=server,
        rows=counted.total(),
        lost=tuple(sorted(set(acknowledged) - counted.keys())),
        duplicated=tuple(sorted(row for row, count in counted.items() if count > 1)),
        never_written=tuple(sorted(row for row in counted if row not in attempted)),
    )


def longest_gap(
    acknowledged: Sequence[Acknowledged], since_ns: int, until_ns: int
) -> Gap:
    """Return the longest time between acknowledged writes within the two instants.

    The times from ``since_ns`` to the first and from the last to ``until_ns`` count as
    well: a cluster that never came back has a gap up to the end.
    """
    instants = sorted(
        row.received_ns for row in acknowledged if since_ns < row.received_ns < until_ns
    )
    ends = [*instants, until_ns]
    starts = [since_ns, *instants]
    gaps = (Gap(start_ns=a, end_ns=b) for a, b in zip(starts, ends, strict=True))
    return max(gaps, key=lambda gap: gap.end_ns - gap.start_ns)


def full_throughput_ms(
    acknowledged: Sequence[Acknowledged], fault_ns: int, until_ns: int
) -> int | None:
    """Return how long after the last write before the gap throughput was full again.

    Compared are seconds: the one before the fault, and the first one from the longest
    gap's end on that reaches nine tenths of it; its beginning counts. So it is never
    less than the gap. None: no second did.
    """
    instants = sorted(row.received_ns for row in acknowledged)
    wanted = _FULL * _count(instants, fault_ns - _WINDOW_NS, fault_ns)
    gap = longest_gap(acknowledged, fault_ns, until_ns)
    if wanted <= 0:
        return None
    for start_ns in range(gap.end_ns, until_ns - _WINDOW_NS + 1, _STEP_NS):
        if _count(instants, start_ns, start_ns + _WINDOW_NS) >= wanted:
            return round((start_ns - gap.start_ns) / NS_PER_MS)
    return None


def describe_full(full_ms: Sequence[int | None]) -> str:
    """Return median and worst of `full_throughput_ms`, and how many were not seen."""
    known = [each for each in full_ms if each is not None]
    if not known:
        return "-"
    shown = f"{median(known) / 1000:.2f} / {max(known) / 1000:.2f} s"
    late = len(full_ms) - len(known)
    return f"{shown}, {late} not seen" if late else shown


def _count(instants: Sequence[int], since_ns: int, until_ns: int) -> int:
    return bisect_left(instants, until_ns) - bisect_left(instants, since_ns)


def describe(checks: Mapping[str, ServerCheck]) -> str:
    """Return one line for each server that is not clean, for a failed assertion."""
    return "\n".join(
        f"{name}: {len(check.lost)} lost {check.lost[:5]},"
        f" {len(check.duplicated)} duplicated {check.duplicated[:5]},"
        f" {len(check.never_written)} never written {check.never_written[:5]}"
        f" of {check.rows} rows"
        for name, check in checks.items()
        if not check.clean
    )
