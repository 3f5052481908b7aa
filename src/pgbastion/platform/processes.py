"""What can be said of processes, whatever system tells it."""

from pgbastion.platform.choice import current
from pgbastion.platform.interface import start_of_living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgbastion.platform.interface import Stat

NAMES_OF_POSTGRES = (b"postgres", b"postmaster", b"edb-postgres")


def stat(pid: int) -> "Stat | None":
    """Return what is known of ``pid``; None: gone, or not for our eyes.

    Raises:
        OSError: Nobody can tell (no descriptor left, say).
    """
    return current().stat(pid)


def start_of(pid: int) -> int:
    """Return when ``pid`` was started, in the platform's own unit; 0: it is gone."""
    return start_of_living(stat(pid))


def descendants(pid: int) -> list[int]:
    """Return the children of ``pid``, their children and so on."""
    children_of = current().children()
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


class Occupant:
    """A process whose working directory is the data directory, or may be."""

    __slots__ = ("is_certain", "name", "parent", "pid", "start")

    def __init__(self, found: "Stat", *, is_certain: bool) -> None:
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
    for pid in current().pids():
        occupant = occupant_at(pid, pgdata, uid)
        if occupant is not None:
            found.append(occupant)
    return found


def occupant_at(pid: int, pgdata: str, uid: int) -> Occupant | None:
    """Return ``pid`` as an occupant of ``pgdata``, or None if it is none."""
    platform = current()
    try:
        here = platform.directory(pid)
    except PermissionError:
        found = platform.stat(pid)
        if found is None or found.is_dead or found.name not in NAMES_OF_POSTGRES:
            return None
        return Occupant(found, is_certain=False) if platform.owner(pid) == uid else None
    if here != pgdata:
        return None
    found = platform.stat(pid)
    return None if found is None else Occupant(found, is_certain=True)
