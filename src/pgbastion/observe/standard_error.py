"""Standard error that nobody waits for.

Whoever reads the log may stand still: a pager, a container's log driver, a journal
whose disk hangs. A daemon that waited for it would answer nobody and lose its lease. So
a thread writes. Up to a bound it may be behind; what is more is lost, and counted.
"""

import io
import os
import queue
import sys
import threading
from typing import Final, cast

from pgbastion.observe.logging import get_logger

WAITING_MAX: Final = 10_000
DRAIN_S: Final = 1.0
STANDARD_FDS: Final = 3

log = get_logger("log")


class StandardError(io.TextIOBase):
    """Takes text at once, and writes it when it can.

    Args:
        fd: Where to; None: nowhere.
        waiting_max: So many pieces of text may wait.
    """

    def __init__(self, fd: int | None, *, waiting_max: int = WAITING_MAX) -> None:
        super().__init__()
        self._fd = fd
        # Of all queues this one alone may be written to in the midst of a write, as by
        # an object that is collected just then and has something to say.
        self._waiting: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._waiting_max = waiting_max
        self._lost = self._told = 0
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Take the text, or count it as lost."""
        if self._is_full():
            self._lost += 1
        else:
            self._waiting.put(text)
        return len(text)

    def isatty(self) -> bool:
        """Tell whether somebody looks at it."""
        return self._fd is not None and os.isatty(self._fd)

    def drain(self, within_s: float = DRAIN_S) -> None:
        """Wait until all that was taken is written, at most so long."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait(within_s)

    def _is_full(self) -> bool:
        return self._waiting.qsize() >= self._waiting_max

    def _work(self) -> None:
        while True:
            taken = self._waiting.get()
            if isinstance(taken, threading.Event):
                taken.set()
                continue
            self._write(taken)
            lost = self._lost - self._told
            if lost and not self._is_full():
                self._told += lost
                log.warning("lines_lost", lines=lost, said="nobody read the log")

    def _write(self, text: str) -> None:
        rest = text.encode(errors="backslashreplace")
        try:
            while rest and self._fd is not None:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            # Its reader has gone; the daemon goes on.
            return


def take_standard_error() -> StandardError:
    """Put it in the place of this process's standard error.

    A standard stream that was closed becomes one of nowhere: a file of ours that got
    its number would be written to by whoever has a last word to say.
    """
    was_open = sys.stderr is not None
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) < STANDARD_FDS:
        os.set_inheritable(fd, True)
    os.close(fd)
    taken = StandardError(sys.stderr.fileno() if was_open else None)
    sys.stderr = cast("io.TextIOWrapper", taken)
    return taken
