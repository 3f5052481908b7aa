"""A control group for one node's PostgreSQL: processor time apart from the others'.

Without one, a thousand servers' processes that end at once share the processors with
the daemon each like each: whatever priority it has, its turn comes after theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.node import Node

_MOUNTS: Final = Path("/proc/self/mounts")
_PROCESSES: Final = "cgroup.procs"


@contextmanager
def servers_apart(node: Node) -> Iterator[None]:
    """Have the server that runs, and what it starts, in a group of its own.

    Raises:
        CannotRun: This machine has no such groups, or we may not make one.
    """
    above = _above()
    group = above / f"{node.directory.parent.name}-{node.name}"
    try:
        group.mkdir()
        for process in node.postgres():
            (group / _PROCESSES).write_text(str(process.pid))
    except OSError as exc:
        _remove(group, above)
        raise CannotRun("PostgreSQL cannot have a control group of its own") from exc
    try:
        yield
    finally:
        _remove(group, above)


def _above() -> Path:
    """Return the group below which processor time is shared; cgroups(7)."""
    for line in _MOUNTS.read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        mounted = Path(place)
        if kind == "cgroup" and "cpu" in options.split(","):
            return mounted
        if kind == "cgroup2":
            with suppress(OSError):
                (mounted / "cgroup.subtree_control").write_text("+cpu")
                return mounted
    raise CannotRun("no control group shares out processor time here")


def _remove(group: Path, above: Path) -> None:
    if not group.exists():
        return
    for pid in (group / _PROCESSES).read_text().split():
        # It may have ended meanwhile.
        with suppress(OSError):
            (above / _PROCESSES).write_text(pid)
    group.rmdir()
