"""Cancel requests: to the server that runs the query, wherever its session is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from pgbastion.proxy.proxy_protocol import LOCAL_HEADER
from pgbastion.proxy.routes import Backend, Service
from pgbastion.proxy.switchboard import Switchboard
from pgbastion.proxy.wire import CancelRequest, parse_first_packet

_ANSWER_BYTES: Final = 1


class Canceller:
    """Delivers cancel requests, a bounded number at a time.

    A server answers a cancel request with nothing but the end of the connection, and
    ignores a key that it does not know. So a request whose session cannot be found,
    above all one whose start was encrypted, may be delivered to every server that has
    sessions of its port.
    """

    def __init__(
        self,
        board: Switchboard,
        on_unknown: Callable[[bytes], Awaitable[bool]] | None,
    ) -> None:
        self._board = board
        self._on_unknown = on_unknown
        self._running = 0
        self._delivering = 0
        self.total = 0
        self.dropped_total = 0

    async def cancel(self, request: CancelRequest, service: Service) -> None:
        """Deliver a client's request; its connection is closed afterwards."""
        if self._running >= self._board.limits.cancels_max:
            self.dropped_total += 1
            return
        self._running += 1
        self.total += 1
        try:
            await self._find_and_deliver(request, service)
        finally:
            self._running -= 1

    async def deliver(self, payload: bytes) -> bool:
        """Deliver a request that another node received, if its session is here."""
        request = parse_first_packet(payload)
        if not isinstance(request, CancelRequest):
            return False
        backend = self._board.backend_of_key(request.key)
        if backend is None or self._delivering >= self._board.limits.cancels_max:
            return False
        self._delivering += 1
        try:
            await self._send(backend, request.packet)
        finally:
            self._delivering -= 1
        return True

    async def _find_and_deliver(self, request: CancelRequest, service: Service) -> None:
        if await self.deliver(request.packet):
            return
        if self._on_unknown is not None and await self._on_unknown(request.packet):
            return
        servers = self._board.servers_of(service)
        await asyncio.gather(
            *(self._send(backend, request.packet) for backend in servers)
        )

    async def _send(self, backend: Backend, packet: bytes) -> None:
        """Hand ``packet`` to ``backend`` and wait until it has taken it."""
        limits = self._board.limits
        preface = LOCAL_HEADER if limits.tells_servers else b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(limits.connect_s):
                reader, writer = await asyncio.open_connection(
                    backend.host, backend.port
                )
                try:
                    writer.write(preface + packet)
                    await reader.read(_ANSWER_BYTES)
                finally:
                    writer.close()
