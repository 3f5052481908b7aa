"""Read what PostgreSQL's programs and files say. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, format_lsn, parse_lsn


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ServerVersion:
    """A release of PostgreSQL, such as 15.18; a beta has minor 0."""

    major: int
    minor: int

    @property
    def number(self) -> int:
        """The number as ``server_version_num`` gives it."""
        return self.major * 10_000 + self.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


def parse_version(text: str) -> ServerVersion:
    """Read the answer of ``postgres --version``.

    Raises:
        PostgresError: It is no such answer.
    """
    match = _VERSION.search(text)
    if match is None:
        raise PostgresError(f"not a version of PostgreSQL: {text.strip()[:80]!r}")
    return ServerVersion(major=int(match[1]), minor=int(match[2] or 0))


class ControlState(StrEnum):
    """The states that pg_control knows, in pg_controldata's words."""

    STARTING_UP = "starting up"
    SHUT_DOWN = "shut down"
    SHUT_DOWN_IN_RECOVERY = "shut down in recovery"
    SHUTTING_DOWN = "shutting down"
    IN_CRASH_RECOVERY = "in crash recovery"
    IN_ARCHIVE_RECOVERY = "in archive recovery"
    IN_PRODUCTION = "in production"

    @property
    def is_clean(self) -> bool:
        """Whether the server ended cleanly."""
        return self in (ControlState.SHUT_DOWN, ControlState.SHUT_DOWN_IN_RECOVERY)

    @property
    def is_standby(self) -> bool:
        """Whether the server was last in recovery from a primary or an archive."""
        return self in (
            ControlState.SHUT_DOWN_IN_RECOVERY,
            ControlState.IN_ARCHIVE_RECOVERY,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlData:
    """What pg_control holds, of what we need."""

    state: ControlState
    system_identifier: str
    control_version: int
    catalog_version: int
    checkpoint: WalEnd
    """Where the latest checkpoint's record begins, and its timeline."""
    redo: Lsn
    min_recovery: WalEnd | None
    """Up to where a standby must replay before it is consistent."""
    backup_in_progress: bool
    """A base backup whose end was not replayed yet."""
    settings: Mapping[str, int]
    """Limits that a standby must have at least, as they were on the primary."""
    wal_log_hints: bool
    checksums: bool
    wal_block_bytes: int
    wal_segment_bytes: int

    @property
    def can_rewind(self) -> bool:
        """Whether pg_rewind can tell which blocks changed."""
        return self.wal_log_hints or self.checksums


# pg_controldata's words for the settings that a standby must not undercut.
FLOORS: Final[Mapping[str, str]] = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}


def parse_controldata(text: str) -> ControlData:
    """Read the output of pg_controldata (in the C locale).

    Raises:
        PostgresError: It is incomplete, or says that the file is damaged.
    """
    if "CRC checksum does not match" in text:
        raise PostgresError(
            "pg_control is damaged or was being written: wrong checksum"
        )
    fields = {
        key.strip(): value.strip()
        for key, separator, value in (line.partition(":") for line in text.splitlines())
        if separator
    }
    try:
        return _control_data(fields)
    except (KeyError, ValueError) as exc:
        raise PostgresError(f"cannot understand pg_controldata: {exc}") from exc


