"""The guard's process: from exec to its loop.

It says one line on the standard output that it was started with: ``ready``, ``held``
(another guard has this run directory) or what went wrong. Then its output goes to a log
of its own in the run directory, so that no pipe of the daemon's can block or end it.
"""

import fcntl
import os
import time

from pgbastion.guard import page, wire
from pgbastion.guard.server import Guard
from pgbastion.platform.choice import current
from pgbastion.platform.descriptors import close_inherited

LOCK_NAME = "guard.lock"
SOCKET_NAME = "guard.sock"
PAGE_NAME = "page"
LOG_NAME = "guard.log"
LOG_BYTES_MAX = 256 << 10
EXIT_HELD = 3
EXIT_FAILED = 1


class Log:
    """Lines with the wall-clock time, in a bounded file that is standard error too."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def __call__(self, line: str) -> None:
        """Write one line; a log that cannot be written is no reason to stop."""
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        try:
            if os.fstat(2).st_size > LOG_BYTES_MAX:
                os.rename(self._path, f"{self._path}.1")
                self._open()
            os.write(2, f"{instant}Z {line}\n".encode(errors="replace"))
        except OSError:
            return

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        fd = os.open(self._path, flags | os.O_CLOEXEC, 0o600)
        os.dup2(fd, 2)
        os.close(fd)


def main(run_dir: str) -> int:
    """Guard the PostgreSQL of ``run_dir``'s node; return the exit code."""
    close_inherited()
    os.chdir("/")
    os.umask(0o077)
    if os.getsid(0) != os.getpid():
        os.setsid()
    try:
        guard, log = _prepared(run_dir)
    except BlockingIOError:
        _say("held")
        return EXIT_HELD
    except (OSError, page.PageError) as exc:
        _say(f"failed: {exc}")
        return EXIT_FAILED
    _say("ready")
    _detach()
    log(f"guard {os.getpid()} begins")
    guard.run()
    # The socket goes while the lock is held, so that it is never a successor's.
    try:
        os.unlink(f"{run_dir}/{SOCKET_NAME}")
    except FileNotFoundError:
        # Somebody has removed the run directory.
        pass
    log(f"guard {os.getpid()} ends")
    return 0


def _prepared(run_dir: str) -> tuple[Guard, Log]:
    """Take the lock and make everything that the loop needs.

    Raises:
        BlockingIOError: Another guard has the lock.
        OSError: Something of the system failed.
        PageError: The page in the run directory is of another layout.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(f"{run_dir}/{LOCK_NAME}", flags, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    log = Log(f"{run_dir}/{LOG_NAME}")
    platform = current()
    platform.adopt_orphans()
    shared = page.obtain(f"{run_dir}/{PAGE_NAME}")
    listener = wire.listen(f"{run_dir}/{SOCKET_NAME}")
    refused = [
        platform.go_first(),
        platform.spare_from_oom(),
        platform.lock_memory(),
    ]
    warnings = [line for line in refused if line is not None]
    for line in warnings:
        log(line)
    return Guard(shared, listener, log=log, warnings=warnings), log


def _say(line: str) -> None:
    try:
        os.write(1, f"{line}\n".encode(errors="replace"))
    except OSError:
        return


def _detach() -> None:
    """Let go of the daemon's streams; standard error is the log already."""
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    os.close(nowhere)
