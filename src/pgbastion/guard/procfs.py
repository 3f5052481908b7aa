"""What ``/proc`` says about processes. Reading it never waits for a disk."""

import os
from collections.abc import Callable

NAMES_OF_POSTGRES = (b"postgres", b"postmaster")
# `readlink` appends this to a directory that was removed.
DELETED = " (deleted)"
GONE = (FileNotFoundError, ProcessLookupError)


class Stat:
    """One line of ``/proc/PID/stat``; ``start`` is in clock ticks since boot."""

    __slots__ = ("name", "parent", "pid", "start", "state")

    def __init__(self, pid: int, line: bytes) -> None:
        # The name may itself hold spaces and brackets: it ends at the last bracket.
        name_end = line.rindex(b")")
        fields = line[name_end + 2 :].split()
        self.pid = pid
        self.name = line[line.index(b"(") + 1 : name_end]
        self.state = chr(fields[0][0])
        self.parent = int(fields[1])
        self.start = int(fields[19])

    @property
    def is_dead(self) -> bool:
        """Tell whether the process runs no code any more."""
        return self.state in "ZXx"


def stat(pid: int) -> Stat | None:
    """Return what the kernel says of ``pid``; None: gone, or not for our eyes.

    Raises:
        OSError: Nobody can tell (no descriptor left, say).
    """
    try:
        line = _read(f"/proc/{pid}/stat")
    except PermissionError:  # the mount option hidepid; never for our own processes
        return None
    return None if line is None else Stat(pid, line)


def start_ticks(pid: int) -> int:
    """Return when ``pid`` was started, in clock ticks since boot; 0: it is gone."""
    found = stat(pid)
    return 0 if found is None or found.is_dead else found.start


def wchan(pid: int) -> str:
    """Return the kernel function in which ``pid`` waits, ``0`` where it is not told."""
    try:
        found = _read(f"/proc/{pid}/wchan")
    except PermissionError:
        return "0"
    return (found or b"0").decode("ascii", "replace").strip() or "0"


def owner(pid: int) -> int | None:
    """Return the effective user of ``pid``, or None if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except GONE:
        return None


def pids() -> list[int]:
    """Return every process that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name[0] in "123456789"]


def descendants(pid: int) -> list[int]:
    """Return the children of ``pid``, their children and so on."""
    children_of = _children if _kernel_lists_children() else _parents_map()
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = children_of(waiting.pop())
        found += children
        waiting += children
    return found


def is_descendant(pid: int, ancestor: int) -> bool:
    """Tell whether ``ancestor`` is a parent of ``pid``, at any distance."""
    found = stat(pid)
    while found is not None and found.parent > 1:
        if found.parent == ancestor:
            return True
        found = stat(found.parent)
    return False


def directory(pid: int) -> str | None:
    """Return the working directory of ``pid``; None: it is gone or dead.

    Raises:
        PermissionError: It is another user's, and CAP_SYS_PTRACE is missing.
    """
    try:
        return os.readlink(f"/proc/{pid}/cwd").removesuffix(DELETED)
    except GONE:
        return None


class Occupant:
    """A process whose working directory is the data directory, or may be."""

    __slots__ = ("is_certain", "name", "parent", "pid", "start")

    def __init__(self, found: Stat, *, is_certain: bool) -> None:
        self.pid = found.pid
        self.name = found.name
        self.parent = found.parent
        self.start = found.start
        self.is_certain = is_certain


def occupants(pgdata: str, uid: int) -> list[Occupant]:
    """Return every process that has ``pgdata`` as its working directory.

    A PostgreSQL process of ``uid`` whose directory may not be read counts, as
    uncertain: what cannot be told must not pass for "nobody is left".
    """
    found = []
    for pid in pids():
        occupant = occupant_at(pid, pgdata, uid)
        if occupant is not None:
            found.append(occupant)
    return found


def occupant_at(pid: int, pgdata: str, uid: int) -> Occupant | None:
    """Return ``pid`` as an occupant of ``pgdata``, or None if it is none."""
    try:
        here = directory(pid)
    except PermissionError:
        found = stat(pid)
        if found is None or found.is_dead or found.name not in NAMES_OF_POSTGRES:
            return None
        return Occupant(found, is_certain=False) if owner(pid) == uid else None
    if here != pgdata:
        return None
    found = stat(pid)
    return None if found is None else Occupant(found, is_certain=True)


def _kernel_lists_children() -> bool:
    # CONFIG_PROC_CHILDREN may be off.
    own = os.getpid()
    return os.path.exists(f"/proc/{own}/task/{own}/children")


def _children(pid: int) -> list[int]:
    # A child is listed under the thread that made it.
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except GONE:
        return []
    found: list[int] = []
    for thread in threads:
        line = _read(f"/proc/{pid}/task/{thread}/children")
        found += map(int, (line or b"").split())
    return found


def _parents_map() -> Callable[[int], list[int]]:
    children: dict[int, list[int]] = {}
    for pid in pids():
        found = stat(pid)
        if found is not None:
            children.setdefault(found.parent, []).append(pid)
    return lambda pid: children.get(pid, [])


def _read(path: str) -> bytes | None:
    """Return the whole of a small file, or None when its process is gone."""
    # Any other failure (no descriptor left, say) must not pass for "it is gone".
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except GONE:
        return None
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
