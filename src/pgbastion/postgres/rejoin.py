"""How a stopped server becomes a standby of the primary again. Pure.

Decided by histories, never by a guess: the end of valid WAL on the local disk against
the timelines that lead to the primary's (safety rules 39 and 45 to 50).
"""

from dataclasses import dataclass

from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd, format_lsn
from pgbastion.postgres.mark import Mark
from pgbastion.postgres.parse import ControlData, History


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalState:
    """What the files of the stopped server say."""

    control: ControlData
    major: int
    """The version of PostgreSQL that made the directory."""
    programs_major: int
    """The version of the programs in ``bin_dir``."""
    wal_end: WalEnd | None
    """Up to where there is WAL, or WAL is needed; None: it cannot be told."""
    history: History | None
    """Of the timeline of ``wal_end``; None: its file is missing."""
    lacks_wal: bool = False
    """The data are consistent only with WAL that is not here."""
    has_backup_label: bool = False
    """A base backup that was never started to the end."""
    unfinished: bool = False
    """A rewind or an exchange of directories was cut short."""
    has_strayed: bool = False
    """Its server wrote as a primary on a timeline that no epoch gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """What the primary says about itself."""

    system_identifier: str
    major: int
    in_recovery: bool
    history: History
    """Of the timeline on which it writes."""
    written: Lsn
    """How far it has written on that timeline, flushed or not: a rewind copies both."""
    checkpoint_timeline: Timeline
    """Where its latest checkpoint is: what pg_rewind believes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Start as standby: all that is here is in the primary's history."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashRecover:
    """Replay what is here, without clients: pg_rewind needs an orderly end."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """Take back what the primary does not have."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Nothing less than a copy will do."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Decide again a little later: the primary is not ready to be followed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Touch nothing: a human has to look."""

    reason: str


Step = Follow | CrashRecover | Rewind | Copy | Wait | Refuse


def decide_rejoin(local: LocalState, source: SourceState) -> Step:
    """Return the next step from a stopped data directory to a standby."""
    refused = _refusal(local, source)
    if refused is not None:
        return refused
    if source.in_recovery:
        return Wait(reason="the primary is still in recovery")
    if local.unfinished:
        return Copy(reason="a rewind or copy was cut short")
    if local.wal_end is None and local.has_backup_label:
        return Follow(reason="a base backup that has not been started yet")
    if local.wal_end is None:
        return Copy(reason="the local WAL cannot be read from the latest checkpoint on")
    excess = find_excess(local.wal_end, source.history, source.written)
    if excess is None and _is_another_timeline(local, source, local.wal_end):
        excess = f"{local.wal_end}, another timeline than the primary's of this id"
    if excess is None:
        return Follow(reason=f"{local.wal_end} is in the primary's history")
    return _take_back(local, source, local.wal_end, excess)


def find_excess(end: WalEnd, history: History, written: Lsn) -> str | None:
    """Tell what a disk has that a history lacks, in words; None: nothing.

    Args:
        end: The end of valid WAL on the disk.
        history: The history to compare with.
        written: Where its own timeline ends by now.
    """
    if end.timeline == history.timeline:
        if end.lsn <= written:
            return None
        return f"{end}, where the primary has only {format_lsn(written)}"
    fork = history.end_of(end.timeline)
    if fork is None:
        return f"{end}, a timeline that leads not to timeline {history.timeline}"
    if end.lsn <= fork:
        return None
    return f"{end}, which timeline {history.timeline} left at {format_lsn(fork)}"


def has_strayed(
    mark: Mark, control: ControlData, end: WalEnd, *, has_backup_label: bool
) -> bool:
    """Tell whether a stopped server wrote on a timeline that no epoch gave it.

    It was promoted past the daemon: by a person, while its node was cut off perhaps.
    PostgreSQL takes the next free id, and the cluster may have given that one to the
    promotion of another node: neither id nor place of such WAL says anything.
    """
    if control.state.is_standby or has_backup_label or mark.epoch == 0:
        return False
    if mark.promoted_epoch == 0:
        return True
    return mark.promoted_timeline not in (0, end.timeline)


def _is_another_timeline(local: LocalState, source: SourceState, end: WalEnd) -> bool:
    """Tell whether the primary's timeline of this id began elsewhere.

    Two that began at the same place have the same history: there the local server is
    known to have written what it was not to write.
    """
    if not source.history.contains(end.timeline):
        return False
    if local.has_strayed:
        return True
    there = source.history.up_to(end.timeline)
    return local.history is not None and _places(local.history) != _places(there)


def _places(history: History) -> list[tuple[Timeline, Lsn]]:
    return [(fork.parent, fork.lsn) for fork in history.forks]


def _refusal(local: LocalState, source: SourceState) -> Refuse | None:
    if local.major != local.programs_major:
        return Refuse(
            reason=f"the data directory is of PostgreSQL {local.major}, the programs"
            f" are of {local.programs_major}"
        )
    if local.control.system_identifier != source.system_identifier:
        return Refuse(
            reason="the data directory belongs to another cluster: its system"
            f" identifier is {local.control.system_identifier}, the primary's is"
            f" {source.system_identifier}"
        )
    if source.major != local.programs_major:
        return Refuse(
            reason=f"the primary runs PostgreSQL {source.major}, the programs here are"
            f" of {local.programs_major}"
        )
    return None


def _take_back(
    local: LocalState, source: SourceState, end: WalEnd, excess: str
) -> Step:
    obstacle = _obstacle(local, source, end)
    if obstacle is not None:
        return Copy(reason=f"{obstacle}; here is {excess}")
    if not local.control.state.is_clean:
        return CrashRecover(reason=f"it ended {local.control.state}; here is {excess}")
    if source.checkpoint_timeline != source.history.timeline:
        return Wait(reason="the primary has written no checkpoint on its timeline yet")
    return Rewind(reason=f"here is {excess}")


def _obstacle(local: LocalState, source: SourceState, end: WalEnd) -> str | None:
    """Tell why pg_rewind cannot help."""
    if not local.control.can_rewind:
        return "neither checksums nor wal_log_hints were on"
    if end.timeline == source.history.timeline:
        return "it is on the primary's own timeline"
    if _is_another_timeline(local, source, end):
        return "pg_rewind takes timelines of one id for the same"
    if local.control.backup_in_progress or local.has_backup_label:
        return "a base backup was not replayed to its end"
    if local.lacks_wal:
        return f"the data need WAL up to {local.control.min_recovery}, not all here"
    if local.history is None:
        return f"the history of timeline {end.timeline} is missing"
    if not _related(local.history, source.history):
        return "the histories have no timeline in common"
    return None


def _related(one: History, other: History) -> bool:
    return any(
        other.contains(timeline)
        for timeline in (one.timeline, *(fork.parent for fork in one.forks))
    )
