"""The node's clock, which also counts while the machine is suspended: CLOCK_BOOTTIME.

Instants of this clock mean something on this node only, until it boots again.
Wall-clock time is for people: for the history, and for what they want done at a time.
"""

import time
from datetime import UTC, datetime
from typing import Final

from pgbastion.platform.clock import CLOCK

NS_PER_MS: Final = 1_000_000


def boottime_ns() -> int:
    """Return now, in nanoseconds."""
    return time.clock_gettime_ns(CLOCK)


def boottime_ms() -> int:
    """Return now, in whole milliseconds, rounded down."""
    return boottime_ns() // NS_PER_MS


def ms_up(at_ns: int) -> int:
    """Return an instant in whole milliseconds, rounded up: no wait ends too soon."""
    return -(-at_ns // NS_PER_MS)


def wall_time() -> datetime:
    """Return the wall-clock time."""
    return datetime.fromtimestamp(time.time(), UTC)


def wall_text() -> str:
    """Return the wall-clock time in the form that the log of the cluster has."""
    return wall_time().isoformat(timespec="milliseconds")
