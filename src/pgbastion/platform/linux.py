"""Linux: what pgbastion is made for."""

import ctypes
import os
import resource
import select
import socket
import sys

from pgbastion.platform import netlink, proc
from pgbastion.platform.interface import Account, Poll, Stat, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MCL_CURRENT = 1
MCL_FUTURE = 2
CAP_SETPCAP = 8
CAP_IPC_LOCK = 14
# linux/magic.h
TMPFS_MAGIC = 0x01021994
RAMFS_MAGIC = 0x858458F6
# More than struct statfs takes on any Linux; f_type is its first word.
STATFS_BYTES = 512
# linux/fcntl.h, linux/fs.h
AT_FDCWD = -100
RENAME_EXCHANGE = 2
# The guard is spared by the out-of-memory killer, and so is the postmaster, as
# PostgreSQL's manual advises ("Linux Memory Overcommit").
OOM_SCORE_SPARED = -900
# A server that dies has all of its processes end at once, and whoever minds the lease
# or answers a check would have to wait for as many turns of theirs.
NICE_FIRST = -15
OOM_FILE = "/proc/self/oom_score_adj"
# With MCL_FUTURE a limit that today's memory just fits into makes tomorrow's
# allocation fail, so a limit must leave room.
LOCKED_BYTES_MIN = 48 << 20
# Only where the system's own programs are: setpriv runs with the guard's rights.
SYSTEM_FOLDERS = (
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)


class Linux:
    """Everything; without pidfds as on a kernel that has none.

    Args:
        name: How it is asked for.
        watch: Makes handles of processes.
    """

    has_addresses = True
    has_kernel_path = True
    has_epoll = True
    has_tcp_info = True
    ends_orphans = True
    programs: tuple[str, ...] = ("setpriv",)
    run_base: str | None = None

    def __init__(self, name: str, watch: Watch) -> None:
        self.name = name
        self.watch = watch
        self.weaker = watch.weaker

    # Processes

    def stat(self, pid: int) -> Stat | None:
        """Read ``/proc/PID/stat``."""
        return proc.stat(pid)

    def pids(self) -> list[int]:
        """List ``/proc``."""
        return proc.pids()

    def children(self) -> "Callable[[int], list[int]]":
        """Read ``/proc/PID/task/PID/children``, where the kernel has it."""
        return proc.children()

    def owner(self, pid: int) -> int | None:
        """Return the owner of ``/proc/PID``."""
        return proc.owner(pid)

    def directory(self, pid: int) -> str | None:
        """Read the link ``/proc/PID/cwd``; another user's takes CAP_SYS_PTRACE."""
        return proc.directory(pid)

    def command_line(self, pid: int) -> str:
        """Read ``/proc/PID/cmdline``."""
        return proc.command_line(pid)

    def waits_in(self, pid: int) -> str:
        """Read ``/proc/PID/wchan``."""
        return proc.waits_in(pid)

    def lock_holder(self, path: str) -> int | None:
        """Look through ``/proc/PID/fdinfo``."""
        return proc.lock_holder(path)

    # This process

    def adopt_orphans(self) -> None:
        """Become a child subreaper."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    def lock_memory(self) -> str | None:
        """Lock all pages, also later ones, if the limit leaves room for them."""
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        is_bounded = limit != resource.RLIM_INFINITY
        is_bounded = is_bounded and not self.has_capability(CAP_IPC_LOCK)
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

    def spare_from_oom(self) -> str | None:
        """Lower oom_score_adj, which takes CAP_SYS_RESOURCE."""
        try:
            write_oom_score(OOM_SCORE_SPARED)
        except PermissionError:
            return "oom_score_adj stays as it is: it takes CAP_SYS_RESOURCE to lower it"
        return None

    def go_first(self) -> str | None:
        """Lower this thread's nice value: CAP_SYS_NICE, or a limit that allows it.

        With SCHED_RESET_ON_FORK a new process or thread has 0 again; sched(7).
        """
        try:
            os.setpriority(os.PRIO_PROCESS, 0, NICE_FIRST)
        except PermissionError:
            return (
                "the nice value stays as it is: set LimitNICE=-15 or give CAP_SYS_NICE"
            )
        policy = os.sched_getscheduler(0) | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_getparam(0))
        return None

    def has_capability(self, number: int) -> bool:
        """Look into the effective set."""
        return bool(proc.capabilities() >> number & 1)

    # Servers

    def launch(self, account: Account) -> list[str]:
        """Return setpriv's words.

        It changes the user, drops every capability and arms the parent-death signal
        SIGQUIT, after the change of user, which clears it.
        """
        command = [_find("setpriv")]
        if account.uid != os.geteuid():
            command += ["--reuid", str(account.uid)]
            command += ["--regid", str(account.gid), "--init-groups"]
        if self.has_capability(CAP_SETPCAP):
            command += ["--bounding-set=-all"]
        command += ["--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
        return [*command, "--pdeathsig", "QUIT"]

    def become(self, _account: Account) -> None:
        """Leave it to setpriv; what is ours goes first, and no server may."""
        resource.setrlimit(resource.RLIMIT_NICE, (0, 0))

    def server_environment(self) -> dict[str, str]:
        """Make backends, unlike the postmaster, fair game when memory runs out."""
        return {"PG_OOM_ADJUST_FILE": OOM_FILE, "PG_OOM_ADJUST_VALUE": "0"}

    # Sockets, files, addresses

    def poll(self) -> Poll:
        """Return an epoll instance, whose masks are the same."""
        return select.epoll()

    def peer(self, sock: socket.socket) -> tuple[int, int]:
        """Ask for SO_PEERCRED; unix(7)."""
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid = (int.from_bytes(found[at : at + 4], sys.byteorder) for at in (0, 4))
        return pid, uid

    def limit_silence(
        self, sock: socket.socket, *, idle_s: int, unheard_ms: int
    ) -> None:
        """Set TCP_KEEPIDLE and TCP_USER_TIMEOUT; tcp(7)."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unheard_ms)

    def in_memory(self, path: str) -> bool:
        """Ask statfs(2) for the kind of the file system."""
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(STATFS_BYTES)
        if libc.statfs(os.fsencode(path), buffer) != 0:
            return False
        kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
        return kind in (TMPFS_MAGIC, RAMFS_MAGIC)

    def exchange(self, one: str, other: str) -> None:
        """Call renameat2(2)."""
        libc = ctypes.CDLL(None, use_errno=True)
        here, there = os.fsencode(one), os.fsencode(other)
        if libc.renameat2(AT_FDCWD, here, AT_FDCWD, there, RENAME_EXCHANGE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), one, None, other)

    def remove_addresses(
        self, wanted: frozenset[bytes], say: "Callable[[str], None]"
    ) -> int:
        """Ask the kernel by rtnetlink."""
        return netlink.remove(wanted, say)

    def libraries(self) -> list[str]:
        """Need none but the standard library."""
        return []


def write_oom_score(score: int) -> None:
    """Set the calling process's oom_score_adj.

    Raises:
        PermissionError: Lowering it takes CAP_SYS_RESOURCE.
    """
    fd = os.open(OOM_FILE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


def _find(program: str) -> str:
    for folder in SYSTEM_FOLDERS:
        path = f"{folder}/{program}"
        if os.access(path, os.X_OK):
            return path
    raise ValueError(f"{program}: not found in {':'.join(SYSTEM_FOLDERS)}")
