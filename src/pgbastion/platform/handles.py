"""Handles of processes: descriptors that become readable when a process has ended."""

from pgbastion.platform.choice import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


def open_handle(pid: int) -> int:
    """Return a handle of a process; whoever gets it closes it.

    Raises:
        ProcessLookupError: There is no such process.
        OSError: No descriptor is free.
    """
    return current().watch.open_handle(pid)


def open_peer(sock: "socket.socket", pid: int) -> int:
    """Return a handle of the process at the other end of a Unix socket.

    Raises:
        OSError: The peer has ended, or is in a PID namespace of its own.
    """
    return current().watch.open_peer(sock, pid)


def send_to(handle: int, pid: int, number: int) -> None:
    """Send a signal to the process of a handle.

    Raises:
        ProcessLookupError: It has ended.
        PermissionError: It is another user's.
    """
    current().watch.send_to(handle, pid, number)


def send(pid: int, number: int, still: "Callable[[int], bool]") -> bool:
    """Send a signal to ``pid`` if ``still(pid)`` holds for the process that gets it.

    Returns:
        Whether the signal was sent.
    """
    return current().watch.send(pid, number, still)