def _control_data(fields: Mapping[str, str]) -> ControlData:
    minimum = parse_lsn(fields["Minimum recovery ending location"])
    backup = parse_lsn(fields["Backup start location"])
    return ControlData(
        state=ControlState(fields["Database cluster state"]),
        system_identifier=str(int(fields["Database system identifier"])),
        control_version=int(fields["pg_control version number"]),
        catalog_version=int(fields["Catalog version number"]),
        checkpoint=WalEnd(
            timeline=Timeline(int(fields["Latest checkpoint's TimeLineID"])),
            lsn=parse_lsn(fields["Latest checkpoint location"]),
        ),
        redo=parse_lsn(fields["Latest checkpoint's REDO location"]),
        min_recovery=None
        if not minimum
        else WalEnd(
            timeline=Timeline(int(fields["Min recovery ending loc's timeline"])),
            lsn=minimum,
        ),
        backup_in_progress=backup != 0
        or fields["End-of-backup record required"] == "yes",
        settings={name: int(fields[label]) for name, label in FLOORS.items()},
        wal_log_hints=fields["wal_log_hints setting"] == "on",
        checksums=int(fields["Data page checksum version"]) != 0,
        wal_block_bytes=int(fields["WAL block size"]),
        wal_segment_bytes=int(fields["Bytes per WAL segment"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WalRecord:
    """One record of the WAL as pg_waldump describes it."""

    begin: Lsn
    length: int
    manager: str
    description: str

    @property
    def is_shutdown_checkpoint(self) -> bool:
        """Whether a server ended cleanly with this record."""
        return self.manager == "XLOG" and self.description.startswith(
            "CHECKPOINT_SHUTDOWN"
        )

    @property
    def is_switch(self) -> bool:
        """Whether the rest of the segment is unused."""
        return self.manager == "XLOG" and self.description.startswith("SWITCH")


_RECORD: Final = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*(\d+), tx:\s*\d+,"
    r" lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F]+/[0-9A-F]+, desc: (.*)"
)


def parse_last_record(text: str) -> WalRecord | None:
    """Return the last record of pg_waldump's output (or of the end of it)."""
    for line in reversed(text.splitlines()):
        if match := _RECORD.match(line):
            return WalRecord(
                begin=parse_lsn(match[3]),
                length=int(match[2]),
                manager=match[1],
                description=match[4].strip(),
            )
    return None


_AFTER_SOUND: Final = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+):")


def parse_last_sound(text: str) -> Lsn | None:
    """Return where the last record begins before the one that pg_waldump stopped at.

    None: it did not stop at one, or has read none.
    """
    match = _AFTER_SOUND.search(text)
    return parse_lsn(match[1]) if match else None


SHORT_PAGE_HEADER: Final = 24
LONG_PAGE_HEADER: Final = 40
ALIGNMENT: Final = 8


def record_end(record: WalRecord, *, block_bytes: int, segment_bytes: int) -> Lsn:
    """Return where a record ends: the position that a standby reports as flushed.

    A record that crosses pages is interrupted by their headers, the one of a segment's
    first page being longer; its end is aligned (access/xlog_internal.h).
    """
    if record.is_switch:
        return Lsn(-(-record.begin // segment_bytes) * segment_bytes)
    position, left = record.begin, record.length
    while left > 0:
        if position % block_bytes == 0:
            first = position % segment_bytes == 0
            position = Lsn(
                position + (LONG_PAGE_HEADER if first else SHORT_PAGE_HEADER)
            )
        taken = min(left, block_bytes - position % block_bytes)
        position = Lsn(position + taken)
        left -= taken
    return Lsn(-(-position // ALIGNMENT) * ALIGNMENT)


def segment_name(timeline: Timeline, lsn: Lsn, segment_bytes: int) -> str:
    """Return the name of the WAL file that holds ``lsn``."""
    number = lsn // segment_bytes
    per_id = (1 << 32) // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a timeline was left for the next one of a history."""

    parent: Timeline
    lsn: Lsn
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A timeline and the forks that lead to it, oldest first."""

    timeline: Timeline
    forks: tuple[Fork, ...] = ()

    def end_of(self, timeline: Timeline) -> Lsn | None:
        """Return where this history leaves ``timeline``; None: not at all, or never."""
        return next((f.lsn for f in self.forks if f.parent == timeline), None)

    def contains(self, timeline: Timeline) -> bool:
        """Tell whether ``timeline`` is this history's own or one of its ancestors."""
        return timeline == self.timeline or self.end_of(timeline) is not None

    @property
    def begin(self) -> Lsn | None:
        """Where the timeline forked off; None for the first one."""
        return self.forks[-1].lsn if self.forks else None

    def up_to(self, timeline: Timeline) -> "History":
        """Return the history of an ancestor."""
        forks = tuple(f for f in self.forks if f.parent < timeline)
        return History(timeline=timeline, forks=forks)


_FORK: Final = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)\s*(.*)")


def parse_history(timeline: Timeline, text: str) -> History:
    """Read a timeline history file.

    Raises:
        PostgresError: A line has another form, or the order is wrong.
    """
    forks: list[Fork] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _FORK.fullmatch(line)
        if match is None:
            raise PostgresError(
                f"history of timeline {timeline}: cannot understand {line[:80]!r}"
            )
        fork = Fork(
            parent=Timeline(int(match[1])), lsn=parse_lsn(match[2]), reason=match[3]
        )
        if fork.parent >= timeline or (forks and fork.parent <= forks[-1].parent):
            raise PostgresError(f"history of timeline {timeline}: out of order")
        forks.append(fork)
    return History(timeline=timeline, forks=tuple(forks))


def render_history(history: History) -> str:
    """Write a timeline history file."""
    return "".join(
        f"{fork.parent}\t{format_lsn(fork.lsn)}\t{fork.reason}\n"
        for fork in history.forks
    )


def history_name(timeline: Timeline) -> str:
    """Return the name of a timeline's history file."""
    return f"{timeline:08X}.history"


_PROGRESS: Final = re.compile(r"(\d+)/(\d+) kB")


def parse_progress(text: str) -> tuple[int, int] | None:
    """Return (done, total) in bytes from a progress line of a copying program."""
    matches = _PROGRESS.findall(text)
    if not matches:
        return None
    done, total = matches[-1]
    return int(done) * 1024, int(total) * 1024
