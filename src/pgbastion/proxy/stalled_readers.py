"""Tells readers that stall from peers that are dead.

TCP_USER_TIMEOUT ends a connection whose peer does not acknowledge. Since Linux 5.11 it
also ends one whose peer acknowledges every probe but keeps its window closed, that is
a program which is slow to read: a dump on a slow disk, a debugger, a pager. Such a
connection has to live for as long as its owner likes. So every connection is looked at
several times within the time-out, and one that waits for a window gets none until the
window has opened; the kernel's own limit on unanswered probes still ends it if the
peer dies meanwhile.

Source: tcp(7), TCP_USER_TIMEOUT; net/ipv4/tcp_timer.c, tcp_probe_timer().
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Final

from pgbastion.platform.choice import current
from pgbastion.proxy.tcp_info import read_tcp_info

_LOOKS_PER_TIMEOUT: Final = 3
# A reload may set a shorter time-out at any moment.
_LONGEST_MS: Final = 60_000
# Looked at in a row before other work gets its turn.
_SLICE: Final = 200


class StalledReaders:
    """Suspends the time-out of connections that wait for a window."""

    def __init__(
        self,
        connections: Callable[[], Iterable[socket.socket]],
        user_timeout_ms: Callable[[], int],
    ) -> None:
        self._connections = connections
        self._timeout_ms = user_timeout_ms
        self._suspended: set[socket.socket] = set()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        # Where the kernel tells nothing, no such time-out was set either.
        while current().has_tcp_info:
            timeout_ms = min(self._timeout_ms() or _LONGEST_MS, _LONGEST_MS)
            await asyncio.sleep(timeout_ms / 1000 / _LOOKS_PER_TIMEOUT)
            if self._timeout_ms():
                await self._look()

    async def _look(self) -> None:
        connections = tuple(self._connections())
        self._suspended.intersection_update(connections)
        for number, connection in enumerate(connections):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            # It may have been closed while others were looked at.
            with contextlib.suppress(OSError):
                self._judge(connection)

    def _judge(self, connection: socket.socket) -> None:
        waits = read_tcp_info(connection).waits_for_window
        if waits == (connection in self._suspended):
            return
        timeout_ms = 0 if waits else self._timeout_ms()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        if waits:
            self._suspended.add(connection)
        else:
            self._suspended.discard(connection)
