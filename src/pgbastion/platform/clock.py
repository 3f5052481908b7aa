"""The node's clock, which also counts while the machine is suspended.

CLOCK_BOOTTIME on Linux; CLOCK_MONOTONIC on macOS, which counts suspension there
(clock_gettime(3)). The engine reads the same one (``native``, module ``clock``), since
both write their instants into the shared page.
"""

import time

# 1 is CLOCK_MONOTONIC's number where there is one; Windows, where no node runs, has
# neither name.
CLOCK: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 1))


def boottime_ns() -> int:
    """Return now, in nanoseconds."""
    return time.clock_gettime_ns(CLOCK)
