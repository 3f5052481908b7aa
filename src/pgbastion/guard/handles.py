"""Handles of processes: descriptors that become readable when a process has ended.

A pidfd where the kernel has them (Linux 5.3). Elsewhere, and where the environment asks
for it, the reading end of a pipe: a thread looks every 20 ms whether the process is
still the one that it was, by its start time, and writes when it is not. That is weaker
in two ways, which `WEAKER` says: an end is seen a moment later, and a signal could hit
a process that got a former one's pid in the instant after it was looked at.
"""

import _thread
import errno
import os
import select
import signal
from collections.abc import Callable

from pgbastion.guard import procfs

VARIABLE = "PGBASTION_PORTABLE"
LOOK_S = 0.02
WEAKER = (
    "processes are watched by looking every 20 ms, not by the kernel's pidfds: an end "
    "is seen later, and a pid that is used again at once could be mistaken"
)


def is_portable() -> bool:
    """Tell whether processes are watched without pidfds."""
    if os.environ.get(VARIABLE, "") not in ("", "0"):
        return True
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        return True
    except OSError as exc:
        return exc.errno == errno.ENOSYS
    return False


def open_handle(pid: int) -> int:
    """Return a handle of a process; whoever gets it closes it.

    Raises:
        ProcessLookupError: There is no such process.
        OSError: No descriptor is free.
    """
    if not is_portable():
        return os.pidfd_open(pid)
    start = procfs.start_ticks(pid)
    if start == 0:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
    reader, writer = os.pipe()
    _thread.start_new_thread(_watch, (pid, start, writer))
    return reader


def _watch(pid: int, start: int, writer: int) -> None:
    """Close ``writer`` when the process has ended, or nobody reads any more."""
    poll = select.poll()
    poll.register(writer, 0)
    try:
        while procfs.start_ticks(pid) == start:
            if poll.poll(LOOK_S * 1_000):
                return
    finally:
        os.close(writer)


def has_ended(handle: int) -> bool:
    """Tell whether the process of a handle has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def send_to(handle: int, pid: int, number: int) -> None:
    """Send a signal to the process of a handle.

    Raises:
        ProcessLookupError: It has ended.
        PermissionError: It is another user's.
    """
    if not is_portable():
        signal.pidfd_send_signal(handle, number)
    elif has_ended(handle):
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended")
    else:
        os.kill(pid, number)


def send(pid: int, number: int, still: Callable[[int], bool]) -> bool:
    """Send a signal to ``pid`` if ``still(pid)`` holds for the process that gets it.

    With a pidfd the process is pinned before it is looked at, so that a pid used again
    in between is never hit.

    Returns:
        Whether the signal was sent.
    """
    try:
        if is_portable():
            if not still(pid):
                return False
            os.kill(pid, number)
            return True
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
