"""Hears of every change to links and addresses; what changed is looked at anew."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

# linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS: Final = 0x1 | 0x10 | 0x100
_READ_BYTES: Final = 65_536


class Watch:
    """Calls back after each change that the kernel tells of.

    What it says is not read: an event that was lost because too many came (ENOBUFS)
    is then worth as much as one that was not.

    Args:
        on_change: Called in the event loop.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to hear.

        Raises:
            OSError: The kernel refused.
        """
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._drain)

    def close(self) -> None:
        """Hear nothing any more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _drain(self) -> None:
        if self._socket is None:
            return
        try:
            while self._socket.recv(_READ_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError:
            # ENOBUFS: something was lost, so something has changed.
            pass
        self._on_change()
