"""Starting PostgreSQL as a child of the guard.

fork; setsid; then what the platform does about user and rights: on Linux setpriv,
which changes the user, drops every capability and arms the parent-death signal SIGQUIT
(after the change of user, which clears it); then a shell
that compares its parent's pid with the guard's, since a guard that died before the
signal was armed leaves nobody else to check; then the server.
"""

import os
import signal

from pgbastion.platform.choice import current
from pgbastion.platform.descriptors import close_inherited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pgbastion.platform.interface import Account

PARENT_CHECK = '[ "$PPID" = "$0" ] || exit 75; exec "$@"'
# What a server may inherit. The daemon's environment may hold secrets.
ENVIRONMENT_KEPT = ("LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_BYTES_MAX = 4 << 20
EXIT_NOT_EXECUTED = 71
RESET_SIGNALS = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXFSZ,
)


class Launch:
    """How to start one server.

    Args:
        argv: The server's program, as an absolute path, and its arguments.
        user: As whom it runs.
        pgdata: The data directory, as the kernel names it; becomes PGDATA.
        log: The file that takes standard output and error. It should not be on the
            data directory's file system.
        environment: Added to the few variables that a server inherits.

    Raises:
        ValueError: A path is not absolute, or the guard may not become that user.
    """

    __slots__ = ("_log", "_user", "_words", "environment", "pgdata")

    def __init__(
        self,
        argv: list[str],
        *,
        user: "Account",
        pgdata: str,
        log: str,
        environment: dict[str, str],
    ) -> None:
        if not argv or not argv[0].startswith("/"):
            raise ValueError("argv: the program must be an absolute path")
        if not pgdata.startswith("/") or not log.startswith("/"):
            raise ValueError("pgdata, log: must be absolute paths")
        if user.uid == 0:
            raise ValueError("user: PostgreSQL does not run as root")
        if user.uid != os.geteuid() != 0:
            raise ValueError(f"user: only root may become {user.name}")
        self.pgdata = pgdata
        self._user = user
        self._log = log
        self.environment = _environment(argv[0], user, pgdata, environment)
        # The server is found by PATH and carries its bare name, and PGDATA comes by
        # the environment: `pkill -f` with this program's name, which is a part of
        # many paths, must not hit a postmaster alone and leave its backends.
        self._words = [os.path.basename(argv[0]), *argv[1:]]

    @property
    def uid(self) -> int:
        """The user's number."""
        return self._user.uid

    def start(self) -> int:
        """Fork and return the child's pid; it becomes the postmaster."""
        command = self._command(os.getpid())
        # Whatever is sent to the child before it has its own dispositions waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._become(command)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return pid

    def _command(self, guard: int) -> list[str]:
        command = current().launch(self._user)
        return [*command, "/bin/sh", "-c", PARENT_CHECK, str(guard), *self._words]

    def _become(self, command: list[str]) -> "NoReturn":
        """Turn the forked child into the command."""
        try:
            os.setsid()
            close_inherited()
            signal.set_wakeup_fd(-1)
            for number in RESET_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.umask(0o077)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            out = _open_log(self._log)
            os.dup2(out, 1)
            os.dup2(out, 2)
            current().become(self._user)
            os.execve(command[0], command, self.environment)  # noqa: S606
        except OSError as exc:
            os.write(2, f"{command[0]}: {exc}\n".encode())
        finally:
            os._exit(EXIT_NOT_EXECUTED)


def _environment(
    program: str, user: "Account", pgdata: str, extra: dict[str, str]
) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT_KEPT or name.startswith("LC_")
    }
    return {
        **kept,
        **current().server_environment(),
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        **extra,
        "PATH": f"{os.path.dirname(program)}:{SYSTEM_PATH}",
        "PGDATA": pgdata,
    }


def _open_log(path: str) -> int:
    """Open the log for appending; one that grew beyond its bound is put aside first.

    A log that cannot be opened (disk full) does not keep the server from starting.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
        if os.fstat(fd).st_size > LOG_BYTES_MAX:
            os.rename(path, f"{path}.1")
            os.close(fd)
            fd = os.open(path, flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
    return fd
