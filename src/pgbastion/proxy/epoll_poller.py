"""Readiness of the proxy's sockets: one epoll instance inside the event loop's own.

The loop watches this instance like one more file. So a batch of ready sockets costs the
loop one callback, an idle socket costs a small object, and, above all, a socket with an
error stays ready until somebody has read that error. uvloop's ``add_reader`` calls the
reader once when a socket has an error, and then forgets it: a reader that finds data
which came before a reset would never hear of the reset.

What becomes ready while a batch is handled is handled too, as long as the turn lasts:
to look once more costs less than a turn of the loop.
"""

import contextlib
import select
from asyncio import AbstractEventLoop
from collections.abc import Callable
from time import monotonic
from typing import Final

# How long sockets are handled before the loop's other work gets its turn. When a server
# dies a thousand sessions are ready at once, and checks are to be answered.
TURN_S: Final = 0.001
_EVENTS_AT_ONCE: Final = 128
# The masks of poll(2), and one that is epoll's own; epoll_ctl(2), sys/epoll.h.
_RDHUP: Final = 0x2000
_READABLE: Final = select.POLLIN | _RDHUP | select.POLLHUP | select.POLLERR
_WRITABLE: Final = select.POLLOUT | select.POLLHUP | select.POLLERR

Callback = Callable[[], None]


class _Entry:
    __slots__ = ("born", "muted", "reader", "writer")

    def __init__(self, born: int) -> None:
        self.born = born
        self.muted = False
        self.reader: Callback | None = None
        self.writer: Callback | None = None

    @property
    def mask(self) -> int:
        reads = 0
        if self.reader:
            reads = _RDHUP | (0 if self.muted else select.POLLIN)
        return reads | (select.POLLOUT if self.writer else 0)


class EpollPoller:
    """Calls readers and writers of file descriptors, again while they are ready."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}
        # Numbers the batches. An event of a batch that began before its descriptor was
        # registered belongs to another file that had the same number.
        self._batch = 0
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def close(self) -> None:
        """Stop watching everything; closing twice is allowed."""
        if self._epoll.closed:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._entries.clear()

    def add_reader(self, fd: int, reader: Callback) -> None:
        """Call ``reader`` whenever ``fd`` has input, its end or an error."""
        entry = self._entries.get(fd) or self._register(fd)
        unchanged = entry.reader is not None and not entry.muted
        entry.reader, entry.muted = reader, False
        if not unchanged:
            self._epoll.modify(fd, entry.mask)

    def mute_reader(self, fd: int) -> None:
        """Call the reader of ``fd``, if there is one, for its end or an error only.

        Input does not even wake this process: the kernel asks the mask first.
        """
        self._set_muted(fd, muted=True)

    def unmute_reader(self, fd: int) -> None:
        """Call a reader that was muted for input too."""
        self._set_muted(fd, muted=False)

    def add_writer(self, fd: int, writer: Callback) -> None:
        """Call ``writer`` whenever ``fd`` takes output or has an error."""
        entry = self._entries.get(fd) or self._register(fd)
        known, entry.writer = entry.writer, writer
        if known is None:
            self._epoll.modify(fd, entry.mask)

    def remove_reader(self, fd: int) -> None:
        """Call the reader of ``fd`` no more; there need not be one."""
        entry = self._entries.get(fd)
        if entry is not None and entry.reader is not None:
            entry.reader = None
            self._update(fd, entry)

    def remove_writer(self, fd: int) -> None:
        """Call the writer of ``fd`` no more; there need not be one."""
        entry = self._entries.get(fd)
        if entry is not None and entry.writer is not None:
            entry.writer = None
            self._update(fd, entry)

    def _set_muted(self, fd: int, *, muted: bool) -> None:
        entry = self._entries.get(fd)
        if entry is None or entry.reader is None or entry.muted is muted:
            return
        entry.muted = muted
        self._epoll.modify(fd, entry.mask)

    def _register(self, fd: int) -> _Entry:
        self._epoll.register(fd, 0)
        entry = self._entries[fd] = _Entry(self._batch)
        return entry

    def _update(self, fd: int, entry: _Entry) -> None:
        mask = entry.mask
        if mask:
            self._epoll.modify(fd, mask)
            return
        # Without an entry in the kernel's set an error does not wake us for nothing.
        del self._entries[fd]
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _dispatch(self) -> None:
        over_s = monotonic() + TURN_S
        while not self._epoll.closed:
            ready = self._epoll.poll(0, _EVENTS_AT_ONCE)
            if not ready or not self._handle(ready, over_s):
                return

    def _handle(self, ready: list[tuple[int, int]], over_s: float) -> bool:
        """Call for each of ``ready``; tell whether there is time for more."""
        entries = self._entries
        self._batch += 1
        batch = self._batch
        for fd, events in ready:
            entry = entries.get(fd)
            if entry is None or entry.born == batch:
                continue
            if events & _READABLE and entry.reader is not None:
                self._call(entry.reader)
            if events & _WRITABLE and entry.writer is not None:
                self._call(entry.writer)
            if monotonic() > over_s:
                # The rest stays ready, and comes first in the next turn.
                return False
        return True

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as exc:  # noqa: BLE001 - the top of an event's handling
            self._loop.call_exception_handler(
                {"message": "a socket's handler failed", "exception": exc}
            )
