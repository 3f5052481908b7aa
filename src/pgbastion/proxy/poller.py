"""Readiness of the proxy's sockets: by epoll, or by the event loop itself."""

from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Protocol

from pgbastion.platform.choice import current
from pgbastion.proxy.epoll_poller import EpollPoller

Callback = Callable[[], None]


class Poller(Protocol):
    """Calls readers and writers of file descriptors, again while they are ready."""

    def close(self) -> None:
        """Stop watching everything; closing twice is allowed."""

    def add_reader(self, fd: int, reader: Callback) -> None:
        """Call ``reader`` whenever ``fd`` has input, its end or an error."""

    def mute_reader(self, fd: int) -> None:
        """Call the reader of ``fd``, if there is one, for its end or an error only."""

    def unmute_reader(self, fd: int) -> None:
        """Call a reader that was muted for input too."""

    def add_writer(self, fd: int, writer: Callback) -> None:
        """Call ``writer`` whenever ``fd`` takes output or has an error."""

    def remove_reader(self, fd: int) -> None:
        """Call the reader of ``fd`` no more; there need not be one."""

    def remove_writer(self, fd: int) -> None:
        """Call the writer of ``fd`` no more; there need not be one."""


def make_poller(loop: AbstractEventLoop) -> Poller:
    """Return the one that this platform has."""
    return EpollPoller(loop) if current().has_epoll else LoopPoller(loop)


class LoopPoller:
    """Leaves it to a loop of asyncio's own, which goes on reporting an error."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: set[int] = set()
        self._writers: set[int] = set()

    def close(self) -> None:
        """Stop watching everything; closing twice is allowed."""
        for fd in tuple(self._readers):
            self.remove_reader(fd)
        for fd in tuple(self._writers):
            self.remove_writer(fd)

    def add_reader(self, fd: int, reader: Callback) -> None:
        """Call ``reader`` whenever ``fd`` has input, its end or an error."""
        self._readers.add(fd)
        self._loop.add_reader(fd, reader)

    def mute_reader(self, fd: int) -> None:
        """Do nothing: without a kernel path nobody else takes the input."""

    def unmute_reader(self, fd: int) -> None:
        """Do nothing: none was muted."""

    def add_writer(self, fd: int, writer: Callback) -> None:
        """Call ``writer`` whenever ``fd`` takes output or has an error."""
        self._writers.add(fd)
        self._loop.add_writer(fd, writer)

    def remove_reader(self, fd: int) -> None:
        """Call the reader of ``fd`` no more; there need not be one."""
        if fd in self._readers:
            self._readers.remove(fd)
            self._loop.remove_reader(fd)

    def remove_writer(self, fd: int) -> None:
        """Call the writer of ``fd`` no more; there need not be one."""
        if fd in self._writers:
            self._writers.remove(fd)
            self._loop.remove_writer(fd)
