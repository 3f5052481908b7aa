"""Keeps what was last seen of this node's PostgreSQL, and makes views of it.

It asks the server at the profile's pace, faster while something is expected to
change, and writes the instant of each answer into the shared page: that is the
evidence without which the engine renews no lease.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pgbastion.clock import NS_PER_MS, boottime_ms
from pgbastion.errors import PgBastionError
from pgbastion.ha.flushing import Flushing
from pgbastion.ha.ports import Database, DataFacts, Guard, GuardFacts, ServerFacts
from pgbastion.ha.warnings import Warnings
from pgbastion.model.cluster import ClusterState, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline, standby_name
from pgbastion.model.trouble import Trouble
from pgbastion.model.views import DataView, PostgresView, Received, RejoinView
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.observe.logging import get_logger

LOOK_MS_MAX: Final = 1_000
"""How often the server is asked at least: one that was promoted out of band has to be
seen within two seconds in every profile."""
HURRY_MS: Final = 10
"""How often the server is asked while a promotion or a change of the set goes on."""

log = get_logger("postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The end of a promotion, as it was seen."""

    pid: int
    at: Lsn
    seen_ms: int
    history: tuple[tuple[Timeline, Lsn], ...]


class Observer:
    """What is known of this node's data directory and server.

    Args:
        database: The server and its directory.
        guard: The postmaster's parent.
        probe_ms: The pace of asking.
        on_evidence: Takes the instant (nanoseconds) at which the server answered.
        on_change: Called after each look that a decision may depend on.
    """

    def __init__(
        self,
        database: Database,
        guard: Guard,
        *,
        probe_ms: int,
        on_evidence: Callable[[int], None],
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._guard = guard
        self._probe_ms = probe_ms
        self._on_evidence = on_evidence
        self._on_change = on_change
        self._soon = asyncio.Event()
        self._data = DataFacts(empty=True, ours=False, problem="not looked at yet")
        self._server: ServerFacts | None = None
        self._server_pid = 0
        self._promotion: Promotion | None = None
        self._silent_since_ms: dict[str, int] = {}
        self._begun_ms = boottime_ms()
        self._flushing = Flushing(apart_ms=probe_ms)
        self._confirmed: SyncSet | None = None
        self._applied: SyncSet | None = None
        self.drifts = 0
        """How often somebody else has changed the synchronous setting."""
        self.promote_asked_pid = 0
        self.following: tuple[NodeId, Epoch] | None = None
        self.rejoin: RejoinView | None = None
        self.data_changed_epoch = Epoch(0)
        self.ended_at: WalEnd | None = None
        """Where the server ended cleanly, while it has not been started since."""
        self.start_failures = 0
        self.start_failed_ms = 0
        self.start_failure = ""
        """What the server said when its newest start failed."""
        self.answers = False
        """Whether the server answered when it was last asked."""
        self.silence = ""
        """Why it did not, in words."""
        self.trouble: Trouble | None = None
        """What did not answer or write when the server was last asked."""
        self._warnings = Warnings()
        self._ended_ms = 0
        self._ended_before_ms = 0
        self._child_died = False
        self.hurry = False

    # Looking

    async def run(self) -> None:
        """Look for ever, at the profile's pace or when asked to."""
        while True:
            if self._guard.facts().running:
                await self._try_to_look()
            slow_ms = min(self._probe_ms, LOOK_MS_MAX)
            pause_ms = HURRY_MS if self._expects_change() else slow_ms
            try:
                async with asyncio.timeout(pause_ms / 1_000):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()

    def go_by(self, *, probe_ms: int) -> None:
        """Ask at another pace, for the first time now."""
        if probe_ms != self._probe_ms:
            self._probe_ms = self._flushing.apart_ms = probe_ms
            self._soon.set()

    def look_soon(self) -> None:
        """Have the next look now."""
        self._soon.set()

    def _expects_change(self) -> bool:
        facts = self._guard.facts()
        if not facts.running:
            return False
        server = self._server
        started = server is None or self._server_pid != facts.pid
        return started or self.hurry or (facts.asked_ns > 0 and not self._promotion)

    async def _try_to_look(self) -> None:
        try:
            await self._look()
        except (PgBastionError, TimeoutError, OSError) as exc:
            # A guard that hangs must not end the daemon: what was not noted now is
            # noted at the next look.
            log.warning("look_failed", error=str(exc))

    async def _look(self) -> None:
        facts = self._guard.facts()

        def note(evidence_ns: int) -> None:
            if self._guard.facts().pid == facts.pid:
                self._on_evidence(evidence_ns)

        server = await self._database.look(note)
        if self._guard.facts().pid != facts.pid:
            return
        self.answers = server.answered
        self.silence = "" if server.answered else server.reason
        self._note_trouble(server.trouble)
        if server.vitals is not None:
            self._warnings.look(server.vitals)
        if not server.answered:
            log.state("server", "server_silent", reason=server.reason)
            self._on_change()
            return
        log.state("server", "server_answers", in_recovery=server.in_recovery)
        await self._take(server, facts)
        self._on_change()

    async def _take(self, server: ServerFacts, facts: GuardFacts) -> None:
        """Keep what a server says that answers."""
        self.ended_at = None
        if self._server_pid != facts.pid:
            self.start_failures = 0
        self._server, self._server_pid = server, facts.pid
        if server.in_recovery is not None:
            # When a server ends by itself, nobody looks into the directory first.
            self._data = replace(self._data, was_standby=server.in_recovery)
        if server.sync_foreign:
            # What it has now is the truth that the next decision looks at.
            log.warning("sync_setting_changed_by_hand", setting=server.sync_text)
            self._confirmed = self._applied = None
            self.drifts += 1
        if server.in_recovery is False and server.wal_end is not None:
            if _asked_ns(server) >= server.sent_ns:
                rows = [row for row in server.replication if row.streaming]
                self._flushing.note(rows, server.wal_end.lsn, boottime_ms())
            await self._note_promotion(facts, server.wal_end)
        elif facts.asked_ns and not self.promote_asked_pid:
            await self._guard.answered()

    def _note_trouble(self, trouble: Trouble | None) -> None:
        if trouble is self.trouble:
            return
        self.trouble = trouble
        if trouble is None:
            log.info("trouble_over")
        else:
            log.warning("trouble", what=trouble, meaning=trouble.sentence)

    async def _note_promotion(self, facts: GuardFacts, end: WalEnd) -> None:
        if self._promotion is not None and self._promotion.pid == facts.pid:
            return
        history = await self._database.history(end.timeline)
        self._promotion = Promotion(
            pid=facts.pid, at=end.lsn, seen_ms=boottime_ms(), history=history
        )
        await self._guard.answered()
        log.info("primary_seen", timeline=end.timeline, end=str(end))

    async def inspect(self) -> None:
        """Look into the data directory again."""
        self._data = await self._database.inspect(running=self._guard.facts().running)
        self._on_change()

    def on_stopped(self) -> None:
        """Forget the server: the guard said that all its processes have ended."""
        if self._server_pid == 0 and self._guard.facts().pid == 0:
            self.start_failures += 1
            self.start_failed_ms = boottime_ms()
            self.start_failure = self._guard.facts().server_said
        if self._server_pid:
            # A start that failed leaves the instant of the crash as it is.
            facts = self._guard.facts()
            self._ended_ms, self._ended_before_ms, self._child_died = self._end(facts)
        self._server, self._server_pid, self._promotion = None, 0, None
        self.answers = False
        self._confirmed = self._applied = None
        self._silent_since_ms.clear()
        self._flushing.forget()
        self.promote_asked_pid = 0
        self.following = self.rejoin = None

    # What the executor did

    def on_sync_changing(self) -> None:
        """Go by the server's word: a change that fails half-way may have effect."""
        self._confirmed = self._applied = None

    def on_sync_applied(self, sync: SyncSet, *, confirmed: bool) -> None:
        """Note that the server has this set in its setting."""
        self._applied = sync
        self._confirmed = sync if confirmed else None
        self._on_change()

    @property
    def data(self) -> DataFacts:
        """What was last seen in the data directory."""
        return self._data

    @property
    def server(self) -> ServerFacts | None:
        """The newest answer of the running server."""
        return self._server

    @property
    def history(self) -> tuple[tuple[Timeline, Lsn], ...]:
        """The running primary's newest ancestors."""
        return self._promotion.history if self._promotion else ()

    def note_mark(self, **changes: object) -> None:
        """Take over what was just written into the mark, without reading it again."""
        self._data = replace(self._data, **changes)  # type: ignore[arg-type]

    # Views

    def data_view(self) -> DataView:
        """Return what is in the data directory."""
        data = self._data
        return DataView(
            empty=data.empty,
            ours=data.ours,
            problem=data.problem,
            data_id=data.data_id,
            epoch=data.epoch,
            promoted_epoch=data.promoted_epoch,
            cut_epoch=data.cut_epoch,
            was_standby=data.was_standby,
            system_identifier=data.system_identifier,
            unmarked=data.unmarked,
            timeline=data.timeline,
            emptied=data.emptied,
        )

    def postgres_view(self, evidence_ms: int) -> PostgresView:
        """Return what the server is doing."""
        facts = self._guard.facts()
        if not facts.running:
            return self._ended_view(facts)
        server = self._server if self._server_pid == facts.pid else None
        started_ms = facts.started_ns // NS_PER_MS
        if server is None:
            return PostgresView(
                running=True,
                started_as_primary=facts.started_as_primary,
                adopted=facts.adopted,
                promote_asked=self.promote_asked_pid == facts.pid,
                evidence_ms=evidence_ms,
                started_ms=started_ms,
                ended_ms=self._ended_ms,
                ended_before_ms=self._ended_before_ms,
                child_died=self._child_died,
                start_failures=self.start_failures,
                start_failed_ms=self.start_failed_ms,
            )
        following, epoch = self.following or (None, Epoch(0))
        end = server.wal_end
        sync = server.sync_setting if self._applied is None else self._applied
        return PostgresView(
            running=True,
            started_as_primary=facts.started_as_primary,
            adopted=facts.adopted,
            in_recovery=server.in_recovery,
            timeline=end.timeline if end else None,
            wal_end=end,
            earlier_end=self._flushing.earlier_end(),
            replayed=server.replayed,
            promoted_at=self._promotion.at if self._promotion else None,
            promoted_ms=self._promotion.seen_ms if self._promotion else 0,
            promote_asked=self.promote_asked_pid == facts.pid,
            following=following,
            following_epoch=epoch,
            streaming=server.streaming,
            evidence_ms=evidence_ms,
            started_ms=started_ms,
            server_sync=sync,
            sync_confirmed=sync is not None and self._confirmed == sync,
            sync_reworded=server.sync_reworded,
            replication=server.replication,
            slots=server.slots,
            watched_ms=self._begun_ms,
            checkpointed=end is not None and server.checkpoint_timeline == end.timeline,
            start_failures=self.start_failures,
            start_failed_ms=self.start_failed_ms,
        )

    def _ended_view(self, facts: GuardFacts) -> PostgresView:
        ended_ms, ended_before_ms, child_died = self._end(facts)
        return PostgresView(
            running=False,
            wal_end=self._data.wal_end,
            ended_ms=ended_ms,
            ended_before_ms=ended_before_ms,
            child_died=child_died,
            start_failures=self.start_failures,
            start_failed_ms=self.start_failed_ms,
            start_failure=self.start_failure,
        )

    def _end(self, facts: GuardFacts) -> tuple[int, int, bool]:
        """Return when it ended, when before that, and whether for a child's death.

        The guard's status may tell of an end a moment before `on_stopped` does.
        """
        if self._server_pid:
            return boottime_ms(), self._ended_ms, facts.child_died
        return self._ended_ms, self._ended_before_ms, self._child_died

    def silent_since_ms(
        self, state: ClusterState, reports: Mapping[NodeId, Received]
    ) -> dict[str, int]:
        """Return since when who streams, or is promised to confirm, gives no sign.

        Its WAL sender's row outlives a lost node by a time-out of TCP. So it also
        has to have spoken a moment ago: its WAL receiver to our server, or its
        daemon to this one. Who owes WAL and flushes none is silent, too.
        """
        opened = state.opened
        server = self._server
        if opened is None or server is None or server.in_recovery is not False:
            return {}
        now_ms = boottime_ms()
        heard = {
            standby_name(r.report.node, r.report.data_id): r.at_ms
            for r in reports.values()
            if r.report.data_id is not None
        }
        silent: dict[str, int] = {}
        rows = {row.name: row for row in server.replication if row.streaming}
        for name in {*opened.sync.names, *rows}:
            row = rows.get(name)
            if row is None:
                silent[name] = self._silent_since_ms.get(name, now_ms)
                continue
            said_ms = 0
            if row.silent_ms is not None:
                said_ms = _asked_ns(server) // NS_PER_MS - row.silent_ms
            spoke_ms = max(heard.get(name, 0), said_ms)
            stalled_ms = self._flushing.stalled_since_ms(
                name, least_ms=2 * self._probe_ms
            )
            if stalled_ms is not None:
                spoke_ms = min(spoke_ms, stalled_ms)
            if now_ms - spoke_ms > 2 * self._probe_ms:
                silent[name] = spoke_ms
        self._silent_since_ms = silent
        return dict(silent)

    def data_id(self) -> DataId | None:
        """Return the data directory's id."""
        return self._data.data_id


def _asked_ns(server: ServerFacts) -> int:
    """Return when the server was asked for its WAL senders."""
    asked_ns = server.replication_ns
    return server.sent_ns if asked_ns is None else asked_ns
