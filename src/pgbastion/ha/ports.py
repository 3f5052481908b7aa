"""What the decisions need of the world, as protocols; adapters fulfil them.

Each has a fake in ``testing/``. Adapters judge nothing: they are idempotent and
run under a deadline that the executor sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pgbastion.model.actions import CallFence
from pgbastion.model.addresses import AddressReport, Holding
from pgbastion.model.cluster import Member, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.report import ReplicationRow, Vitals
from pgbastion.model.settings import NodeSettings
from pgbastion.model.snapshot import FenceCounts
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import AgeAnswer, FencingView, RejoinView, SurveyAnswer
from pgbastion.model.wal import Lsn, WalEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What a Raft leader knows of another member."""

    address: str
    matched: int
    """The newest log index that it is known to have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftStatus:
    """What the consensus engine says about itself; instants in nanoseconds."""

    member_id: int
    role: str
    """``leader``, ``follower``, ``candidate``, ``precandidate`` or ``learner``."""
    term: int
    leader: int
    committed: int
    applied: int
    last_index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    configurations: tuple[tuple[int, ...], ...]
    own_entry_applied: bool
    elected_ns: int
    last_answer_ns: int
    pending_change: bool
    peers: Mapping[int, PeerStatus]
    writing_ms: int = 0
    """For how long the log's disk has owed a write; 0: it owes none."""
    address: str = ""
    """Where the others call this member; empty: the log has not told yet."""


class RaftEngine(Protocol):
    """The consensus engine."""

    def status(self) -> RaftStatus:
        """Return what the engine knows now, without waiting."""

    def applied(self, index: int) -> None:
        """Say that the state machine has applied everything up to ``index``."""

    def compact(self, index: int, state: bytes) -> None:
        """Let the log up to ``index`` go: ``state`` stands for it."""

    def lease(self, member_id: int, epoch: int, incarnation: int, lease_ms: int) -> int:
        """Say whose renewals may be answered (0: nobody's).

        Returns the instant of the last answer in nanoseconds; 0: none.
        """

    async def propose(self, data: bytes, timeout_s: float) -> int | None:
        """Return the index at which ``data`` was applied here; None: unknown."""

    async def read_index(self, timeout_s: float) -> int | None:
        """Wait until all that was committed when it was asked is applied here.

        Returns the instant of asking in nanoseconds; None: no leader answered.
        """

    async def change(
        self, change: str, member_id: int, address: str, timeout_s: float
    ) -> str:
        """Change the membership; return ``ok`` or why not."""

    async def transfer(self, member_id: int, timeout_s: float) -> bool:
        """Hand leadership to a member; tell whether it has it."""

    async def request(
        self, member_id: int, kind: int, payload: bytes, timeout_s: float
    ) -> bytes | None:
        """Ask a member; None: no answer in time."""

    def broadcast(self, kind: int, payload: bytes) -> None:
        """Tell all other members; it may be lost."""

    async def ages(self, timeout_s: float) -> tuple[AgeAnswer, ...]:
        """Ask all voters how long ago they last confirmed an older leader."""


