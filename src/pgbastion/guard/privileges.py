"""What the guard asks of the kernel for itself, by prctl and mlockall."""

import ctypes
import os
import resource

PR_SET_CHILD_SUBREAPER = 36
MCL_CURRENT = 1
MCL_FUTURE = 2
CAP_SETPCAP = 8
CAP_IPC_LOCK = 14
# The guard is spared by the out-of-memory killer, and so is the postmaster, as
# PostgreSQL's manual advises ("Linux Memory Overcommit").
OOM_SCORE_SPARED = -900
# With MCL_FUTURE a limit that today's memory just fits into makes tomorrow's
# allocation fail, so a limit must leave room.
LOCKED_BYTES_MIN = 48 << 20


def become_subreaper() -> None:
    """Make orphaned descendants children of this process.

    Raises:
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def lock_memory() -> str | None:
    """Keep every page of this process in memory; return a warning if refused."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    is_bounded = limit != resource.RLIM_INFINITY and not has_capability(CAP_IPC_LOCK)
    if is_bounded and limit < LOCKED_BYTES_MIN:
        return (
            f"memory is not locked: the limit is {limit >> 10} KiB; "
            "set LimitMEMLOCK=64M or give CAP_IPC_LOCK"
        )
    if is_bounded:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
        return f"memory is not locked: {os.strerror(ctypes.get_errno())}"
    return None


def spare_from_oom() -> str | None:
    """Ask the out-of-memory killer to pass over; return a warning if refused."""
    try:
        write_oom_score(OOM_SCORE_SPARED)
    except PermissionError:
        return "oom_score_adj stays as it is: it takes CAP_SYS_RESOURCE to lower it"
    return None


def write_oom_score(score: int) -> None:
    """Set the calling process's oom_score_adj.

    Raises:
        PermissionError: Lowering it takes CAP_SYS_RESOURCE.
    """
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


def has_capability(number: int) -> bool:
    """Tell whether this process has a capability in its effective set."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False
