"""What ``/proc`` says about processes; proc(5). Reading it never waits for a disk."""

import os

from pgbastion.platform.interface import Stat
from pgbastion.platform.parents import parents_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# `readlink` appends this to a directory that was removed.
DELETED = " (deleted)"
GONE = (FileNotFoundError, ProcessLookupError)


def stat(pid: int) -> Stat | None:
    """Return what the kernel says of ``pid``; ``start`` is in clock ticks since boot.

    Raises:
        OSError: Nobody can tell (no descriptor left, say).
    """
    try:
        line = _read(f"/proc/{pid}/stat")
    except PermissionError:  # the mount option hidepid; never for our own processes
        return None
    return None if line is None else parse_stat(pid, line)


def parse_stat(pid: int, line: bytes) -> Stat:
    """Read one line of ``/proc/PID/stat``."""
    # The name may itself hold spaces and brackets: it ends at the last bracket.
    name_end = line.rindex(b")")
    fields = line[name_end + 2 :].split()
    return Stat(
        pid,
        name=line[line.index(b"(") + 1 : name_end],
        state=chr(fields[0][0]),
        parent=int(fields[1]),
        start=int(fields[19]),
    )


def waits_in(pid: int) -> str:
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


def children() -> "Callable[[int], list[int]]":
    """Return what answers with the children of a process."""
    return _children if _kernel_lists_children() else parents_map(pids(), _parent)


def directory(pid: int) -> str | None:
    """Return the working directory of ``pid``; None: it is gone or dead.

    Raises:
        PermissionError: It is another user's, and CAP_SYS_PTRACE is missing.
    """
    try:
        return os.readlink(f"/proc/{pid}/cwd").removesuffix(DELETED)
    except GONE:
        return None


def command_line(pid: int) -> str:
    """Return its words, joined by spaces; empty: gone, or not for our eyes."""
    try:
        found = _read(f"/proc/{pid}/cmdline")
    except PermissionError:
        return ""
    return (found or b"").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def lock_holder(path: str) -> int | None:
    """Return the process that has a lock on a file; None: none that we see."""
    return next((pid for pid in pids() if _has_lock(pid, path)), None)


def capabilities() -> int:
    """Return the effective capabilities of this process, a bit each."""
    for line in (_read("/proc/self/status") or b"").splitlines():
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _has_lock(pid: int, path: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            if os.readlink(f"{folder}/{name}") == path:
                return b"FLOCK" in (_read(f"/proc/{pid}/fdinfo/{name}") or b"")
    except OSError:
        # It is gone, or another user's.
        return False
    return False


def _parent(pid: int) -> int | None:
    found = stat(pid)
    return None if found is None else found.parent


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
