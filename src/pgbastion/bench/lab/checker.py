"""Compare what was acknowledged with what the servers have.

A row that was acknowledged and is missing was lost. A row that is there twice was
applied twice. A row that nobody wrote means that the check itself is wrong. Rows that
were written and never acknowledged may be there or not: their outcome is unknown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgbastion.bench.lab.writers import Acknowledged
from pgbastion.clock import NS_PER_MS


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
