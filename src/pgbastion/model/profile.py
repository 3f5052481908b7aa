"""The profiles: how long a lease is, and how quickly everything else follows."""

from enum import StrEnum


class Profile(StrEnum):
    """Which set of timings a cluster uses."""

    FAST = "fast"
    NORMAL = "normal"
    WIDE = "wide"
