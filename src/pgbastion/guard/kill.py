"""Killing PostgreSQL so that nothing of it can commit any more.

SIGKILL of the postmaster alone is no kill: its backends are in sessions of their own,
go on and commit. The recipe (PROCESS.md, "Killing PostgreSQL"): stop the postmaster so
that it starts nobody new, kill its descendants until no new one appears, kill it, then
reap as subreaper until there is no child left. "Stopped" is that *and* no process left
whose working directory is the data directory.
"""

import os
import signal
import time
from collections.abc import Callable

from pgbastion.platform import processes
from pgbastion.platform.choice import current
from pgbastion.platform.clock import boottime_ns
from pgbastion.platform.handles import send
from pgbastion.platform.interface import Stat

__all__ = (
    "Identity",
    "Kill",
    "describe",
    "kill_by_directory",
    "send",
)

NS_PER_MS = 1_000_000
# SIGSTOP takes effect within microseconds, unless the postmaster waits in the kernel.
FREEZE_NS_MAX = 100 * NS_PER_MS
# Each pass over the descendants takes well under a millisecond; a program that forks
# without end must not hold the guard's loop.
PASSES_PER_STEP = 20
# A look at all processes is no instant: one may begin behind it while its parent ends
# before it. The second look finds that one.
LOOKS_THAT_PROVE = 2
STOPPED_STATES = "Tt"
UNINTERRUPTIBLE = "D"


class Identity:
    """A process that no other can be mistaken for: pid and start time."""

    __slots__ = ("pid", "start")

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start

    def stat(self) -> Stat | None:
        """Return what the kernel says about it, or None if it is gone or reaped."""
        found = processes.stat(self.pid)
        return None if found is None or found.start != self.start else found


class Kill:
    """One kill of PostgreSQL, advanced by steps that never wait.

    Args:
        pgdata: The data directory, as the kernel names it (no symbolic links).
        uid: The user as whom PostgreSQL runs.
        postmaster: None when it has ended already: then the left-overs are killed.
        reap: Reaps what can be reaped of this process's children; tells whether none
            is left (ECHILD).
        spare: Processes that are never killed although they sit in ``pgdata``.
        now_ns: The instant of the beginning, CLOCK_BOOTTIME.
    """

    __slots__ = (
        "_began_ns",
        "_is_frozen",
        "_postmaster",
        "_reap",
        "_seen",
        "_spare",
        "pgdata",
        "uid",
    )

    def __init__(
        self,
        pgdata: str,
        uid: int,
        *,
        postmaster: Identity | None,
        reap: Callable[[], bool],
        spare: frozenset[int],
        now_ns: int,
    ) -> None:
        self.pgdata = pgdata
        self.uid = uid
        self._postmaster = postmaster
        self._reap = reap
        self._spare = spare | {os.getpid()}
        self._began_ns = now_ns
        self._is_frozen = False
        # Descendants of the postmaster and when they were started. Those of an
        # adopted one are nobody's children here, so that ECHILD says nothing of them.
        self._seen: dict[int, int] = {}

    def step(self, now_ns: int) -> bool:
        """Do what can be done now; tell whether PostgreSQL is "stopped"."""
        if self._postmaster is not None:
            if not self._freeze(self._postmaster, now_ns):
                return False
            if not self._kill_tree(self._postmaster):
                return False
            self._postmaster = None
        self._kill_children()
        if not self._reap():
            return False
        return self._kill_occupants() and self._kill_seen()

    def left(self) -> list[str]:
        """Describe every process that is not dead yet: pid, state and wait channel."""
        own = {*processes.descendants(os.getpid()), *self._seen_alive()}
        doubtful = set()
        for occupant in self._occupants():
            own.add(occupant.pid)
            if not occupant.is_certain:
                doubtful.add(occupant.pid)
        alive = [pid for pid in sorted(own) if processes.start_of(pid)]
        return [describe(pid, is_certain=pid not in doubtful) for pid in alive]

    def _freeze(self, postmaster: Identity, now_ns: int) -> bool:
        """Stop the postmaster; tell whether it can start nobody new."""
        found = postmaster.stat()
        if found is None or found.is_dead:
            return True
        if not self._is_frozen:
            is_it = _has_start(postmaster.start)
            self._is_frozen = send(postmaster.pid, signal.SIGSTOP, is_it)
            found = postmaster.stat()
            if found is None:
                return True
        return (
            found.state in STOPPED_STATES
            or found.state == UNINTERRUPTIBLE
            or found.is_dead
            or now_ns - self._began_ns >= FREEZE_NS_MAX
        )

    def _kill_tree(self, postmaster: Identity) -> bool:
        """Kill descendants until no new one appears, then the postmaster."""
        for _ in range(PASSES_PER_STEP):
            if postmaster.stat() is None:
                return True
            tree = processes.descendants(postmaster.pid)
            new = [pid for pid in tree if pid not in self._seen]
            if not new:
                send(postmaster.pid, signal.SIGKILL, _has_start(postmaster.start))
                return True
            for pid in new:
                start = processes.start_of(pid)
                is_ours = processes.is_descendant(pid, postmaster.pid)
                self._seen[pid] = start if is_ours else 0
            self._kill_seen()
        return False

    def _seen_alive(self) -> list[int]:
        return [
            pid
            for pid, start in self._seen.items()
            if start and processes.start_of(pid) == start
        ]

    def _kill_seen(self) -> bool:
        """Kill the postmaster's descendants; tell whether all are dead."""
        alive = self._seen_alive()
        for pid in alive:
            send(pid, signal.SIGKILL, _has_start(self._seen[pid]))
        return not alive

    def _kill_children(self) -> None:
        # Orphans of PostgreSQL are children of this process, their subreaper.
        own = os.getpid()
        for pid in reversed(processes.descendants(own)):
            send(pid, signal.SIGKILL, _is_below(own))

    def _kill_occupants(self) -> bool:
        found = self._occupants()
        for occupant in found:
            if occupant.is_certain:
                _kill_occupant(occupant, self.pgdata, self.uid)
        return not found and not any(
            self._occupants() for _ in range(LOOKS_THAT_PROVE - 1)
        )

    def _occupants(self) -> list[processes.Occupant]:
        found = processes.occupants(self.pgdata, self.uid)
        return [occupant for occupant in found if occupant.pid not in self._spare]


