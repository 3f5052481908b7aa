"""How every handle of a process says that the process has ended."""

import select


def has_ended(handle: int) -> bool:
    """Tell whether the process of a handle has ended."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))
