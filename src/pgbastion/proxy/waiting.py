"""Waiting for one socket, or for what happens elsewhere, with a deadline."""

import socket
from asyncio import AbstractEventLoop, Future
from enum import Enum, auto
from functools import partial

from pgbastion.proxy.poller import Poller
from pgbastion.proxy.refusals import RefusedError


class Wake(Enum):
    """Why a wait ended."""

    READY = auto()
    LATE = auto()
    # The hold queue lets the client go on.
    RELEASED = auto()
    # The server that was waited for is not the one to go to any more.
    SUPERSEDED = auto()


class Waiting:
    """One wait at a time, which others can end, or all of them for good.

    The socket's registration ends together with the wait, in the same instant, so
    whoever ends a wait may close the socket right away.

    Deadlines are instants of the loop's clock. Once the client was dismissed, and so
    may not go on, every wait raises what it was dismissed with.
    """

    __slots__ = ("_dismissed", "_future", "_loop", "_poller", "_read_fd", "_write_fd")

    def __init__(self, loop: AbstractEventLoop, poller: Poller) -> None:
        self._loop = loop
        self._poller = poller
        self._dismissed: RefusedError | None = None
        self._future: Future[Wake] | None = None
        self._read_fd = -1
        self._write_fd = -1

    async def readable(self, of: socket.socket, end_s: float) -> Wake:
        """Wait until ``of`` can be read, or is at its end, or broken."""
        return await self._until(end_s, read_fd=of.fileno())

    async def writable(self, of: socket.socket, end_s: float) -> Wake:
        """Wait until ``of`` takes bytes, or has been connected, or is broken."""
        return await self._until(end_s, write_fd=of.fileno())

    async def woken(self, end_s: float) -> Wake:
        """Wait for `wake` alone."""
        return await self._until(end_s)

    def wake(self, why: Wake) -> None:
        """End the wait, if there is one, with ``why``."""
        self._forget()
        if self._future is not None and not self._future.done():
            self._future.set_result(why)

    def dismiss(self, refused: RefusedError) -> None:
        """End the wait, and let nobody wait any more."""
        self._dismissed = refused
        self.wake(Wake.SUPERSEDED)

    def check(self) -> None:
        """Raise what the client was dismissed with, if it was."""
        if self._dismissed is not None:
            raise self._dismissed

    async def _until(
        self, end_s: float, *, read_fd: int = -1, write_fd: int = -1
    ) -> Wake:
        self.check()
        self._future = self._loop.create_future()
        timeout_s = max(end_s - self._loop.time(), 0)
        timer = self._loop.call_later(timeout_s, self.wake, Wake.LATE)
        self._read_fd, self._write_fd = read_fd, write_fd
        if read_fd >= 0:
            self._poller.add_reader(read_fd, partial(self.wake, Wake.READY))
        if write_fd >= 0:
            self._poller.add_writer(write_fd, partial(self.wake, Wake.READY))
        try:
            wake = await self._future
        finally:
            self._forget()
            timer.cancel()
            self._future = None
        self.check()
        return wake

    def _forget(self) -> None:
        if self._read_fd >= 0:
            self._poller.remove_reader(self._read_fd)
        if self._write_fd >= 0:
            self._poller.remove_writer(self._write_fd)
        self._read_fd = self._write_fd = -1
