"""Starting a guard, and telling who listens at its socket."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Final

from pgbastion.errors import GuardError
from pgbastion.observe.logging import get_logger
from pgbastion.platform import handles, processes
from pgbastion.platform.choice import VARIABLE, current
from pgbastion.platform.process_end import has_ended

# The guard is not to keep the daemon's secrets in its environment.
ENVIRONMENT_KEPT: Final = (
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    VARIABLE,
)
# Without site (-S) an installed package is not on the path: it is put there, at the
# end, so that nothing installed beside it stands in for the standard library.
GUARD_CODE: Final = (
    "import os, sys; sys.path += sys.argv[1].split(os.pathsep); "
    "from pgbastion.guard.main import main; sys.exit(main(sys.argv[2]))"
)
# As `ps` prints a process that got SIGSTOP.
STOPPED: Final = "T"

log = get_logger("guard")


async def spawn(run_dir: Path, python: str) -> None:
    """Start a guard and wait until it listens, or says that another one does.

    Raises:
        GuardError: It failed; the message is its own.
    """
    libraries = [str(Path(__file__).parents[2]), *current().libraries()]
    code = (GUARD_CODE, os.pathsep.join(libraries), str(run_dir))
    environment = {
        name: os.environ[name] for name in ENVIRONMENT_KEPT if name in os.environ
    }
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(  # noqa: ASYNC221 - returns at the child's exec
            python,
            [python, "-I", "-S", "-c", *code],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writer, 1),
                (os.POSIX_SPAWN_DUP2, writer, 2),
            ],
            setsigmask=(),
            setsigdef=signal.valid_signals(),
        )
    except OSError as exc:
        os.close(reader)
        raise GuardError(f"cannot start {python}") from exc
    finally:
        os.close(writer)
    said = await _said(reader)
    first, _, _ = said.partition("\n")
    if first == "ready":
        return
    await _ended(pid)
    if first != "held":
        raise GuardError(f"the guard does not start: {said.strip()}")


async def _said(pipe: int) -> str:
    """Return all that comes out of ``pipe``; the guard closes it when it is ready."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb")
    )
    try:
        return (await stream.read()).decode(errors="replace")
    finally:
        transport.close()


async def _ended(pid: int) -> None:
    """Wait for the end of a child and reap it."""
    loop = asyncio.get_running_loop()
    pidfd = handles.open_handle(pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        reap(pid)


def continue_stopped(guard: int) -> None:
    """Have a guard go on that somebody has stopped.

    It answers nobody, and would end no primary. What it does first when it goes on is
    to look at the lease.
    """

    def is_stopped(pid: int) -> bool:
        found = processes.stat(pid)
        return found is not None and found.state == STOPPED

    if is_stopped(guard) and handles.send(guard, signal.SIGCONT, is_stopped):
        log.warning("guard_continued", pid=guard)


def reap(pid: int) -> None:
    """Reap a process that ended, if it is a child of this one."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # A guard that an earlier daemon started is somebody else's child, and so is
        # its server.
        return


def guard_behind(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """Return pid and pidfd of the process that listens at the other end.

    Raises:
        OSError: It has ended, or is another user's: PostgreSQL's user, who may write
            to the run directory, could listen in the guard's place.
    """
    sock: socket.socket = writer.get_extra_info("socket")
    pid, uid = current().peer(sock)
    if uid != os.geteuid():
        raise PermissionError(f"process {pid} of user {uid} listens there")
    pidfd = handles.open_handle(pid)
    if has_ended(pidfd):
        os.close(pidfd)
        raise ProcessLookupError(f"process {pid} has ended")
    return pid, pidfd