class Cutter(Protocol):
    """Cuts this node off from an epoch and says what it has."""

    async def cut(self, epoch: Epoch) -> SurveyAnswer | None:
        """Return the answer to a survey; None: this node cannot answer now."""

    async def catch_up(self, upstream: "Upstream", upto: WalEnd) -> SurveyAnswer | None:
        """Stream from another cut node, then answer the survey anew; None: as above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A primary to follow, copy or rewind to."""

    node: NodeId
    host: str
    port: int
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What is in the data directory."""

    empty: bool
    ours: bool
    problem: str | None = None
    cluster_id: str | None = None
    """Whose mark it carries."""
    data_id: DataId | None = None
    epoch: Epoch = Epoch(0)
    promoted_epoch: Epoch = Epoch(0)
    cut_epoch: Epoch = Epoch(0)
    was_standby: bool = False
    system_identifier: str | None = None
    wal_end: WalEnd | None = None
    """The end of WAL of a stopped server, where it was read."""
    unmarked: bool = False
    """It holds a PostgreSQL that somebody else made."""
    timeline: Timeline | None = None
    """Stopped and never in an epoch: the newest timeline that it knows."""
    emptied: bool = False
    """It is empty for a copy that needs the room, and that is not done yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedEnd:
    """Where the WAL of a stopped server ends."""

    wal_end: WalEnd | None
    """None: its files cannot tell, or it could not go on from there."""
    has_strayed: bool = False
    """It wrote as a primary on a timeline that no epoch gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A postmaster that somebody else started, and its identity."""

    pid: int
    start: int
    """When it was started, in clock ticks since boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a running server said at one look; instants in nanoseconds."""

    sent_ns: int
    answered: bool
    reason: str = ""
    """Why it did not answer, or answered with an error: alive with a reason."""
    in_recovery: bool | None = None
    wal_end: WalEnd | None = None
    replay_lsn: Lsn | None = None
    replayed: WalEnd | None = None
    """Up to where a standby's data surely hold WAL."""
    streaming: bool = False
    stream_failure: str = ""
    """With what a standby's newest attempt to stream ended."""
    checkpoint_timeline: Timeline | None = None
    replication: tuple[ReplicationRow, ...] = ()
    replication_ns: int | None = None
    """When it was asked for; None: at this look, as the rest."""
    slots: tuple[NodeId, ...] | None = None
    sync_setting: SyncSet | None = None
    """None: it names nobody who exists."""
    replay_paused: bool = False
    trouble: Trouble | None = None
    """What does not answer or write."""
    sync_text: str = ""
    """The same as the server has it."""
    sync_foreign: bool = False
    """It is not the one that was put into force before: somebody else changed it."""
    sync_reworded: bool = False
    """The mode has changed since it was written: other words for the same set."""
    pending_restart: tuple[str, ...] = ()
    """Settings that wait for a restart, as far as they were asked for."""
    flaws: tuple[str, ...] = ()
    """What would make it a poor primary, found at a look a while ago."""
    vitals: Vitals | None = None
    settings: NodeSettings | None = None


class Database(Protocol):
    """This node's PostgreSQL: its directory, its programs and its server."""

    def command(self) -> tuple[str, ...]:
        """Return the argument list that starts the server in the foreground."""

    async def inspect(self, *, running: bool) -> DataFacts:
        """Look into the data directory."""

    async def initialise(self, cluster_id: str) -> None:
        """Make the first data directory with its roles and its mark."""

    async def check_takeover(self) -> RunningServer | None:
        """Return the server that runs on a data directory without a mark, if one does.

        Raises:
            PostgresError: It cannot be taken over; the message names what is in the
                way, each with its remedy. Nothing was changed.
        """

    async def take_over(self, cluster_id: str, servers: Sequence[Member]) -> None:
        """Make that PostgreSQL one of ours, stopped or running; the mark comes last."""

    async def note_primary(self, epoch: Epoch) -> None:
        """Note in the mark that the server is the primary of ``epoch``."""

    async def prepare_standby(
        self, upstream: Upstream | None, servers: Sequence[Member]
    ) -> None:
        """Write all files so that the next start is one in recovery."""

    async def prepare_primary(self, sync: SyncSet | None) -> None:
        """Write all files so that the next start is one outside recovery."""

    async def look(self, on_evidence: Callable[[int], None]) -> ServerFacts:
        """Ask the running server and its disks; bounded by the profile's limits.

        Args:
            on_evidence: Takes when both were asked (nanoseconds) as soon as both have
                answered: what else is asked may wait for other work on the server.
        """

    async def cut(self, epoch: Epoch) -> WalEnd | None:
        """Cut the running standby off from ``epoch`` durably; return its end of WAL."""

    async def cut_stopped(self, epoch: Epoch) -> StoppedEnd:
        """Cut the stopped server off from ``epoch`` durably; return its end of WAL."""

    async def timeline_begin(self, timeline: Timeline) -> Lsn | None:
        """Return where a timeline forked off its parent; None: it is the first."""

    async def newest_timeline(self) -> Timeline:
        """Return the highest timeline id that the directory knows of; 0: none."""

    async def history(self, timeline: Timeline) -> tuple[tuple[Timeline, Lsn], ...]:
        """Return a timeline's newest ancestors and where each was left."""

    async def follow(self, upstream: Upstream) -> None:
        """Point the running standby at a primary."""

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> None:
        """Stream from another standby, both cut from ``upstream.epoch``, up to there.

        It has to be cut anew after that.

        Raises:
            PostgresError: It does not come nearer, or is not cut from that epoch.
        """

    async def wal_end(self) -> WalEnd | None:
        """Return the running standby's end of WAL, read now."""

    async def promote(self, epoch: Epoch, timeline: Timeline) -> None:
        """Ask for a promotion that takes ``timeline``; do not wait for its end.

        Raises:
            TimelineTaken: The id is known here: such a promotion goes on, or was cut
                short by a crash.
        """

    async def apply_sync(self, sync: SyncSet, *, first: bool) -> bool:
        """Put the set into the setting; tell whether it is effective everywhere.

        Args:
            sync: The set.
            first: No set is promised yet: a commit has to be seen to wait before.
        """

    async def keep_slots(self, nodes: Sequence[NodeId]) -> None:
        """Have exactly these members' slots."""

    async def checkpoint(self) -> None:
        """Write a checkpoint, however long it takes."""

    async def examine(self, upstream: Upstream) -> RejoinView:
        """Compare the stopped directory with the primary's history."""

    async def copy(self, upstream: Upstream, cluster_id: str) -> None:
        """Replace the data directory by a copy of the primary's."""

    async def rewind(self, upstream: Upstream) -> None:
        """Rewind the stopped data directory to the primary's history."""

    async def recover(self) -> None:
        """Let the stopped, crashed server recover on its own."""

    async def refresh_access(self, servers: Sequence[Member]) -> None:
        """Let the members' servers in, and nobody who is no longer a member."""

    async def close(self) -> None:
        """Close connections; the server goes on."""


