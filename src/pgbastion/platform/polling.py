"""Handles of processes where the kernel has no pidfds: a thread polls.

A handle is the reading end of a pipe. A thread looks every 20 ms whether the process is
still the one that it was, by its start, and closes the writing end when it is not.
"""

import _thread
import errno
import os
import select

from pgbastion.platform.interface import start_of_living
from pgbastion.platform.process_end import has_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pgbastion.platform.interface import Stat

LOOK_S = 0.02
WEAKER = (
    "processes are watched by looking every 20 ms: an end is seen later, and a pid "
    "that is used again at once could be mistaken"
)


class Looking:
    """An end is seen up to 20 ms later.

    Args:
        stat: Returns what is known of a process; None: it is gone.
    """

    weaker: tuple[str, ...] = (WEAKER,)

    def __init__(self, stat: "Callable[[int], Stat | None]") -> None:
        self._stat = stat

    def open_handle(self, pid: int) -> int:
        """Return the reading end of a pipe whose other end a thread closes."""
        start = start_of_living(self._stat(pid))
        if start == 0:
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
        reader, writer = os.pipe()
        _thread.start_new_thread(self._look, (pid, start, writer))
        return reader

    def open_peer(self, _sock: "socket.socket", pid: int) -> int:
        """Return a handle of the process that connected."""
        return self.open_handle(pid)

    def send_to(self, handle: int, pid: int, number: int) -> None:
        """Send a signal, if the process has not been seen to end."""
        if has_ended(handle):
            raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
        os.kill(pid, number)

    def send(self, pid: int, number: int, still: "Callable[[int], bool]") -> bool:
        """Look, and send at once."""
        try:
            if not still(pid):
                return False
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _look(self, pid: int, start: int, writer: int) -> None:
        """Close ``writer`` when the process has ended, or nobody reads any more."""
        poll = select.poll()
        poll.register(writer, 0)
        try:
            while start_of_living(self._stat(pid)) == start:
                if poll.poll(LOOK_S * 1_000):
                    return
        finally:
            os.close(writer)
