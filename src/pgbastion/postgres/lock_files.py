"""Lock files of a server that was killed, whose pid is another process's by now.

A server takes whoever has the pid of its lock file, and its own user, for another
postmaster: it does not start, nor recover (PostgreSQL, CreateLockFile in miscinit.c).
In a container pids begin anew with each start, and it may be a thread of this daemon's.
"""

import os
from pathlib import Path
from typing import Final

from pgbastion.observe.logging import get_logger
from pgbastion.platform.choice import current
from pgbastion.platform.processes import occupant_at
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths

NOBODY: Final = (1 << 22) + 1
"""A pid that no process has: the kernel gives none above 2^22; proc(5), pid_max."""

log = get_logger("postgres")


async def disown(paths: PgPaths, files: Files) -> None:
    """Have lock files name nobody where they name a process that is no server of ours.

    What else they say stays: a server also looks for the shared memory that they name.

    Raises:
        PostgresError: One cannot be read or written.
    """
    real, found = await files.run("list lock files", lambda: _lock_files(paths))
    for path in found:
        pid, _, rest = (await files.read(path) or "").partition("\n")
        if rest.partition("\n")[0] not in (real, str(paths.data_dir)):
            continue
        # That of a single-user server has a minus sign.
        number = pid.strip().lstrip("-")
        if number.isdecimal() and _is_another_process(
            int(number), real, paths.account.uid
        ):
            log.warning("lock_file_of_nobody", file=str(path), pid=int(number))
            await files.write(path, f"{NOBODY}\n{rest}", keep_mode=True)


def _lock_files(paths: PgPaths) -> tuple[str, list[Path]]:
    """Return the data directory as the kernel names it, and where its locks may be."""
    # Those of a socket name the data directory as well.
    sockets = sorted(paths.socket_dir.glob(".s.PGSQL.*.lock"))
    lock = paths.data_dir / "postmaster.pid"
    return os.path.realpath(paths.data_dir), [lock, *sockets]


def _is_another_process(pid: int, data_dir: str, uid: int) -> bool:
    """Tell whether there is such a process, and it works elsewhere."""
    try:
        exists = current().stat(pid) is not None
        return exists and occupant_at(pid, data_dir, uid) is None
    except OSError:
        # Nobody can tell.
        return False
