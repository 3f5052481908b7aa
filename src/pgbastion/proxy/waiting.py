"""Waiting for one socket, or for what happens elsewhere, with a deadline."""

from asyncio import AbstractEventLoop, Future
from enum import Enum, auto
from functools import partial

from pgbastion.proxy.poller import Poller


class Wake(Enum):
    """Why a wait ended."""

    READY = auto()
    LATE = auto()
    # The hold queue lets the client go on.
    RELEASED = auto()
    # The server that was waited for is not the one to go to any more.
    SUPERSEDED = auto()
    # Nobody may go on: the proxy stops, or the client has to give way to others.
    DISMISSED = auto()


class Waiting:
    """One wait at a time, which others can end.

    The socket's registration ends together with the wait, in the same instant, so
    whoever ends a wait may close the socket right away.
    """

    __slots__ = ("_future", "_loop", "_poller", "_read_fd", "_write_fd")

    def __init__(self, loop: AbstractEventLoop, poller: Poller) -> None:
        self._loop = loop
        self._poller = poller
        self._future: Future[Wake] | None = None
        self._read_fd = -1
        self._write_fd = -1

    async def readable(self, fd: int, timeout_s: float) -> Wake:
        """Wait until ``fd`` can be read, or is at its end, or broken."""
        self._read_fd = fd
        return await self._until(timeout_s)

    async def writable(self, fd: int, timeout_s: float) -> Wake:
        """Wait until ``fd`` takes bytes, or has been connected, or is broken."""
        self._write_fd = fd
        return await self._until(timeout_s)

    async def woken(self, timeout_s: float) -> Wake:
        """Wait for `wake` alone."""
        return await self._until(timeout_s)

    def wake(self, why: Wake) -> None:
        """End the wait, if there is one, with ``why``."""
        self._forget()
        if self._future is not None and not self._future.done():
            self._future.set_result(why)

    async def _until(self, timeout_s: float) -> Wake:
        self._future = self._loop.create_future()
        timer = self._loop.call_later(max(timeout_s, 0), self.wake, Wake.LATE)
        if self._read_fd >= 0:
            self._poller.add_reader(self._read_fd, partial(self.wake, Wake.READY))
        if self._write_fd >= 0:
            self._poller.add_writer(self._write_fd, partial(self.wake, Wake.READY))
        try:
            return await self._future
        finally:
            self._forget()
            timer.cancel()
            self._future = None

    def _forget(self) -> None:
        if self._read_fd >= 0:
            self._poller.remove_reader(self._read_fd)
        if self._write_fd >= 0:
            self._poller.remove_writer(self._write_fd)
        self._read_fd = self._write_fd = -1