def kill_by_directory(
    pgdata: str, uid: int, *, deadline_ns: int, spare: frozenset[int] = frozenset()
) -> list[str]:
    """Kill every process whose working directory is ``pgdata``; block until done.

    For the daemon when the guard is dead. A process whose parent is not among them,
    which the postmaster is, goes first, so that it starts nobody new.

    Args:
        pgdata: The data directory, as the kernel names it (no symbolic links).
        uid: The user as whom PostgreSQL runs.
        deadline_ns: When to give up, CLOCK_BOOTTIME.
        spare: Processes that are left alone; the caller always is.

    Returns:
        What is left, one line a process; empty means that none is.
    """
    spared = spare | {os.getpid()}
    pause_s = 0.001
    empty_looks = 0
    while True:
        found = processes.occupants(pgdata, uid)
        here = [occupant for occupant in found if occupant.pid not in spared]
        empty_looks = 0 if here else empty_looks + 1
        if empty_looks == LOOKS_THAT_PROVE:
            return []
        if boottime_ns() >= deadline_ns:
            return [describe(one.pid, is_certain=one.is_certain) for one in here]
        inside = {occupant.pid for occupant in here}
        here.sort(key=lambda occupant: occupant.parent in inside)
        for occupant in here:
            if occupant.is_certain:
                _kill_occupant(occupant, pgdata, uid)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)


def describe(pid: int, *, is_certain: bool = True) -> str:
    """Return ``not stopped: PID state wchan`` for a process that should be dead."""
    found = processes.stat(pid)
    state = "gone" if found is None else found.state
    line = f"not stopped: {pid} {state} {current().waits_in(pid)}"
    return line if is_certain else f"{line} (its working directory may not be read)"


def _kill_occupant(occupant: processes.Occupant, pgdata: str, uid: int) -> None:
    def still(pid: int) -> bool:
        now = processes.occupant_at(pid, pgdata, uid)
        return now is not None and now.is_certain and now.start == occupant.start

    send(occupant.pid, signal.SIGKILL, still)


def _has_start(start: int) -> Callable[[int], bool]:
    return lambda pid: processes.start_of(pid) == start


def _is_below(ancestor: int) -> Callable[[int], bool]:
    return lambda pid: processes.is_descendant(pid, ancestor)
