"""One pass: look, decide, act, tell. It runs after every change and when time is up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from pgbastion.clock import NS_PER_MS, boottime_ms, wall_text
from pgbastion.control.addresses import decide_holding
from pgbastion.control.cluster import decide_cluster
from pgbastion.control.node import decide_node
from pgbastion.control.node_rules import stall_ms
from pgbastion.control.orders import is_ordered
from pgbastion.control.routing import Routing, RoutingView, accepts, decide_routing
from pgbastion.ha.executor import Executor
from pgbastion.ha.host import Host
from pgbastion.ha.observer import Observer
from pgbastion.ha.outages import OutageMeter
from pgbastion.ha.placing import Placer
from pgbastion.ha.ports import Addresses, RaftEngine
from pgbastion.ha.recorder import Recorder
from pgbastion.ha.reporting import Reporter
from pgbastion.ha.runner import Runner
from pgbastion.ha.sight import Sight
from pgbastion.ha.split import SplitBrain
from pgbastion.model.actions import Decision
from pgbastion.model.cluster import Member
from pgbastion.model.ids import MemberId, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import ClusterView, Limits, NodeView
from pgbastion.observe.logging import get_logger

log = get_logger("decisions")


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
        sight: What this node sees of itself.
        on_routing: Takes each new routing with the instant (nanoseconds) up to which
            the knowledge that it rests on may be used.
        addresses: The virtual addresses; None: there are none.
    """

    def __init__(
        self,
        *,
        host: Host,
        engine: RaftEngine,
        observer: Observer | None,
        executor: Executor,
        sight: Sight,
        pace: Pace,
        version: str,
        on_routing: Callable[[Routing, int], None],
        addresses: Addresses | None = None,
    ) -> None:
        self._host = host
        self._engine = engine
        self._observer = observer
        self._executor = executor
        self._pace = pace
        self._on_routing = on_routing
        self._addresses = addresses
        self._changed = asyncio.Event()
        self._node_runner = Runner(
            executor.perform, on_done=self.wake, log=log.bind(of="node")
        )
        self._cluster_runner = Runner(
            executor.perform, on_done=self.wake, log=log.bind(of="cluster")
        )
        self._placing_runner = Runner(
            executor.perform, on_done=self.wake, log=log.bind(of="addresses")
        )
        self._placer = Placer(
            host, addresses, self._placing_runner, margin_ms=sight.limits.margin_ms
        )
        self._routing: Routing | None = None
        self._confirmed_ns = 0
        self._halted = False
        self._passed_ms: int | None = None
        self._reading: frozenset[NodeId] = frozenset()
        self.outages = OutageMeter()
        self.split = SplitBrain()
        self.recorder = Recorder()
        self.on_decided: Callable[[str, Decision], None] | None = None
        self.sight = sight
        self.reporter = Reporter(
            host=host,
            observer=observer,
            outages=self.outages,
            addresses=addresses,
            node=sight.own.name,
            version=version,
            probe_ms=pace.probe_ms,
        )
        self.node_decision = Decision(Reason.NOT_A_MEMBER)
        self.cluster_decision = Decision(Reason.NOT_LEADER)

    def set_own(self, own: Member) -> None:
        """Take another member record for this node: its tags have changed."""
        self.sight.own = own

    def go_by(self, pace: Pace, limits: Limits) -> None:
        """Take another rhythm and other bounds, all of them."""
        self._pace = pace
        self.sight.limits = limits
        self._placer.margin_ms = limits.margin_ms
        self.reporter.probe_ms = pace.probe_ms
        self.wake()

    def set_readers(self, *, lag_max_bytes: int, fallback: bool) -> None:
        """Take other bounds of which servers readers are sent to."""
        self._pace = replace(
            self._pace, replica_lag_max_bytes=lag_max_bytes, replica_fallback=fallback
        )

    def set_bounds(self, *, lag_max_bytes: int, **limits: int) -> None:
        """Take other bounds of what decisions go by; ``limits`` are fields of those."""
        self._pace = replace(self._pace, lag_max_bytes=lag_max_bytes)
        self.sight.limits = replace(self.sight.limits, **limits)

    def leave(self) -> None:
        """Have everybody know that this node's server is about to end cleanly."""
        self.reporter.leaving = True
        self.wake()

    def set_draining(self, draining: bool) -> None:  # noqa: FBT001 - the whole of it
        """Have the others know whether this node takes new sessions."""
        self.reporter.draining = draining
        self.wake()

    def wake(self) -> None:
        """Have a pass soon: something changed."""
        self._changed.set()

    async def run(self) -> None:
        """Pass after pass, until told to halt."""
        # Nobody has asked the server yet: what is old is no silence.
        self.sight.woke_ms = boottime_ms()
        while not self._halted:
            self._changed.clear()
            for runner in self._runners():
                if runner.broken is not None:
                    raise runner.broken
            wake_ms = self._pass()
            pause_s = max(wake_ms - boottime_ms(), 0) / 1_000
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._note_stall(late_ms=boottime_ms() - wake_ms)

    def _note_stall(self, late_ms: int) -> None:
        """Have the server asked anew where this daemon itself stood still."""
        if late_ms < stall_ms(self.sight.limits):
            return
        log.info("went_on", late_ms=late_ms)
        self.sight.woke_ms = boottime_ms()
        if self._observer is not None:
            self._observer.look_soon()

    def _runners(self) -> tuple[Runner, ...]:
        return self._node_runner, self._cluster_runner, self._placing_runner

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
                self._keep_replica_addresses()
                self._route()
            await asyncio.sleep(self._pace.renew_ms / 1_000)

    def _keep_replica_addresses(self) -> None:
        member_id = MemberId(self._engine.status().member_id)
        self._placer.keep(member_id, self._confirmed_ns)

    @property
    def is_confirmed(self) -> bool:
        """Whether this node's state was once known to be the newest."""
        return self._confirmed_ns > 0

    @property
    def view_fresh_until_ns(self) -> int:
        """Until when this node's knowledge of the cluster may be acted on."""
        return self._confirmed_ns + self._pace.lease_ms * NS_PER_MS

    def _pass(self) -> int:
        at = wall_text()
        now_ms = boottime_ms()
        self._passed_ms = now_ms
        wakes = [self.reporter.due_ms]
        view = self.sight.look(now_ms, at)
        if self._addresses is not None:
            self._addresses.want(decide_holding(view))
            self._keep_replica_addresses()
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
        self.reporter.tell(view, decision, now_ms)
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
        self._placer.lead(view, self._routing)
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
        if self.on_decided is not None:
            self.on_decided(who, new)

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
        self._routing = routing
        self._on_routing(routing, self.view_fresh_until_ns)
        self.reporter.holding = routing.parking

    async def halt(self) -> None:
        """Decide nothing any more and interrupt what is being carried out."""
        self._halted = True
        for runner in self._runners():
            await runner.stop()


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
