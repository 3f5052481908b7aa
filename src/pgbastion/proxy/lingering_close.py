"""The last message to a client, and a close that does not destroy it."""

import asyncio
import contextlib
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from functools import partial
from typing import Final

from pgbastion.proxy.poller import Poller

# What one look at a leaving client discards.
_DISCARD_BYTES: Final = 16_384
# Clients that are told that they are closed before the loop's other work has its turn.
TOLD_AT_ONCE: Final = 32


class LingeringCloses:
    """Closes clients so that a last message reaches them.

    A socket that is closed with unread input is reset, and a reset may overtake the
    message on its way to the program behind the client's socket. So the own side is
    shut down first, input is discarded, and the socket closed once the client has
    closed or ``patience_s`` are over.
    """

    def __init__(
        self, loop: AbstractEventLoop, poller: Poller, patience_s: float
    ) -> None:
        self._loop = loop
        self._poller = poller
        self._patience_s = patience_s
        self._leaving: dict[socket.socket, TimerHandle] = {}
        self._gone = asyncio.Event()
        self._queue: deque[tuple[socket.socket, bytes]] = deque()
        self._begun = 0
        self._all_told = asyncio.Event()
        self._all_told.set()

    def __len__(self) -> int:
        return len(self._leaving) + len(self._queue)

    def close(self, client: socket.socket, last_words: bytes) -> None:
        """Send ``last_words`` if the kernel takes them at once, then close.

        The caller has no reader or writer registered for ``client`` any more. Of many
        that are told in one turn of the loop, some are told in the next ones: nothing
        but their words waits for that.
        """
        if not self._begun:
            self._loop.call_soon(self._go_on)
        if self._begun < TOLD_AT_ONCE:
            self._begun += 1
            self._tell(client, last_words)
        else:
            self._queue.append((client, last_words))
            self._all_told.clear()

    def _go_on(self) -> None:
        """Begin another turn with those that are left."""
        self._begun = 0
        for _ in range(min(len(self._queue), TOLD_AT_ONCE)):
            self.close(*self._queue.popleft())
        if not self._queue:
            self._all_told.set()

    def _tell(self, client: socket.socket, last_words: bytes) -> None:
        try:
            if last_words:
                client.send(last_words)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            client.close()
            self._gone.set()
            return
        timer = self._loop.call_later(self._patience_s, self._close, client)
        self._leaving[client] = timer
        self._poller.add_reader(client.fileno(), partial(self._discard, client))

    async def all_told(self) -> None:
        """Wait until everybody has been told; nobody need have gone yet."""
        await self._all_told.wait()

    async def finish(self, timeout_s: float) -> None:
        """Wait until all have gone, for ``timeout_s`` at most, then close the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._leaving or self._queue:
                    self._gone.clear()
                    await self._gone.wait()
        for client, _ in self._queue:
            client.close()
        self._queue.clear()
        self._all_told.set()
        for client in tuple(self._leaving):
            self._close(client)

    def _discard(self, client: socket.socket) -> None:
        try:
            if client.recv(_DISCARD_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(client)

    def _close(self, client: socket.socket) -> None:
        self._leaving.pop(client).cancel()
        self._poller.remove_reader(client.fileno())
        client.close()
        self._gone.set()
