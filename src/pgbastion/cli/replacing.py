"""Ends the daemon that runs on this node so that another takes over at once.

PostgreSQL goes on meanwhile: what is left of the lease is the successor's.
"""

import os
import select
import signal
from pathlib import Path
from typing import Final

from pgbastion.errors import PgBastionError
from pgbastion.guard import page as words
from pgbastion.guard import procfs
from pgbastion.guard.main import PAGE_NAME
from pgbastion.guard.page import Page, PageError

# A daemon that leaves PostgreSQL alone has little to do; one that hangs is killed,
# which leaves PostgreSQL alone too.
LEAVE_S: Final = 5.0
KILLED_S: Final = 5.0


def end_running_daemon(run_dir: Path) -> int | None:
    """Ask the daemon in office to leave, and wait until its process has ended.

    Returns:
        Its pid; None: there was none.

    Raises:
        PgBastionError: The page cannot be read, or the process does not end.
    """
    pid, start = _writer(run_dir / PAGE_NAME)
    if pid == 0:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        # Looked at after the pidfd was opened: from here on it is this process.
        if procfs.start_ticks(pid) != start:
            return None
        _end(pid, pidfd)
    finally:
        os.close(pidfd)
    return pid


def _writer(path: Path) -> tuple[int, int]:
    try:
        page = Page(str(path))
    except FileNotFoundError:
        return 0, 0
    except (OSError, PageError) as exc:
        raise PgBastionError(f"cannot read the shared page {path}") from exc
    try:
        return page[words.WRITER_PID], page[words.WRITER_START]
    finally:
        page.close()


def _end(pid: int, pidfd: int) -> None:
    for number, wait_s in ((signal.SIGUSR2, LEAVE_S), (signal.SIGKILL, KILLED_S)):
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return
        except PermissionError as exc:
            raise PgBastionError(f"may not end the running daemon {pid}") from exc
        if select.select([pidfd], [], [], wait_s)[0]:
            return
    raise PgBastionError(f"the running daemon {pid} does not end")
