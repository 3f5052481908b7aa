"""Exit codes of the commands; documented in the reference."""

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command means."""

    OK = 0
    NO = 1
    """The answer is no: no primary, rows lost, an action that failed."""
    USAGE = 2
    """The command line is wrong; typer's own code."""
    UNREACHABLE = 3
    """The daemon does not answer."""
    UNAVAILABLE = 69
    """This user or machine lacks what was asked for (EX_UNAVAILABLE of sysexits.h)."""
    CONFIG = 78
    """The configuration cannot be used (EX_CONFIG of sysexits.h)."""
