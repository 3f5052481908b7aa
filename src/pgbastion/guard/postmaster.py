"""A postmaster under guard: who it is, whether it may be a primary, how it ended."""

import os

from pgbastion.guard.kill import Identity


class Postmaster:
    """A postmaster and what is known of it.

    Args:
        identity: Its pid and start time.
        pgdata: Its data directory, as the kernel names it.
        uid: As whom it runs.
        is_tainted: It may be a primary, now or later, whatever it says.
        pidfd: Of an adopted one, which is no child; -1: a child.
    """

    __slots__ = (
        "code",
        "has_ended",
        "identity",
        "is_tainted",
        "pgdata",
        "pidfd",
        "signal",
        "uid",
    )

    def __init__(
        self,
        identity: Identity,
        *,
        pgdata: str,
        uid: int,
        is_tainted: bool,
        pidfd: int = -1,
    ) -> None:
        self.identity = identity
        self.pgdata = pgdata
        self.uid = uid
        self.is_tainted = is_tainted
        self.pidfd = pidfd
        self.has_ended = False
        self.code: int | None = None
        self.signal: int | None = None

    def end(self, status: int) -> None:
        """Note how it ended, as waitpid said."""
        self.has_ended = True
        if os.WIFSIGNALED(status):
            self.signal = os.WTERMSIG(status)
        else:
            self.code = os.WEXITSTATUS(status)
