"""One pass: look, decide, act, tell. It runs after every change and when time is up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pgbastion.clock import NS_PER_MS, boottime_ms, boottime_ns
from pgbastion.control.addresses import decide_holding
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node
from pgbastion.control.orders import is_ordered
from pgbastion.control.routing import Routing, RoutingView, accepts, decide_routing
from pgbastion.ha.admitting import Admission
from pgbastion.ha.executor import Executor
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.ha.outages import OutageMeter
from pgbastion.ha.ports import Addresses, Guard, RaftEngine
from pgbastion.ha.recorder import Recorder
from pgbastion.ha.runner import Runner
from pgbastion.ha.split import SplitBrain
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import Member
from pgbastion.model.commands import Declare
from pgbastion.model.ids import DataId, Epoch, Incarnation, MemberId, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import NodeReport, PostgresState
from pgbastion.model.views import (
    ClusterView,
    DataView,
    LeaseView,
    Limits,
    NodeView,
    PostgresView,
)
from pgbastion.observe.logging import get_logger

log = get_logger("decisions")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWords:
    """What the shared page says; instants in nanoseconds."""

    epoch: int = 0
    expiry_ns: int = 0
    released_epoch: int = 0
    evidence_ns: int = 0
    pause_revision: int = 0
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The profile's rhythm, in milliseconds."""

    probe_ms: int
    renew_ms: int
    lease_ms: int
    lag_max_bytes: int
    replica_lag_max_bytes: int
    replica_fallback: bool = False


