"""Whose a server is that this node's guard has not started: told by its parent."""

import os

from pgbastion.guard import page as words
from pgbastion.guard.page import Page, PageError
from pgbastion.platform import processes
from pgbastion.platform.choice import current

# On the command line of every guard; its run directory is the last word there.
GUARD_WORDS = "pgbastion.guard"


def other_daemon(parent: int, own_run_dir: str) -> int:
    """Return the daemon of another node whose guard is ``parent``; 0: there is none.

    Args:
        parent: The postmaster's parent.
        own_run_dir: This node's run directory.
    """
    line = current().command_line(parent)
    run_dir = line.rpartition(" ")[2]
    # A node's has one name, under whichever of the places it was made.
    is_own = os.path.basename(run_dir) == os.path.basename(own_run_dir)
    if GUARD_WORDS not in line or is_own:
        return 0
    try:
        page = Page(f"{run_dir}/page")
    except (OSError, PageError):
        return 0
    try:
        writer, start = page[words.WRITER_PID], page[words.WRITER_START]
    finally:
        page.close()
    return writer if start and processes.start_of(writer) == start else 0


def other_daemon_in(pgdata: str, uid: int, own_run_dir: str) -> int:
    """Return the daemon of another node that has a server in ``pgdata``; 0: none.

    Args:
        pgdata: The data directory, as the kernel names it.
        uid: As whom PostgreSQL runs.
        own_run_dir: This node's run directory.
    """
    for occupant in processes.occupants(pgdata, uid):
        if occupant.name in processes.NAMES_OF_POSTGRES:
            daemon = other_daemon(occupant.parent, own_run_dir)
            if daemon:
                return daemon
    return 0
