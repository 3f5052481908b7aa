"""Processes as /proc shows them: found, signalled and ended one by one.

A process is known by pid and start time, so that a signal never reaches a stranger
that was given the pid of one that ended.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.waits import PROCESS_GONE_S, wait_for

_PROC: Final = Path("/proc")
# Stopped, stopped by a tracer, in a wait of the kernel's (stops when that ends), gone.
_STOPPED: Final = ("T", "t", "D", "")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process that was seen running; ``started`` is in clock ticks since boot."""

    pid: int
    started: int


def find(pid: int) -> Process | None:
    """Return the process with this pid; None: there is none, or it is a zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]))


def parent(process: Process) -> int:
    """Return the pid of the parent, 0 if the process has ended."""
    fields = _stat(process.pid)
    return int(fields[1]) if fields is not None and is_alive(process) else 0


def state(process: Process) -> str:
    """Return the letter of the state (R, S, D, T, ...), "" if it has ended."""
    fields = _stat(process.pid)
    return fields[0] if fields is not None and is_alive(process) else ""


def is_alive(process: Process) -> bool:
    """Tell whether it still runs."""
    return find(process.pid) == process


def every() -> Iterator[Process]:
    """Yield every process of the machine."""
    for entry in os.listdir(_PROC):  # noqa: PTH208 - pathlib is ten times slower here
        if entry.isdecimal() and (process := find(int(entry))) is not None:
            yield process


def descendants(root: Process) -> list[Process]:
    """Return the children of ``root``, theirs, and so on; parents come first."""
    children: dict[int, list[Process]] = {}
    for process in every():
        children.setdefault(parent(process), []).append(process)
    found: list[Process] = []
    queue = [root]
    while queue:
        own = children.get(queue.pop(0).pid, [])
        found += own
        queue += own
    return found


def working_below(directory: Path) -> list[Process]:
    """Return the processes whose working directory is ``directory`` or below it."""
    prefix = str(directory)
    return [
        process
        for process in every()
        if (cwd := _readlink(process, "cwd")) == prefix or cwd.startswith(prefix + "/")
    ]


def in_network(inode: int) -> list[Process]:
    """Return the processes in the network namespace with this inode number."""
    name = f"net:[{inode}]"
    return [process for process in every() if _readlink(process, "ns/net") == name]


def marked(variable: str, prefix: str) -> list[Process]:
    """Return the processes whose environment has a value of ``variable`` like that."""
    wanted = f"{variable}={prefix}".encode()
    return [
        process
        for process in every()
        if any(
            entry.startswith(wanted) for entry in _read(process, "environ").split(b"\0")
        )
    ]


def with_argument(text: str) -> list[Process]:
    """Return the processes that have ``text`` in an argument, but not this one."""
    return [
        process
        for process in every()
        if process.pid != os.getpid() and text in command_line(process)
    ]


def command_line(process: Process) -> str:
    """Return the arguments, separated by spaces; "" if the process has ended."""
    return _read(process, "cmdline").replace(b"\0", b" ").decode(errors="replace")


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal; return False if the process has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds on to whoever has the pid now: look before the signal.
        if find(process.pid) != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def freeze(find_them: Callable[[], list[Process]]) -> list[Process]:
    """Stop all that ``find_them`` finds, in its order, and return them.

    A process that was started meanwhile is found in a further pass; the passes end
    when all that is found has stopped.
    """
    frozen: list[Process] = []

    def all_stopped() -> bool:
        found = find_them()
        new = [process for process in found if process not in frozen]
        for process in new:
            send(process, signal.SIGSTOP)
        frozen.extend(new)
        return not new and all(state(process) in _STOPPED for process in found)

    wait_for("processes to be frozen", all_stopped, PROCESS_GONE_S, every_s=0.001)
    return frozen


def resume(processes: Iterable[Process]) -> None:
    """Thaw the processes, in the order given."""
    for process in processes:
        send(process, signal.SIGCONT)


def kill(processes: Iterable[Process]) -> None:
    """Kill the processes at one time and wait until all have ended."""
    doomed = list(processes)
    for process in doomed:
        send(process, signal.SIGKILL)
    wait_for(
        f"processes to end: {[command_line(process) for process in doomed]}",
        lambda: not any(is_alive(process) for process in doomed),
        PROCESS_GONE_S,
        every_s=0.005,
    )


def kill_until_none(find_them: Callable[[], list[Process]]) -> None:
    """Kill what ``find_them`` finds, again and again until it finds none.

    Raises:
        LabError: Some are still there after ``PROCESS_GONE_S`` seconds.
    """

    def none_left() -> bool:
        left = [process for process in find_them() if process.pid != os.getpid()]
        for process in left:
            send(process, signal.SIGKILL)
        return not left

    wait_for("processes to end", none_left, PROCESS_GONE_S, every_s=0.02)


def cpu_seconds(process: Process) -> float:
    """Return the processor time that the process has used so far."""
    fields = _stat(process.pid)
    if fields is None:
        return 0.0
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(process: Process) -> int:
    """Return the memory of the process, shared pages divided among those who share."""
    for line in _read(process, "smaps_rollup").decode().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _read(process: Process, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return (_PROC / str(process.pid) / name).read_bytes()
    return b""


def _readlink(process: Process, name: str) -> str:
    with contextlib.suppress(OSError):
        return str((_PROC / str(process.pid) / name).readlink())
    return ""
