"""Closing what a process has of its parent's descriptors."""

import os

OPEN = "/proc/self/fd"
STANDARD = 3


def close_inherited(*, but: int = -1) -> None:
    """Close every descriptor but the three standard ones, and ``but``.

    Those that are open, not every number up to the limit: in some containers that is a
    thousand million, and a Python made for an old C library tries each of them.
    """
    try:
        numbers = [int(name) for name in os.listdir(OPEN)]
    except OSError:
        os.closerange(STANDARD, max(but, STANDARD))
        os.closerange(max(but + 1, STANDARD), os.sysconf("SC_OPEN_MAX"))
        return
    for number in numbers:
        if number >= STANDARD and number != but:
            try:
                os.close(number)
            except OSError:
                # What the directory was read by is closed already.
                pass
