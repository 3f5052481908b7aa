"""Ends the daemon that runs on this node so that another takes over at once.

PostgreSQL goes on meanwhile: what is left of the lease is the successor's.
"""

import os
import select
import signal
from pathlib import Path
from typing import Final

from pgbastion.errors import PgBastionError
from pgbastion.platform import handles
from pgbastion.platform.choice import current

# The engine's lock on its directory: whoever holds it is the node's daemon.
LOCK_NAME: Final = "lock"
# A daemon that leaves PostgreSQL alone has little to do; one that hangs is killed,
# which leaves PostgreSQL alone too.
LEAVE_S: Final = 5.0
KILLED_S: Final = 5.0


def end_running_daemon(raft_dir: Path) -> int | None:
    """Ask the daemon of ``raft_dir`` to leave, and wait until its process has ended.

    Returns:
        Its pid; None: there was none, or none that this user may see.

    Raises:
        PgBastionError: The process does not end.
    """
    pid = find_daemon(raft_dir)
    if pid is None:
        return None
    lock = _lock_of(raft_dir)
    try:
        pidfd = handles.open_handle(pid)
    except ProcessLookupError:
        return None
    try:
        # Looked at again with the pidfd open: from here on it is this process.
        if current().lock_holder(lock) != pid:
            return None
        _end(pid, pidfd)
    finally:
        os.close(pidfd)
    return pid


def find_daemon(raft_dir: Path) -> int | None:
    """Return the pid of the daemon of ``raft_dir``; None: none that this user sees."""
    return current().lock_holder(_lock_of(raft_dir))


def _lock_of(raft_dir: Path) -> str:
    return str((raft_dir / LOCK_NAME).resolve())


def _end(pid: int, pidfd: int) -> None:
    for number, wait_s in ((signal.SIGUSR2, LEAVE_S), (signal.SIGKILL, KILLED_S)):
        try:
            handles.send_to(pidfd, pid, number)
        except ProcessLookupError:
            return
        except PermissionError as exc:
            raise PgBastionError(f"may not end the running daemon {pid}") from exc
        if select.select([pidfd], [], [], wait_s)[0]:
            return
    raise PgBastionError(f"the running daemon {pid} does not end")
