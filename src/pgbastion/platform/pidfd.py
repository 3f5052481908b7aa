"""Handles of processes by the kernel's pidfds; Linux 5.3, pidfd_open(2)."""

import errno
import os
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Linux 6.5; Python has no name for it yet.
SO_PEERPIDFD = 77


class Pidfd:
    """An end is seen at once, and a signal never hits another process."""

    weaker: tuple[str, ...] = ()

    def open_handle(self, pid: int) -> int:
        """Return a pidfd."""
        return os.pidfd_open(pid)

    def open_peer(self, sock: socket.socket, pid: int) -> int:
        """Return a pidfd of the process at the other end."""
        try:
            return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError as exc:
            if exc.errno != errno.ENOPROTOOPT:
                raise
        # Older kernels: the peer lives as long as its end is open, unless it handed
        # that on, which no client of ours does.
        return os.pidfd_open(pid)

    def send_to(self, handle: int, _pid: int, number: int) -> None:
        """Send a signal to the process of a handle."""
        signal.pidfd_send_signal(handle, number)

    def send(self, pid: int, number: int, still: "Callable[[int], bool]") -> bool:
        """Pin the process, look at it, and send.

        So a pid that is used again in between is never hit.
        """
        try:
            pin = os.pidfd_open(pid)
        except (ProcessLookupError, PermissionError):
            return False
        try:
            if not still(pid):
                return False
            signal.pidfd_send_signal(pin, number)
        except (ProcessLookupError, PermissionError):
            return False
        finally:
            os.close(pin)
        return True
