"""A Raft directory whose daemon does not run: what is in it, and a new beginning."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgbastion.consensus import _engine
from pgbastion.consensus.engine_errors import as_consensus_error

READS_MAX: Final = 5
READ_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One entry of the log; empty data: a leader's own one, or a change of members."""

    index: int
    term: int
    proposal_id: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftDirectory:
    """What a Raft directory says, all of it checked."""

    cluster_id: str
    member_id: int
    term: int
    committed: int
    """At least so far it is committed; the newest entries may be, too."""
    base_index: int
    base_data: bytes
    """The state at ``base_index``; empty at 0."""
    entries: tuple[LogEntry, ...]
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    known_ids: tuple[int, ...]
    segments: int
    torn: tuple[str, int] | None
    """File and offset of a write that a crash cut off."""

    @property
    def last_index(self) -> int:
        """The index of the newest entry."""
        return self.entries[-1].index if self.entries else self.base_index


def read_directory(path: Path) -> RaftDirectory | None:
    """Read a Raft directory and check all of it; None: nobody has been there.

    A daemon may be at work in it: what it writes meanwhile can look like damage, so
    damage counts only when it is found again and again.

    Raises:
        ConsensusError: Something in it is damaged or missing; the message says where.
    """
    raw = _read_again_and_again(path)
    if raw is None:
        return None
    return RaftDirectory(
        cluster_id=raw["cluster_id"].hex(),
        member_id=raw["member_id"],
        term=raw["term"],
        committed=raw["committed"],
        base_index=raw["base_index"],
        base_data=raw["base_data"],
        entries=tuple(
            LogEntry(index=index, term=term, proposal_id=proposal.hex(), data=data)
            for index, term, proposal, data in raw["entries"]
        ),
        voters=tuple(raw["voters"]),
        learners=tuple(raw["learners"]),
        known_ids=tuple(raw["known_ids"]),
        segments=raw["segments"],
        torn=raw["torn"],
    )


def _read_again_and_again(path: Path) -> dict[str, Any] | None:
    for _ in range(READS_MAX - 1):
        try:
            return _engine.read_log(str(path))
        except _engine.EngineError:
            time.sleep(READ_AGAIN_S)
    with as_consensus_error():
        return _engine.read_log(str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A cluster of one member that begins with a state."""

    cluster_id: str
    member_id: int
    address: str
    index: int
    term: int
    removed: tuple[int, ...]
    """Ids that are never accepted again."""
    state: bytes


def write_beginning(path: Path, beginning: Beginning) -> None:
    """Put a new beginning into a Raft directory that no process uses.

    Raises:
        ConsensusError: A process uses it, or it cannot be written.
    """
    with as_consensus_error():
        _engine.begin_cluster(
            str(path),
            cluster_id=bytes.fromhex(beginning.cluster_id),
            member_id=beginning.member_id,
            address=beginning.address,
            index=beginning.index,
            term=beginning.term,
            removed=list(beginning.removed),
            data=beginning.state,
        )
