"""Who may write the daemon's words of the page: one process at a time.

Whoever has the lock has a generation. It keeps it over reconnections; another process
gets the next one only when the former has ended, which a pidfd proves.
"""

import os

from pgbastion.guard import page as words
from pgbastion.guard.page import Page
from pgbastion.platform import handles, processes
from pgbastion.platform.process_end import has_ended


class WriterLock:
    """The writer, kept in the page so that the guard's successor knows it."""

    __slots__ = ("_page", "pidfd")

    def __init__(self, page: Page) -> None:
        self._page = page
        self.pidfd = -1
        pid, start = page[words.WRITER_PID], page[words.WRITER_START]
        if pid == 0:
            return
        try:
            self.pidfd = handles.open_handle(pid)
        except OSError:
            self._clear()
            return
        if processes.start_of(pid) != start:
            self.release()

    @property
    def holder(self) -> int:
        """The pid of the writer, 0: nobody."""
        return self._page[words.WRITER_PID]

    @property
    def generation(self) -> int:
        """The newest generation that was handed out."""
        return self._page[words.GENERATION]

    def acquire(self, pid: int, pidfd: int) -> bool:
        """Give the lock to ``pid`` if it is free or its own already.

        Args:
            pid: The process that asks.
            pidfd: Its pidfd; belongs to the lock afterwards.
        """
        if self.holder and self.has_ended():
            self.release()
        start = processes.start_of(pid)
        is_same = self.holder == pid and self._page[words.WRITER_START] == start
        if start == 0 or is_same or self.holder:
            os.close(pidfd)
            return is_same
        self.pidfd = pidfd
        self._page[words.GENERATION] += 1
        self._page[words.WRITER_START] = start
        self._page[words.WRITER_PID] = pid
        return True

    def has_ended(self) -> bool:
        """Tell whether the writer's process has ended."""
        return has_ended(self.pidfd)

    def release(self) -> None:
        """Note that the writer has ended."""
        os.close(self.pidfd)
        self.pidfd = -1
        self._clear()

    def _clear(self) -> None:
        self._page[words.WRITER_PID] = 0
        self._page[words.WRITER_START] = 0
