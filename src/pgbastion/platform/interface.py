"""What the operating system is asked for, and a process as it describes one."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Protocol
else:
    Protocol = object


class Stat:
    """A process: who it is, whose child, and whether it runs.

    Args:
        pid: Its number.
        name: Its program's, as the kernel shortens it.
        state: One letter, as `ps` prints it.
        parent: Its parent's number.
        start: With the pid its identity: no other process has both.
    """

    __slots__ = ("name", "parent", "pid", "start", "state")

    def __init__(
        self, pid: int, *, name: bytes, state: str, parent: int, start: int
    ) -> None:
        self.pid = pid
        self.name = name
        self.state = state
        self.parent = parent
        self.start = start

    @property
    def is_dead(self) -> bool:
        """Tell whether the process runs no code any more."""
        return self.state in "ZXx"


def start_of_living(found: "Stat | None") -> int:
    """Return a process's start; 0: it is gone, or runs no code any more."""
    return 0 if found is None or found.is_dead else found.start


class Account:
    """As whom a server runs.

    The daemon looks it up: a directory service that hangs must not hold the guard.
    """

    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, name: str, *, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home


class Poll(Protocol):
    """Waits for descriptors; masks are those of poll(2)."""

    def register(self, fd: int, eventmask: int) -> None:
        """Watch a descriptor."""

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch it for something else."""

    def unregister(self, fd: int) -> None:
        """Watch it no more."""

    def poll(self, timeout: float) -> "list[tuple[int, int]]":
        """Return what is ready within so many seconds."""


class Watch(Protocol):
    """Handles of processes: descriptors that become readable at a process's end."""

    weaker: "tuple[str, ...]"

    def open_handle(self, pid: int) -> int:
        """Return a handle of a process; whoever gets it closes it.

        Raises:
            ProcessLookupError: There is no such process.
            OSError: No descriptor is free.
        """

    def open_peer(self, sock: "socket.socket", pid: int) -> int:
        """Return a handle of the process at the other end of a Unix socket.

        Raises:
            OSError: The peer has ended, or is in a PID namespace of its own.
        """

    def send_to(self, handle: int, pid: int, number: int) -> None:
        """Send a signal to the process of a handle.

        Raises:
            ProcessLookupError: It has ended.
            PermissionError: It is another user's.
        """

    def send(self, pid: int, number: int, still: "Callable[[int], bool]") -> bool:
        """Send a signal to ``pid`` if ``still(pid)`` holds for the one that gets it.

        Returns:
            Whether the signal was sent.
        """


class Platform(Protocol):
    """One operating system."""

    name: str
    weaker: "tuple[str, ...]"
    """What is promised less here than on Linux, a clause each; empty: nothing."""
    has_addresses: bool
    """Whether virtual addresses can be set and removed."""
    has_kernel_path: bool
    """Whether the kernel can be asked to pass a session's data on."""
    has_epoll: bool
    """Whether descriptors are waited for by epoll, and so by uvloop."""
    has_tcp_info: bool
    """Whether the kernel tells what it knows of a connection (tcp_info.py)."""
    ends_orphans: bool
    """Whether the kernel ends a server whose guard has died."""
    programs: "tuple[str, ...]"
    """What has to be installed so that a server can be started."""
    run_base: "str | None"
    """Where run files go although it is not in memory; None: nowhere."""
    watch: Watch

    # Processes

    def stat(self, pid: int) -> "Stat | None":
        """Return what is known of ``pid``; None: gone, or not for our eyes.

        Raises:
            OSError: Nobody can tell (no descriptor left, say).
        """

    def pids(self) -> "list[int]":
        """Return every process that can be seen."""

    def children(self) -> "Callable[[int], list[int]]":
        """Return what answers with the children of a process, as of now."""

    def owner(self, pid: int) -> "int | None":
        """Return the effective user of ``pid``, or None if it is gone."""

    def directory(self, pid: int) -> "str | None":
        """Return the working directory of ``pid``; None: it is gone or dead.

        Raises:
            PermissionError: It is another user's, and we may not look.
        """

    def command_line(self, pid: int) -> str:
        """Return its words, joined by spaces; empty: gone, or not for our eyes."""

    def waits_in(self, pid: int) -> str:
        """Return where in the kernel ``pid`` waits; ``0`` where it is not told."""

    def lock_holder(self, path: str) -> "int | None":
        """Return the process that has a lock on a file; None: none that we see."""

    # This process

    def adopt_orphans(self) -> None:
        """Become the parent of orphaned descendants.

        Raises:
            OSError: The kernel refused.
        """

    def lock_memory(self) -> "str | None":
        """Keep every page of this process in memory; return a warning if refused."""

    def spare_from_oom(self) -> "str | None":
        """Ask the out-of-memory killer to pass over; return a warning if refused."""

    def go_first(self) -> "str | None":
        """Have this thread run before others; return a warning if refused.

        Processes that it starts from then on do not.
        """

    def has_capability(self, number: int) -> bool:
        """Tell whether this process has one of Linux's capabilities, or needs none."""

    # Servers

    def launch(self, account: Account) -> "list[str]":
        """Return the words before the server's, which change user and rights.

        Raises:
            ValueError: A program that it takes is missing.
        """

    def become(self, account: Account) -> None:
        """Change this process's user, where no program of `launch` does.

        Raises:
            OSError: It may not.
        """

    def server_environment(self) -> "dict[str, str]":
        """Return the variables by which a server makes its backends killable."""

    # Sockets, files, addresses

    def poll(self) -> Poll:
        """Return a new set of descriptors to wait for."""

    def peer(self, sock: "socket.socket") -> "tuple[int, int]":
        """Return pid and user of the process at the other end of a Unix socket."""

    def limit_silence(
        self, sock: "socket.socket", *, idle_s: int, unheard_ms: int
    ) -> None:
        """Set when a quiet TCP peer is first asked, and how long one may not answer."""

    def in_memory(self, path: str) -> bool:
        """Tell whether an existing path lies on a file system in memory."""

    def exchange(self, one: str, other: str) -> None:
        """Swap the names of two directories in one step.

        Raises:
            OSError: The system cannot, or the file system.
        """

    def remove_addresses(
        self, wanted: "frozenset[bytes]", say: "Callable[[str], None]"
    ) -> int:
        """Remove these addresses wherever they are set; return how many were there.

        Raises:
            OSError: It cannot be done now.
        """

    def libraries(self) -> "list[str]":
        """Return the directories that have to be on the path beside the library's."""
