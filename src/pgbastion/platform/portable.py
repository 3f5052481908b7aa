"""Any system with POSIX processes: macOS; on Linux where the setting asks for it.

psutil tells of processes. What the kernel does not do for us here is named in
``weaker``, which `start`, `check` and INSTALL.md say.
"""

import errno
import fcntl
import os
import select
import socket
import sys

import psutil

from pgbastion.platform.interface import Account, Poll, Stat, Watch
from pgbastion.platform.parents import parents_map
from pgbastion.platform.polling import Looking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WEAKER = (
    "no parent-death signal: a process of its own ends PostgreSQL when the guard died",
    "a program that left the data directory and lost its parent is not found by a kill",
    "a kill asks every process, and takes the longer the more there are",
    "no memory is locked and nobody is spared when memory runs out",
    "no virtual address and no kernel data path",
    "a peer that answers nothing is noticed by TCP's keepalive alone",
)
# psutil's words, as `ps` prints them; one that is not here runs.
_STATES = {
    psutil.STATUS_ZOMBIE: "Z",
    psutil.STATUS_DEAD: "X",
    psutil.STATUS_STOPPED: "T",
    psutil.STATUS_TRACING_STOP: "t",
    psutil.STATUS_DISK_SLEEP: "D",
    psutil.STATUS_SLEEPING: "S",
}
# What goes over the wire is a number of 62 bits.
_START_MASK = (1 << 62) - 1
_IN_MEMORY = ("tmpfs", "ramfs")
# macOS, netinet/tcp.h; what TCP_KEEPIDLE is on Linux.
_TCP_KEEPALIVE = 0x10
# macOS, sys/un.h: LOCAL_PEERCRED gives struct xucred, whose second word is the user.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2


class Portable:
    """What every system with fork, signals and Unix sockets can do."""

    name = "portable"
    has_addresses = False
    has_kernel_path = False
    has_epoll = False
    has_tcp_info = False
    ends_orphans = False
    programs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.watch: Watch = Looking(self.stat)
        self.weaker = (*self.watch.weaker, *WEAKER)
        # macOS has no file system in memory that is there by itself. Whose the
        # directory is gets checked when it is made.
        base = f"/tmp/pgbastion-{os.geteuid()}"  # noqa: S108
        self.run_base: str | None = None if _is_linux() else base

    # Processes

    def stat(self, pid: int) -> Stat | None:
        """Ask psutil; the start is its hash of pid and start time.

        The time itself would change with the wall clock on some systems.
        """
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                return Stat(
                    pid,
                    name=process.name().encode(),
                    state=_STATES.get(process.status(), "R"),
                    parent=process.ppid(),
                    start=hash(process) & _START_MASK or 1,
                )
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            return None

    def pids(self) -> list[int]:
        """Return every process."""
        return list(psutil.pids())

    def children(self) -> "Callable[[int], list[int]]":
        """Ask every process for its parent."""
        return parents_map(self.pids(), _parent)

    def owner(self, pid: int) -> int | None:
        """Return the effective user."""
        try:
            return int(psutil.Process(pid).uids().effective)
        except psutil.NoSuchProcess:
            return None

    def directory(self, pid: int) -> str | None:
        """Return the working directory; a dead one's is empty."""
        try:
            found = psutil.Process(pid).cwd()
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied as exc:
            raise PermissionError(errno.EACCES, f"process {pid}") from exc
        return found or None

    def command_line(self, pid: int) -> str:
        """Return its words."""
        try:
            return " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            return ""

    def waits_in(self, _pid: int) -> str:
        """Return what stands for unknown."""
        return "0"

    def lock_holder(self, path: str) -> int | None:
        """Return who has the file open, if somebody has a lock on it."""
        try:
            if not _is_locked(path):
                return None
        except OSError:
            return None
        for process in psutil.process_iter():
            try:
                if any(file.path == path for file in process.open_files()):
                    return int(process.pid)
            except psutil.Error:
                continue
        return None

    # This process

    def adopt_orphans(self) -> None:
        """Do nothing: orphans go to the first process."""

    def lock_memory(self) -> str | None:
        """Do nothing."""

    def spare_from_oom(self) -> str | None:
        """Do nothing."""

    def go_first(self) -> str | None:
        """Do nothing: a nice value would be the servers' too."""

    def has_capability(self, _number: int) -> bool:
        """Tell whether this is root, the only one with rights here."""
        return os.geteuid() == 0

    # Servers

    def launch(self, _account: Account) -> list[str]:
        """Return no words: `become` does it."""
        return []

    def become(self, account: Account) -> None:
        """Change groups and user, for good."""
        if account.uid != os.geteuid():
            os.initgroups(account.name, account.gid)
            os.setgid(account.gid)
            os.setuid(account.uid)

    def server_environment(self) -> dict[str, str]:
        """Return nothing."""
        return {}

    # Sockets, files, addresses

    def poll(self) -> Poll:
        """Return a set that is waited for portably."""
        return PollSet()

    def peer(self, sock: socket.socket) -> tuple[int, int]:
        """Ask as the system has it; unix(7) or unix(4)."""
        if _is_linux():
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid = found[:4], found[4:8]
        else:
            pid = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4)
            uid = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)[4:8]
        return int.from_bytes(pid, sys.byteorder), int.from_bytes(uid, sys.byteorder)

    def limit_silence(
        self, sock: socket.socket, *, idle_s: int, unheard_ms: int
    ) -> None:
        """Set the keepalive's delay, by its name here; the rest is the kernel's."""
        del unheard_ms
        option = getattr(socket, "TCP_KEEPIDLE", None) or _TCP_KEEPALIVE
        sock.setsockopt(socket.IPPROTO_TCP, option, idle_s)

    def in_memory(self, path: str) -> bool:
        """Look for the mount that the path lies on."""
        path = os.path.realpath(path)
        kinds = {m.mountpoint: m.fstype for m in psutil.disk_partitions(all=True)}
        while path not in kinds and path != os.path.dirname(path):
            path = os.path.dirname(path)
        return kinds.get(path) in _IN_MEMORY

    def exchange(self, one: str, other: str) -> None:
        """Refuse: there is no portable call for it.

        Raises:
            OSError: Always.
        """
        number = errno.ENOTSUP
        raise OSError(number, os.strerror(number), one, None, other)

    def remove_addresses(
        self, _wanted: frozenset[bytes], _say: "Callable[[str], None]"
    ) -> int:
        """Refuse: none was ever set.

        Raises:
            OSError: Always.
        """
        raise OSError(errno.ENOTSUP, "this platform has no virtual addresses")

    def libraries(self) -> list[str]:
        """Name psutil's directory."""
        return [os.path.dirname(os.path.dirname(psutil.__file__))]


class PollSet:
    """poll(2), with epoll's manner: seconds, and a closed descriptor drops out."""

    __slots__ = ("_poll",)

    def __init__(self) -> None:
        self._poll = select.poll()

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor."""
        self._poll.register(fd, eventmask)

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else."""
        self._poll.modify(fd, eventmask)

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        self._poll.unregister(fd)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Return what is ready within so many seconds."""
        found = self._poll.poll(timeout * 1_000)
        for fd, events in found:
            if events & select.POLLNVAL:
                self._poll.unregister(fd)
        return [(fd, events) for fd, events in found if not events & select.POLLNVAL]


def _parent(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return None


def _is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _is_linux() -> bool:
    return sys.platform.startswith("linux")
