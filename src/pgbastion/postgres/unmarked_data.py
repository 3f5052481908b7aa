"""What is in a data directory that pgbastion did not make: for a take-over.

A postmaster is its process id, program and working directory together: an id alone is
given to somebody else after a restart of the machine (safety rule 40). When it began,
by the wall clock, is no part of it: that clock may have been set since.
"""

from dataclasses import dataclass
from pathlib import Path

from pgbastion.errors import PostgresError
from pgbastion.platform.choice import current
from pgbastion.platform.processes import NAMES_OF_POSTGRES
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.mark import MARK_NAME
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.parse import ControlData
from pgbastion.postgres.staging import is_empty

# postmaster.pid: one item a line (miscadmin.h, LOCK_FILE_LINE_*).
_PID, _DATA_DIR, _START, _PORT, _SOCKET_DIR = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostmasterFile:
    """The content of ``postmaster.pid``."""

    pid: int
    data_dir: str
    port: int | None
    socket_dir: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
    """A running postmaster whose identity was checked."""

    pid: int
    start: int
    """When it was started, in the platform's unit: with the pid its identity."""
    port: int | None
    socket_dir: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmarkedData:
    """What a data directory holds."""

    empty: bool
    marked: bool = False
    major: int | None = None
    """The version of PostgreSQL that made it; None: there is no cluster in it."""
    control: ControlData | None = None
    postmaster: Postmaster | None = None
    """The server that runs on it."""
    has_standby_signal: bool = False


async def look_around(paths: PgPaths, files: Files, offline: Offline) -> UnmarkedData:
    """Look into a data directory and at the process that may run on it.

    Raises:
        PostgresError: It cannot be read, which is not the same as empty; or a cluster
            in it is damaged.
    """
    data_dir = paths.data_dir
    if await files.run(f"list {data_dir}", lambda: is_empty(data_dir)):
        return UnmarkedData(empty=True)
    version = await files.read(data_dir / "PG_VERSION")
    if version is None:
        return UnmarkedData(empty=False)
    lock = await files.read(data_dir / "postmaster.pid")
    return UnmarkedData(
        empty=False,
        marked=await files.read(data_dir / MARK_NAME) is not None,
        major=_number(version.strip()),
        control=await offline.control(),
        postmaster=None if lock is None else identify(parse_lock(lock), data_dir),
        has_standby_signal=await files.read(data_dir / "standby.signal") is not None,
    )


async def check_unoccupied(paths: PgPaths, files: Files) -> None:
    """See that nobody's server runs in a directory whose own server has ended.

    Another daemon may have been given the same directory by mistake.

    Raises:
        PostgresError: One runs there, or that cannot be told.
    """
    data_dir = paths.data_dir
    text = await files.read(data_dir / "postmaster.pid")
    running = None if text is None else identify(parse_lock(text), data_dir)
    if running is not None:
        raise PostgresError(
            f"PostgreSQL runs in {data_dir} as process {running.pid}, and this daemon "
            "did not start it: give each node a postgresql.data_dir of its own"
        )


def parse_lock(text: str) -> PostmasterFile | None:
    """Read ``postmaster.pid``; None: it is of a single-user server, or incomplete."""
    lines = text.splitlines()
    if len(lines) <= _START:
        return None
    pid = _number(lines[_PID])
    if pid is None or pid <= 0:
        return None
    return PostmasterFile(
        pid=pid,
        data_dir=lines[_DATA_DIR],
        port=_number(lines[_PORT]) if len(lines) > _PORT else None,
        socket_dir=(lines[_SOCKET_DIR] or None) if len(lines) > _SOCKET_DIR else None,
    )


def identify(lock: PostmasterFile | None, data_dir: Path) -> Postmaster | None:
    """Return the process that ``lock`` names, if it is the postmaster of ``data_dir``.

    Raises:
        PostgresError: There is such a process, and who it is cannot be read.
    """
    if lock is None:
        return None
    platform = current()
    try:
        process = platform.stat(lock.pid)
        working = platform.directory(lock.pid)
    except OSError as exc:
        raise PostgresError(f"cannot tell who process {lock.pid} is: {exc}") from exc
    if process is None or process.name not in NAMES_OF_POSTGRES:
        return None
    if working is None or working != str(data_dir.resolve()):
        return None
    return Postmaster(
        pid=lock.pid,
        start=process.start,
        port=lock.port,
        socket_dir=lock.socket_dir,
    )


def _number(text: str) -> int | None:
    return int(text) if text.strip().lstrip("-").isdecimal() else None
