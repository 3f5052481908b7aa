"""Tells the service manager how the daemon is: ready, alive, ending.

Source: sd_notify(3), systemd.service(5) on WatchdogSec.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pgbastion.observe.logging import get_logger

ADDRESS_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
BEATS: Final = 4
"""So many signs of life are given within the time after which one would be missed."""

log = get_logger("service")


class ServiceManager:
    """What started this process, where it wants to be told; else nobody."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get(ADDRESS_VARIABLE, "")
        self.watchdog_s = _watchdog_s(environment)
        self._failed = False

    def ready(self) -> None:
        """Say that this node has its role."""
        self._tell("READY=1")

    def stopping(self, within_s: float) -> None:
        """Say that the daemon ends, and how long that may take at most.

        Whatever the unit's TimeoutStopSec is: one that is killed half-way has neither
        handed the role on nor stopped PostgreSQL.
        """
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1_000_000)}")

    def keep(self, listeners: Sequence[socket.socket]) -> None:
        """Have copies of these sockets kept for the daemon that comes next."""
        if listeners:
            self._tell("FDSTORE=1\nFDNAME=listener", listeners)

    async def keep_alive(self, silent_ms: Callable[[], int]) -> None:
        """Give signs of life while decisions are made, for ever.

        Args:
            silent_ms: Returns how long ago the last decision was begun; 0 while none
                are due.
        """
        if self.watchdog_s is None:
            return
        limit_ms = self.watchdog_s * 1_000 / 2
        while True:
            if silent_ms() < limit_ms:
                self._tell("WATCHDOG=1")
            else:
                log.error("decisions_stopped", silent_ms=silent_ms())
            await asyncio.sleep(self.watchdog_s / BEATS)

    def _tell(self, text: str, files: Sequence[socket.socket] = ()) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sock:
            try:
                sock.connect(address)
                if files:
                    numbers = [file.fileno() for file in files]
                    socket.send_fds(sock, [text.encode()], numbers)
                else:
                    sock.send(text.encode())
            except OSError as exc:
                if not self._failed:
                    log.warning("service_manager_not_told", error=str(exc))
                self._failed = True


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return after how long a missing sign of life ends this process; None: never."""
    asked = environment.get(WATCHDOG_VARIABLE, "")
    whose = environment.get(WATCHDOG_PID_VARIABLE)
    # A guard of an earlier daemon has that daemon's environment, and so would whatever
    # it started.
    if not asked.isdecimal() or whose not in (None, str(os.getpid())):
        return None
    return int(asked) / 1_000_000 or None
