"""One client that writes all the time, and how long its writes stood still."""

import os
import threading
from dataclasses import dataclass
from io import StringIO
from typing import Final

from pgbastion.bench.lab.link import Target
from pgbastion.bench.lab.workload import USER
from pgbastion.bench.lab.writers import ANSWER_S, Acknowledged, Ids, Writer, run
from pgbastion.clock import NS_PER_MS, boottime_ns

# A pause shorter than this is no news.
GAP_SHOWN_MS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What the client has seen so far."""

    acknowledged: int
    last_gap_ms: int
    """The newest pause that is worth a word; 0: there was none."""
    silent_ms: int
    """How long nothing has been acknowledged up to now."""


class _Tally(StringIO):
    """Takes the writers' record, line by line, and keeps sums alone."""

    def __init__(self) -> None:
        super().__init__()
        self.acknowledged = 0
        self.last_ns = 0
        self.last_gap_ms = 0

    def write(self, line: str) -> int:
        row = Acknowledged.parse(line)
        gap_ms = (row.received_ns - self.last_ns) // NS_PER_MS
        if self.last_ns and gap_ms >= GAP_SHOWN_MS:
            self.last_gap_ms = gap_ms
        self.acknowledged += 1
        self.last_ns = row.received_ns
        return len(line)


class Pulse:
    """Writes through the proxies in a thread of its own, from `start` to `stop`."""

    def __init__(self, proxies: list[str], password: str) -> None:
        """Name the proxies, each ADDRESS:PORT; nothing is connected."""
        targets = [
            Target(address=host, port=int(port), user=USER, password=password)
            for host, port in (proxy.rsplit(":", 1) for proxy in proxies)
        ]
        ids = Ids(first=boottime_ns())
        self._writer = Writer(targets, ids, answer_ns=int(ANSWER_S * 1e9), turn=0)
        self._tally = _Tally()
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(
            target=run, args=([self._writer], self._tally, self._stop_read), daemon=True
        )

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End the client."""
        os.close(self._stop_write)
        self._thread.join()
        self._writer.close()
        os.close(self._stop_read)

    def beat(self) -> Beat:
        """Return what it has seen."""
        tally = self._tally
        silent_ms = (boottime_ns() - tally.last_ns) // NS_PER_MS if tally.last_ns else 0
        return Beat(
            acknowledged=tally.acknowledged,
            last_gap_ms=tally.last_gap_ms,
            silent_ms=silent_ms,
        )