class Loop:
    """Decides for this node and, where it leads, for the cluster.

    Args:
        own: This node's member record; ``member_id`` and ``data_id`` are filled in.
        words: Reads the shared page.
        on_routing: Takes each new routing with the instant (nanoseconds) up to which
            the knowledge that it rests on may be used.
        addresses: The virtual addresses; None: there are none.
    """

    def __init__(
        self,
        *,
        host: Host,
        engine: RaftEngine,
        guard: Guard | None,
        observer: Observer | None,
        executor: Executor,
        own: Member,
        incarnation: Incarnation,
        limits: Limits,
        pace: Pace,
        version: str,
        words: Callable[[], LeaseWords],
        on_routing: Callable[[Routing, int], None],
        addresses: Addresses | None = None,
    ) -> None:
        self._host = host
        self._engine = engine
        self._guard = guard
        self._observer = observer
        self._executor = executor
        self._own = own
        self._incarnation = incarnation
        self._limits = limits
        self._pace = pace
        self._version = version
        self._words = words
        self._on_routing = on_routing
        self._addresses = addresses
        self._changed = asyncio.Event()
        self._node_runner = Runner(
            executor.perform, on_done=self.wake, log=log.bind(of="node")
        )
        self._cluster_runner = Runner(
            executor.perform, on_done=self.wake, log=log.bind(of="cluster")
        )
        self._reported: NodeReport | None = None
        self._reported_ms = 0
        self._confirmed_ns = 0
        self._halted = False
        self._passed_ms: int | None = None
        self._parking = ""
        self._admission = Admission()
        self.outages = OutageMeter()
        self.split = SplitBrain()
        self.unwatched: Callable[[], tuple[NodeId, ...]] = tuple
        self._reading: frozenset[NodeId] = frozenset()
        self.draining = False
        self.recorder = Recorder()
        self.renewing = Epoch(0)
        self.lost_data = False
        self.node_decision = Decision(Reason.NOT_A_MEMBER)
        self.cluster_decision = Decision(Reason.NOT_LEADER)

    def set_own(self, own: Member) -> None:
        """Take another member record for this node: its tags have changed."""
        self._own = own

    def set_readers(self, *, lag_max_bytes: int, fallback: bool) -> None:
        """Take other bounds of which servers readers are sent to."""
        self._pace = replace(
            self._pace, replica_lag_max_bytes=lag_max_bytes, replica_fallback=fallback
        )

    def set_failover(self, *, lag_max_bytes: int, restart_ms: int) -> None:
        """Take other bounds of when, and to whom, the role moves by itself."""
        self._pace = replace(self._pace, lag_max_bytes=lag_max_bytes)
        self._limits = replace(self._limits, restart_ms=restart_ms)

    def wake(self) -> None:
        """Have a pass soon: something changed."""
        self._changed.set()

    async def run(self) -> None:
        """Pass after pass, until told to halt."""
        while not self._halted:
            self._changed.clear()
            for runner in (self._node_runner, self._cluster_runner):
                if runner.broken is not None:
                    raise runner.broken
            wake_ms = self._pass()
            pause_s = max(wake_ms - boottime_ms(), 0) / 1_000
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def silent_ms(self) -> int:
        """Return how long ago the last pass was begun; 0 while none is due."""
        if self._passed_ms is None or self._halted:
            return 0
        return boottime_ms() - self._passed_ms

    async def confirm(self) -> None:
        """Keep this node's view fresh: ask the leader at the pace of renewals.

        What was applied here when the answer came had been committed when the
        question was sent, so the view counts from there.
        """
        while True:
            sent_ns = await self._engine.read_index(self._pace.renew_ms / 1_000)
            if sent_ns is not None:
                self._confirmed_ns = sent_ns
                self._route()
            await asyncio.sleep(self._pace.renew_ms / 1_000)

    @property
    def view_fresh_until_ns(self) -> int:
        """Until when this node's knowledge of the cluster may be acted on."""
        return self._confirmed_ns + self._pace.lease_ms * NS_PER_MS

    def _pass(self) -> int:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        now_ms = boottime_ms()
        self._passed_ms = now_ms
        wakes = [self._reported_ms + self._pace.probe_ms]
        view = self._node_view(now_ms, at)
        if self._addresses is not None:
            self._addresses.want(decide_holding(view))
        decision = decide_node(view)
        self._log("node", view, self.node_decision, decision)
        self.node_decision = decision
        self._node_runner.offer(decision.actions)
        if decision.wake_at_ms is not None:
            wakes.append(decision.wake_at_ms)
        wakes.append(self._lead(now_ms, at))
        if self._observer is not None:
            reason = decision.reason
            self._observer.hurry = reason in _HURRIED or is_ordered(view.state)
        if is_ordered(view.state):
            # The holder waits for the word that new clients are held here.
            self._route()
        self._tell(view, now_ms)
        self._route()
        # What was due by now was decided just now: looking again at once would spin.
        later = (wake_ms for wake_ms in wakes if wake_ms > now_ms)
        return min(later, default=now_ms + self._pace.probe_ms)

    def _lead(self, now_ms: int, at: str) -> int:
        view = self._host.cluster_view(
            at=at,
            lag_max_bytes=self._pace.lag_max_bytes,
            report_ms=3 * self._pace.probe_ms,
        )
        decision = decide_cluster(view)
        self._log("cluster", view, self.cluster_decision, decision)
        self.cluster_decision = decision
        self._executor.expect_answer(view.raft.last_answer_ms)
        self._cluster_runner.offer(decision.actions)
        wake_ms = decision.wake_at_ms
        return now_ms + self._pace.probe_ms if wake_ms is None else wake_ms

    def _log(
        self, who: str, view: NodeView | ClusterView, old: Decision, new: Decision
    ) -> None:
        changed = old.reason is not new.reason
        self.recorder.note(view, new, changed=changed)
        if not changed:
            return
        acts = ",".join(type(action).__name__ for action in new.actions)
        log.info("decided", who=who, reason=new.reason, detail=new.detail, actions=acts)

    # The node's own view

    def _node_view(self, now_ms: int, at: str) -> NodeView:
        observer = self._observer
        raft_id = MemberId(self._engine.status().member_id)
        lease = self._lease_view()
        if observer is None:
            return self._witness_view(now_ms, raft_id, lease)
        state = self._host.state
        words = self._words()
        job = self._executor.job
        return NodeView(
            now_ms=now_ms,
            node=self._own.name,
            member_id=raft_id,
            incarnation=self._incarnation,
            state=state,
            lease=lease,
            data=observer.data_view(),
            postgres=observer.postgres_view(words.evidence_ns // NS_PER_MS),
            reports=self._host.reports,
            limits=self._limits,
            trouble=observer.trouble,
            job=job.name,
            job_failed=job.failed,
            job_failed_ms=job.failed_ms,
            rejoin=observer.rejoin,
            data_changed=observer.data_changed_epoch == state.epoch != 0,
            prepared=self._executor.prepared,
            begun_ms=self._host.begun_ms,
            opened_ms=self._host.opened_ms,
            ended_at=observer.ended_at,
            checkpointing=self._executor.checkpointing,
            sync_unsettled=self._executor.sync_unsettled,
            silent_since_ms=observer.silent_since_ms(state, self._host.reports),
            addresses_held=self._addresses is not None and self._addresses.may_be_set,
            at=at,
            declaration=self._declaration(raft_id),
        )

    def _witness_view(
        self, now_ms: int, raft_id: MemberId, lease: LeaseView
    ) -> NodeView:
        return NodeView(
            now_ms=now_ms,
            node=self._own.name,
            member_id=raft_id,
            incarnation=self._incarnation,
            state=self._host.state,
            lease=lease,
            data=DataView(empty=True, ours=False),
            postgres=PostgresView(running=False),
            reports=self._host.reports,
            limits=self._limits,
            witness=True,
            declaration=self._declaration(raft_id),
        )

    def _lease_view(self) -> LeaseView:
        words = self._words()
        facts = self._guard.facts() if self._guard is not None else None
        return LeaseView(
            epoch=Epoch(words.epoch),
            expiry_ms=words.expiry_ns // NS_PER_MS,
            released_epoch=Epoch(words.released_epoch),
            ended_epoch=facts.ended_epoch if facts else Epoch(0),
            armed_epoch=facts.armed_epoch if facts else Epoch(0),
            asked_ms=facts.asked_ns // NS_PER_MS if facts else 0,
            renewing=self.renewing,
            pause_revision=words.pause_revision,
            paused=words.paused,
        )

    def _declaration(self, raft_id: MemberId) -> Declare | None:
        known = self._host.state.member(raft_id)
        if known is None:
            return None
        data = self._observer.data if self._observer is not None else None
        own = replace(
            self._own,
            member_id=raft_id,
            joined=True,
            data_id=self._declared_data_id(known),
        )
        identifier = data.system_identifier if data and data.ours else None
        missing = identifier is not None and (
            self._host.state.system_identifier is None
            and self._host.state.founder == raft_id
        )
        if own == known and not missing:
            return None
        return Declare(member=own, system_identifier=identifier)

    def _declared_data_id(self, known: Member) -> DataId | None:
        data = self._observer.data if self._observer is not None else None
        if data is not None and data.ours:
            return data.data_id
        if data is not None and data.empty and self.lost_data:
            return None
        return known.data_id

    def lease_epoch(self) -> int:
        """Return the epoch that the shared page's lease belongs to."""
        return self._words().epoch

    def lease_left_ms(self) -> int:
        """Return how long this node's lease still lasts; 0: it has none."""
        words = self._words()
        held = self._host.state.assignment
        if held is None or words.epoch != held.epoch:
            return 0
        return max((words.expiry_ns - boottime_ns()) // NS_PER_MS, 0)

    # What the others are told

    def _tell(self, view: NodeView, now_ms: int) -> None:
        report = self._report(view)
        due = now_ms - self._reported_ms >= self._pace.probe_ms
        if report == self._reported and not due:
            return
        urgent = self._reported is None or _essence(report) != _essence(self._reported)
        if is_ordered(view.state) and self._reported is not None:
            # How far it has come decides whether it can take the role.
            urgent = urgent or report.wal_end != self._reported.wal_end
        if not (urgent or due):
            return
        self._reported, self._reported_ms = report, now_ms
        self._host.broadcast(report)

    def _report(self, view: NodeView) -> NodeReport:
        observer = self._observer
        if observer is None:
            return NodeReport(
                node=self._own.name,
                version=self._version,
                state=PostgresState.NONE,
                reason=self.node_decision.reason,
                unwatched_primaries=self.unwatched(),
                holding=self._parking,
                outage=self.outages.newest,
            )
        postgres, data = view.postgres, view.data
        server = observer.server
        primary = postgres.running and postgres.in_recovery is False
        promoted = primary and data.promoted_epoch == view.state.epoch != 0
        return NodeReport(
            node=self._own.name,
            version=self._version,
            state=_state(view),
            reason=self.node_decision.reason,
            data_id=data.data_id,
            system_identifier=data.system_identifier,
            wal_end=postgres.wal_end,
            earlier_end=postgres.earlier_end,
            replay_lsn=server.replay_lsn if server and postgres.running else None,
            epoch=data.promoted_epoch if primary else data.epoch,
            promoted=promoted,
            accepting=promoted and self._admission.accepts(view),
            server_ms=postgres.started_ms if postgres.running else 0,
            history=observer.history if primary else (),
            checkpointed=postgres.timeline if postgres.checkpointed else None,
            timeline=data.timeline,
            adopted=postgres.adopted,
            pending_restart=server.pending_restart if server else (),
            following=postgres.following,
            streaming=postgres.streaming,
            replication=postgres.replication if primary else (),
            progress=view.job,
            replay_paused=bool(server and postgres.running and server.replay_paused),
            answers=observer.answers,
            trouble=observer.trouble,
            unwatched_primaries=self.unwatched(),
            addresses=self._addresses.report() if self._addresses else None,
            outage=self.outages.newest,
            holding=self._parking,
            draining=self.draining,
            vitals=server.vitals if server and postgres.running else None,
            settings=server.settings if server and postgres.running else None,
        )

    # Where clients are sent

    def _route(self) -> None:
        state = self._host.state
        reports = self._host.reports
        for received in reports.values():
            if accepts(received.report, state):
                self._host.note_accepting(state.epoch, received.report.server_ms)
        routing = decide_routing(
            RoutingView(
                now_ms=boottime_ms(),
                state=state,
                reports=reports,
                report_max_ms=3 * self._pace.probe_ms,
                lag_max_bytes=self._pace.replica_lag_max_bytes,
                reading=self._reading,
                fallback=self._pace.replica_fallback,
                accepting_epoch=self._host.accepting_epoch,
                accepting_server_ms=self._host.accepting_server_ms,
                split=self.split.look(state, reports, self._pace.probe_ms),
            )
        )
        self.outages.note(
            boottime_ms(),
            routing,
            reports,
            stopping=self.node_decision.reason is Reason.HANDING_OVER,
        )
        self._reading = frozenset(m.name for m in routing.replicas)
        self._on_routing(routing, self.view_fresh_until_ns)
        self._parking = routing.parking

    async def halt(self) -> None:
        """Decide nothing any more and interrupt what is being carried out."""
        self._halted = True
        await self._node_runner.stop()
        await self._cluster_runner.stop()


_HURRIED = frozenset(
    {
        Reason.PROMOTING,
        Reason.PROMOTION_RUNNING,
        Reason.WAITING_FOR_SYNC_STANDBY,
        Reason.OPENING,
        Reason.CHANGING_SYNC_SET,
        Reason.CONFIRMING_SYNC_SET,
        Reason.WAITING_FOR_START,
        Reason.REPOINTING,
    }
)


def _state(view: NodeView) -> PostgresState:
    if view.job is not None:
        return PostgresState.COPYING
    if view.postgres.running:
        if view.postgres.in_recovery is None:
            return PostgresState.STARTING
        standby = view.postgres.in_recovery
        return PostgresState.STANDBY if standby else PostgresState.PRIMARY
    if view.data.problem is not None:
        return PostgresState.FAILED
    return PostgresState.EMPTY if view.data.empty else PostgresState.STOPPED


def _essence(report: NodeReport) -> NodeReport:
    """Return the report without what changes all the time."""
    return replace(
        report,
        wal_end=None,
        earlier_end=None,
        replay_lsn=None,
        replication=(),
        progress=None,
        reason="",
        vitals=None,
    )
