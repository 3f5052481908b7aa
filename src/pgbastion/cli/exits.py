"""Exit codes of the commands; documented in the reference."""

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command means."""

    OK = 0
    NO = 1
    """The answer is no: no primary, rows lost, an action that failed."""
    USAGE = 2
    """The command line is wrong (typer's own code), or a question was not answered."""
    UNREACHABLE = 3
    """No node answers."""
    UNFINISHED = 4
    """It was begun and its outcome is not known yet: look before repeating it."""
    UNAVAILABLE = 69
    """This user or machine lacks what was asked for (EX_UNAVAILABLE of sysexits.h)."""
    REMOVED = 77
    """This node was removed from its cluster (EX_NOPERM of sysexits.h)."""
    CONFIG = 78
    """The configuration cannot be used (EX_CONFIG of sysexits.h)."""
