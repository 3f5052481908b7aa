"""Ends the server when the guard has died, where the kernel does not do it.

A process that is nobody's child waits at a pipe whose other end the guard alone has.
What it reads is the postmaster's pid, then 0 once the server has stopped; the end of
the stream means that the guard has died, and the server is killed.
"""

import os
import signal
import struct
import time

from pgbastion.guard.kill import Identity, Kill
from pgbastion.platform.choice import current
from pgbastion.platform.clock import boottime_ns
from pgbastion.platform.descriptors import close_inherited
from pgbastion.platform.processes import start_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PID = struct.Struct("=q")
STEP_S = 0.002
# The daemon, if it lives, kills by directory as well, and has its own deadline.
DEADLINE_NS = 10_000_000_000


class Keeper:
    """The guard's end of the pipe."""

    __slots__ = ("_pipe",)

    def __init__(self) -> None:
        self._pipe = -1

    def begin(self, pgdata: str, uid: int) -> None:
        """Make the process before a server is started.

        Args:
            pgdata: Its data directory, as the kernel names it.
            uid: As whom it runs.

        Raises:
            OSError: There is no process or descriptor left.
        """
        if current().ends_orphans:
            return
        reader, self._pipe = os.pipe()
        between = os.fork()
        if between == 0:
            # Nobody's child: the guard waits until it has none.
            if os.fork() == 0:
                _keep(reader, pgdata, uid)
            os._exit(0)
        os.waitpid(between, 0)
        os.close(reader)

    def name(self, postmaster: int) -> None:
        """Say who the postmaster is; 0: none any more."""
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, PID.pack(postmaster))
        except BrokenPipeError:
            # Somebody has killed it.
            pass
        if postmaster == 0:
            os.close(self._pipe)
            self._pipe = -1


def _keep(reader: int, pgdata: str, uid: int) -> "NoReturn":
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        # Above all the guard's lock, and its own end of the pipe.
        close_inherited(but=reader)
        postmaster = None
        while word := os.read(reader, PID.size):
            (pid,) = PID.unpack(word)
            if pid == 0:
                os._exit(0)
            postmaster = Identity(pid, start_of(pid))
        _kill(postmaster, pgdata, uid)
    finally:
        os._exit(1)


def _kill(postmaster: Identity | None, pgdata: str, uid: int) -> None:
    now_ns = boottime_ns()
    kill = Kill(
        pgdata,
        uid,
        postmaster=postmaster,
        reap=lambda: True,
        spare=frozenset(),
        now_ns=now_ns,
    )
    deadline_ns = now_ns + DEADLINE_NS
    while not kill.step(boottime_ns()) and boottime_ns() < deadline_ns:
        time.sleep(STEP_S)
