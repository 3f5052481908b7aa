"""Whether standbys go on flushing what the primary writes, from look to look."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from pgbastion.model.report import ReplicationRow
from pgbastion.model.wal import Lsn

_LOOKS_MAX: Final = 64


class Flushing:
    """What each standby had flushed at the newest looks at the primary.

    A standby whose disk hangs goes on talking: its daemon reports, and its server may
    answer. That it flushes nothing although there is something to flush is the sign.

    Args:
        apart_ms: How old an earlier end of WAL has to be to judge a joiner by.
    """

    def __init__(self, *, apart_ms: int) -> None:
        self.apart_ms = apart_ms
        self.forget()

    def forget(self) -> None:
        """Begin anew: another server runs, or none."""
        self._ends: deque[tuple[int, Lsn]] = deque(maxlen=_LOOKS_MAX)
        self._moved: dict[str, tuple[Lsn, int]] = {}

    def note(self, rows: Iterable[ReplicationRow], end: Lsn, now_ms: int) -> None:
        """Take in one look: the WAL senders' rows and where the primary's WAL ends."""
        self._ends.append((now_ms, end))
        moved: dict[str, tuple[Lsn, int]] = {}
        for row in rows:
            flushed, since_ms = self._moved.get(row.name, (None, now_ms))
            if flushed is None or row.flush_lsn > flushed or row.flush_lsn >= end:
                since_ms = now_ms
            moved[row.name] = row.flush_lsn, since_ms
        self._moved = moved

    def stalled_since_ms(self, name: str, *, least_ms: int) -> int | None:
        """Return since when a standby owes WAL and has flushed none; None: it does not.

        Judged by looks that lie ``least_ms`` apart: while the primary itself does not
        answer, nothing is known of anybody. A name that was not among the newest
        look's rows is none that stalls.
        """
        if name not in self._moved or not self._ends:
            return None
        flushed, since_ms = self._moved[name]
        looked_ms, end = self._ends[-1]
        if flushed >= end or looked_ms - since_ms <= least_ms:
            return None
        return since_ms

    def earlier_end(self) -> Lsn | None:
        """Return where WAL ended ``apart_ms`` before the newest look; None: unknown."""
        if not self._ends:
            return None
        by_ms = self._ends[-1][0] - self.apart_ms
        return next((end for at, end in reversed(self._ends) if at <= by_ms), None)
