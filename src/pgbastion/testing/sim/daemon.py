"""A daemon of a simulated machine: the real parts, put together as a node does it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgbastion.config.timings import PROFILES, Timings
from pgbastion.control.routing import Routing
from pgbastion.ha.cutter import NodeCutter, WitnessCutter
from pgbastion.ha.executor import Executor
from pgbastion.ha.executor import Server as Parts
from pgbastion.ha.host import Host
from pgbastion.ha.job import Job
from pgbastion.ha.loop import Loop, Pace
from pgbastion.ha.messages import Kind
from pgbastion.ha.observer import Observer
from pgbastion.ha.ports import Cutter, GuardFacts, Upstream
from pgbastion.ha.sight import Sight
from pgbastion.model.cluster import Member
from pgbastion.model.ids import (
    Epoch,
    Incarnation,
    MemberId,
    NodeId,
)
from pgbastion.model.views import SurveyAnswer
from pgbastion.model.wal import WalEnd
from pgbastion.node.pacing import Pacing
from pgbastion.node.page import SharedPage
from pgbastion.node.parts import cut_timeout_ms, timing_limits
from pgbastion.node.renewing import hold_lease
from pgbastion.testing.sim.addresses import SimAddresses
from pgbastion.testing.sim.database import SimDatabase, SimHandOver
from pgbastion.testing.sim.engine import SimEngine
from pgbastion.testing.sim.fencing import SimFencer
from pgbastion.testing.sim.guard import GuardPort
from pgbastion.testing.sim.loop import SimLoop
from pgbastion.testing.sim.world import ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine


class JudgedCutter:
    """Answers surveys; the judge looks at each answer that counts."""

    def __init__(self, machine: "Machine", cutter: Cutter) -> None:
        self._machine = machine
        self._cutter = cutter

    async def cut(self, epoch: Epoch) -> SurveyAnswer | None:
        """Answer a survey."""
        answer = await self._cutter.cut(epoch)
        if answer is not None and answer.wal_end is not None:
            self._machine.judge.surveyed(self._machine, epoch)
        return answer

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> SurveyAnswer | None:
        """Stream from another cut node, then answer anew."""
        answer = await self._cutter.catch_up(upstream, upto)
        if answer is not None and answer.wal_end is not None:
            self._machine.judge.surveyed(self._machine, upstream.epoch)
        return answer


class Daemon:
    """One life of a machine's daemon, put together as :mod:`pgbastion.node` does it."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.timings = machine.setting.timings
        self.loop = SimLoop(  # type: ignore[abstract]
            machine.world, machine.clock, machine.name
        )
        self.loop.stopped = machine.stalled
        self.page = SharedPage(machine.page, 0)  # type: ignore[arg-type]
        self.incarnation = Incarnation(machine.random.getrandbits(40) + 1)
        self.own = Member(
            member_id=MemberId(0),
            name=NodeId(machine.name),
            host=f"127.0.0.{machine.number}",
            raft_port=8300,
            postgres_port=None if machine.witness else 5442,
            api_port=8080,
            primary_port=5432,
            replica_port=5433,
            nofailover=machine.nofailover,
        )
        self.routing: Routing | None = None
        self.routing_expires_ns = 0
        self.guard: GuardPort | None = None
        self.observer: Observer | None = None
        self.addresses: SimAddresses | None = None
        if machine.setting.addresses and not machine.witness:
            self.addresses = SimAddresses(
                machine,
                self.loop,
                machine.setting.addresses,
                fallback=machine.setting.fallback,
            )
        self._answering: set[asyncio.Task[None]] = set()
        self._build(self.timings)
        self.pacing = self._make_pacing()
        for name, run in (
            ("loop", self.main.run),
            ("confirm", self.main.confirm),
            ("observer", self._observe),
            ("pacing", self.pacing.run),
        ):
            self.loop.call_soon(self.start, name, run)

    def _build(self, timings: Timings) -> None:
        machine = self.machine
        parts, job = None, Job()
        cutter: Cutter = WitnessCutter()
        self.engine = SimEngine(
            machine,
            self.loop,
            self._take,
            tick_ms=timings.heartbeat_ms,
            election_ticks=max(timings.election_ms // timings.heartbeat_ms, 2),
        )
        self.engine.stopped = machine.stalled
        if not machine.witness:
            machine.obtain_guard()
            self.guard = GuardPort(machine, self.loop, self._on_stopped)
            database = SimDatabase(machine, self.loop, look_ms=timings.probe_ms)
            self.observer = Observer(
                database,
                self.guard,
                probe_ms=timings.probe_ms,
                on_evidence=self.page.note_evidence,
                on_change=self._wake,
            )
            self.guard.on_event = self._wake
            parts = Parts(
                database=database,
                guard=self.guard,
                observer=self.observer,
                hand_over=SimHandOver(machine),
            )
            cutter = NodeCutter(node=self.own.name, server=parts, job=job)
        self.host = Host(
            self.engine,
            node=self.own.name,
            cutter=JudgedCutter(machine, cutter),
            on_change=self._wake,
            cut_timeout_ms=cut_timeout_ms(timings),
        )
        if machine.setting.fence_works is not None:
            self.host.fencer = SimFencer(
                machine, self.loop, self._wake, timings=lambda: self.timings
            )
        self.executor = Executor(
            host=self.host,
            engine=self.engine,
            server=parts,
            job=job,
            stop_ms=timings.stop_ms,
            latch_release=self.page.latch_release,
            lease_held=self._holds_lease,
            hold=self._hold,
        )
        self.main = self._make_loop(timings)

    def _make_loop(self, timings: Timings) -> Loop:
        sight = Sight(
            host=self.host,
            engine=self.engine,
            guard=self.guard,
            observer=self.observer,
            executor=self.executor,
            own=self.own,
            incarnation=self.incarnation,
            limits=timing_limits(timings),
            words=self.page.read,
        )
        return Loop(
            host=self.host,
            engine=self.engine,
            observer=self.observer,
            executor=self.executor,
            sight=sight,
            pace=_pace_of(timings),
            version="sim",
            on_routing=self._route,
            addresses=self.addresses,
        )

    def _make_pacing(self) -> Pacing:
        async def prepare(timings: Timings) -> None:
            """Arm no watchdog: there is none."""

        def look(every_ms: int) -> None:
            if self.observer is not None:
                self.observer.go_by(probe_ms=every_ms)

        return Pacing(
            self.main.sight,
            self.page,
            state=lambda: self.host.state,
            is_confirmed=lambda: self.main.is_confirmed,
            timings=self.timings,
            timings_of=lambda profile: PROFILES[profile],
            look=look,
            refuses=lambda _: "",
            prepare=prepare,
            take=self._go_by,
        )

    def _go_by(self, timings: Timings) -> None:
        """Have every part go by other timings, as :mod:`pgbastion.node.timings`."""
        self.timings = timings
        self.machine.judge.paced(timings)
        self.engine.pace(
            heartbeat_ms=timings.heartbeat_ms, election_ms=timings.election_ms
        )
        self.executor.stop_ms = timings.stop_ms
        self.host.survey.cut_timeout_ms = cut_timeout_ms(timings)
        if self.observer is not None:
            self.observer.go_by(probe_ms=timings.probe_ms)
        self.main.go_by(_pace_of(timings), timing_limits(timings))
        if self.main.sight.renewing:
            self._hold(self.main.sight.renewing)

    def start(self, name: str, run: Callable[[], Any]) -> None:
        """Start a part of the daemon, or what people want of it."""
        task = self.loop.create_task(run(), name=name)
        task.add_done_callback(self._part_ended)

    def _part_ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # As the task group of the real daemon does: a part that fails ends all.
            self.loop.call_exception_handler(
                {"message": task.get_name(), "exception": task.exception()}
            )

    async def _observe(self) -> None:
        if self.observer is None or self.guard is None:
            return
        await self.observer.inspect()
        await self.observer.run()

    def kill(self) -> None:
        """End at once."""
        self.engine.kill()
        self.loop.kill()

    def guard_died(self) -> None:
        """Kill what the dead guard left, then start a new one."""
        if self.guard is not None:
            self.loop.call_soon(
                self.guard.note, GuardFacts(running=True, started_as_primary=True)
            )
        delay = ms(self.machine.random.uniform(20, 80))
        self.machine.world.after(delay, self.loop.call_soon, self._new_guard)

    def _new_guard(self) -> None:
        machine = self.machine
        if machine.disk_frozen:
            self.loop.call_later(0.1, self._new_guard)
            return
        if machine.server is not None:
            machine.end_server(machine.server)
        machine.obtain_guard().idle()

    def _on_stopped(self) -> None:
        if self.observer is not None:
            self.observer.on_stopped()
            task = self.loop.create_task(self.observer.inspect())
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _wake(self) -> None:
        self.main.wake()

    # The page

    def _holds_lease(self, epoch: Epoch) -> bool:
        return self.page.grants(epoch, self.host.state, self.timings.margin_ms)

    def _note_state(self) -> None:
        state = self.host.state
        self.machine.judge.applied(self.machine, state)
        self.page.note_pause(state.pause_revision, paused=state.paused)
        self.machine.note_pause()
        self.pacing.note()

    def _hold(self, epoch: Epoch) -> None:
        hold_lease(
            epoch,
            self.timings,
            incarnation=self.incarnation,
            sight=self.main.sight,
            page=self.page,
            engine=self.engine,
        )

    # What comes in

    def _take(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("committed", index, _, proposal_id, data):
                self.host.on_committed(index, proposal_id, data)
                self._note_state()
            case ("snapshot", index, data):
                self.host.on_snapshot(index, data)
                self._note_state()
            case _:
                self.main.wake()

    def asked(self, back: tuple[int, int], kind: int, payload: bytes) -> None:
        """Take a question or a broadcast."""
        if kind == Kind.REPORT:
            self.host.on_report_bytes(MemberId(back[0]), payload)
        elif kind in (Kind.CUT, Kind.CATCH_UP):
            task = self.loop.create_task(self._answer(back, kind, payload))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, back: tuple[int, int], kind: int, payload: bytes) -> None:
        cutting = kind == Kind.CUT
        survey = self.host.survey
        answer = survey.answer_cut if cutting else survey.answer_catch_up
        encoded = await answer(payload)
        machine = self.machine
        machine.links.send(
            machine.number, back[0], machine.receive_answer, back[0], back[1], encoded
        )

    def _route(self, routing: Routing, expires_ns: int) -> None:
        self.pacing.note()
        self.routing = routing
        self.routing_expires_ns = expires_ns

    def write_target(self) -> int | None:
        """Return where this node's proxy sends a writer now; None: nowhere."""
        fresh = self.machine.clock.now_ns() < self.routing_expires_ns
        if self.routing is None or self.routing.primary is None or not fresh:
            return None
        return int(self.routing.primary.member_id)


def _pace_of(timings: Timings) -> Pace:
    return Pace(
        probe_ms=timings.probe_ms,
        renew_ms=timings.renew_ms,
        lease_ms=timings.lease_ms,
        lag_max_bytes=1 << 20,
        replica_lag_max_bytes=1 << 24,
    )