class Addresses(Protocol):
    """The node's virtual addresses."""

    def want(self, holding: Holding) -> None:
        """Have them here, or not; without waiting."""

    async def drop(self) -> None:
        """Remove them; they are gone when this returns, for the epoch they stood for.

        Raises:
            VipError: One could not be removed.
        """

    def want_replicas(
        self, holdings: Mapping[str, Holding], seen: Mapping[str, int]
    ) -> None:
        """Have these addresses for replicas here, and no others; without waiting.

        Args:
            holdings: Those that may be here, until when.
            seen: The newest change of each address's placement that this rests on.
        """

    @property
    def may_be_set(self) -> bool:
        """Whether one that follows the primary role is, or may be, on this node."""

    def report(self) -> AddressReport | None:
        """Return what the other nodes are told; None: none are configured."""


class Fencer(Protocol):
    """The program that switches nodes off."""

    @property
    def counts(self) -> FenceCounts:
        """How often it was run since this daemon's start, by what came of it."""

    def call(self, order: CallFence) -> None:
        """Run it for a node, without waiting; not while another run goes on."""

    def view(self) -> FencingView | None:
        """Return what came of it; None: no program is configured."""

    async def close(self) -> None:
        """End a run that goes on."""


class HandOver(Protocol):
    """What is done to a running primary, and to its files, for a planned end."""

    async def drain(self, limit_ms: int) -> None:
        """Wait until the transactions that are open now have ended, at most so long."""

    async def ended_at(self) -> WalEnd | None:
        """Return where the stopped server's WAL ends; None: it did not end cleanly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardFacts:
    """What the guard says about the postmaster and its own latches."""

    running: bool
    """A postmaster runs, or not all of its processes have ended yet."""
    pid: int = 0
    started_ns: int = 0
    started_as_primary: bool = False
    adopted: bool = False
    """Found running: not the guard's child."""
    armed_epoch: Epoch = Epoch(0)
    ended_epoch: Epoch = Epoch(0)
    asked_ns: int = 0
    child_died: bool = False
    """The postmaster that ended last did so because a process of its own had died."""
    watchdog: str = "off"
    """``off``, ``idle``, ``armed`` or ``unusable``."""
    unable: str = ""
    """Why nothing may become a primary here; empty: nothing is in the way."""
    server_said: str = ""
    """The last words of a server that ended with an error."""


class Guard(Protocol):
    """The postmaster's parent."""

    def facts(self) -> GuardFacts:
        """Return what the guard last said."""

    async def start(
        self, command: tuple[str, ...], *, primary: bool, epoch: Epoch
    ) -> None:
        """Start the postmaster."""

    async def adopt(self, server: RunningServer) -> None:
        """Watch a postmaster that somebody else started as a primary."""

    async def stop(self, *, fast_ms: int) -> None:
        """Stop it: fast, immediate, kill within ``fast_ms``; 0 kills at once.

        Returns when the guard says "stopped".

        Raises:
            GuardError: Some process is left.
        """

    async def arm(self, epoch: Epoch) -> None:
        """Have PostgreSQL killed when this epoch's lease runs out."""

    async def disarm(self) -> None:
        """Take an arming back; refused while a primary may be running."""

    async def end_epoch(self, epoch: Epoch) -> None:
        """Latch the end of this epoch and all before it."""

    async def ask(self, epoch: Epoch) -> None:
        """Note that a promotion in ``epoch`` is asked for from now on."""

    async def answered(self) -> None:
        """Note that what was asked for has happened."""
