"""One running node: its parts, joined, and what each tells the others."""

import asyncio
import secrets as random
from collections.abc import Callable, Mapping

from pgbastion._build import VERSION
from pgbastion.config.model import Config
from pgbastion.config.secrets import Secrets
from pgbastion.consensus.engine import Engine
from pgbastion.consensus.interface import (
    BaseWanted,
    Committed,
    Event,
    LeaderChanged,
    Logged,
    MembersChanged,
    Request,
    SnapshotTaken,
)
from pgbastion.control.routing import Routing
from pgbastion.ha.cutter import NodeCutter, WitnessCutter
from pgbastion.ha.executor import Executor, Server
from pgbastion.ha.host import Host
from pgbastion.ha.job import Job
from pgbastion.ha.loop import Loop
from pgbastion.ha.observer import Observer
from pgbastion.ha.sight import Sight
from pgbastion.ha.standing import StandingWatch
from pgbastion.model.ids import Epoch, Incarnation
from pgbastion.node.addresses import build_addresses
from pgbastion.node.certificates import Certificates
from pgbastion.node.fencing import FenceProgram
from pgbastion.node.front import Front
from pgbastion.node.gossip import GossipWatch
from pgbastion.node.late_archiving import LateArchiving
from pgbastion.node.members import MemberOrders
from pgbastion.node.membership import Membership
from pgbastion.node.notifications import Notifications
from pgbastion.node.ordering import Ordering
from pgbastion.node.page import SharedPage
from pgbastion.node.parts import cut_timeout_ms, limits_of, own_member, pace_of
from pgbastion.node.peer_requests import PeerRequests
from pgbastion.node.reloading import Reloads, reload_node
from pgbastion.node.renewing import hold_lease
from pgbastion.node.retiring import Retiring
from pgbastion.node.settings import ClusterSettings
from pgbastion.node.settings_change import SettingsChange
from pgbastion.node.slot_carrying import SlotCarrying, carrying
from pgbastion.node.split_watch import SplitWatch
from pgbastion.node.timings import build_pacing
from pgbastion.node.tracing import Traces
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.instance import Instance

log = get_logger("node")


class Node:
    """The running parts of one node."""

    def __init__(
        self,
        config: Config,
        secrets: Secrets,
        *,
        engine: Engine,
        page: SharedPage,
        guard: GuardLink | None,
        instance: Instance | None,
        certificates: Certificates,
        on_ready: Callable[[], None],
        on_removed: Callable[[], None],
    ) -> None:
        self.config = config
        self.secrets = secrets
        self.engine = engine
        self.page = page
        self.guard = guard
        self.instance = instance
        self.certificates = certificates
        self._on_ready = on_ready
        self._on_removed = on_removed
        self._standing: StandingWatch | None = None
        self.own = own_member(config)
        self.incarnation = Incarnation(random.randbits(62) + 1)
        self._peer_tasks: set[asyncio.Task[None]] = set()
        self._hosts: tuple[str, ...] = ()
        self.reloads = Reloads(lambda: reload_node(self, self._holds_lease))
        self.settings: ClusterSettings | None = None
        self.slots: SlotCarrying | None = None
        self._build()
        self.split_watch = self._make_split_watch()
        self.pacing = build_pacing(self)

    def _build(self) -> None:
        """Make the parts, in the order in which they need each other."""
        job = Job()
        server = self._make_server()
        self.host = self._make_host(server, job)
        self.ordering = Ordering(
            self.host,
            fresh_ms=self.config.timings.sync_silent_ms,
            drain_ms=lambda: self.config.proxy.drain_timeout,
        )
        self.addresses = build_addresses(
            self.config,
            guard=self.guard,
            permit=self._holds_lease,
            on_change=self.wake,
            host=self.host,
            ordering=self.ordering,
        )
        if self.instance is not None:
            self.settings = ClusterSettings(
                self.host,
                self.instance,
                node=self.own.name,
                local=self._local_parameters,
                fresh_ms=self.config.timings.sync_silent_ms,
                is_primary=self._leads,
                reload=self.reload_server,
            )
        self.executor = Executor(
            host=self.host,
            engine=self.engine,
            server=server,
            job=job,
            stop_ms=self.config.timings.stop_ms,
            latch_release=self.page.latch_release,
            lease_held=self._holds_lease,
            hold=self._hold,
            addresses=self.addresses,
        )
        self.loop = self._make_loop()
        self.host.fencer = FenceProgram(lambda: self.config, on_change=self.wake)
        self._build_front()
        self.retiring = Retiring(
            lambda: self.config,
            host=self.host,
            ordering=self.ordering,
            guard=self.guard,
            addresses=self.addresses,
            page=self.page,
            incarnation=self.incarnation,
            holds_lease=self._holds_lease,
            hold=self._hold,
            say_leaving=self.loop.leave,
        )

    def _make_loop(self) -> Loop:
        sight = Sight(
            host=self.host,
            engine=self.engine,
            guard=self.guard,
            observer=self.observer,
            executor=self.executor,
            own=self.own,
            incarnation=self.incarnation,
            limits=limits_of(self.config),
            words=self.page.read,
            addresses=self.addresses,
        )
        return Loop(
            host=self.host,
            engine=self.engine,
            observer=self.observer,
            executor=self.executor,
            sight=sight,
            pace=pace_of(self.config),
            version=VERSION,
            on_routing=self._route,
            addresses=self.addresses,
        )

    def _build_front(self) -> None:
        self.gossip = GossipWatch(
            self.config,
            self.secrets.cluster,
            own=lambda: self.own,
            state=lambda: self.host.state,
            on_suspicion=self.loop.wake,
        )
        self.membership = Membership(
            self.config,
            self.secrets,
            engine=self.engine,
            host=self.host,
            instance=self.instance,
            own=self.own,
            credentials=self.certificates.credentials,
            found=self.gossip.found,
        )
        self.members = MemberOrders(
            self.host,
            self.engine,
            own=lambda: self.own,
            fresh_ms=3 * self.config.timings.probe_ms,
        )
        self.notifications = Notifications(
            self.config,
            state=lambda: self.host.state,
            caught_up=self.engine.read_index,
        )
        self.front = Front(
            self.config,
            self.secrets,
            host=self.host,
            engine=self.engine,
            loop=self.loop,
            own=self.own,
            members=self.members,
            ordering=self.ordering,
            settings_change=SettingsChange(
                self.host, judge=self.instance.judge if self.instance else None
            ),
            reload=self.reload,
            on_ready=self._on_ready,
            certificate=self.certificates.snapshot,
            addresses=self.addresses,
            gossip=self.gossip.snapshot,
            notifications=self.notifications,
        )
        self.peer_requests = PeerRequests(
            self.engine, self.host, self.membership, self.front, guard=self.guard
        )
        self.addresses.end_sessions_by(self.front.proxy.leave)
        self.traces = Traces(
            self.own.name, host=self.host, loop=self.loop, proxy=self.front.proxy
        )
        self.addresses.lead_to(lambda: self.front.proxy.fault)

    def _make_server(self) -> Server | None:
        self.observer: Observer | None = None
        if self.instance is None or self.guard is None:
            return None
        self.observer = Observer(
            self.instance,
            self.guard,
            probe_ms=self.config.timings.probe_ms,
            on_evidence=self.page.note_evidence,
            on_change=self.wake,
        )
        return Server(
            database=self.instance,
            guard=self.guard,
            observer=self.observer,
            hand_over=self.instance.planned_end(),
        )

    def _make_host(self, server: Server | None, job: Job) -> Host:
        cutter: NodeCutter | WitnessCutter = WitnessCutter()
        if server is not None:
            cutter = NodeCutter(node=self.own.name, server=server, job=job)
        return Host(
            self.engine,
            node=self.own.name,
            cutter=cutter,
            on_change=self.wake,
            cut_timeout_ms=cut_timeout_ms(self.config.timings),
        )

    def _make_split_watch(self) -> SplitWatch | None:
        guard, observer = self.guard, self.observer
        if self.instance is None or guard is None or observer is None:
            return None

        def may_fence() -> bool:
            idle = not guard.facts().running and self.executor.job.name is None
            return idle and observer.data.ours and not self.paused

        watch = SplitWatch(
            self.host,
            own=self.own.name,
            probe_ms=self.config.timings.probe_ms,
            probe=self.instance.role_probe(),
            may_fence=may_fence,
            fence=guard.fence_unguarded,
            on_change=self.wake,
        )
        self.loop.reporter.unwatched = watch.seen
        return watch

    def wake(self) -> None:
        """Have the loop pass soon."""
        if self.settings is not None:
            self.settings.note()
        self.retiring.note()
        self.loop.wake()

    def _route(self, routing: Routing, expires_ns: int) -> None:
        self.pacing.note()
        self.front.route(routing, expires_ns)

    async def run(self) -> None:
        """Run until cancelled, or until a part fails."""
        await self.addresses.start()
        await self.front.start()
        await asyncio.to_thread(self.traces.reconfigure, self.config.tracing)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_events(), name="events")
            group.create_task(self.front.snapshots.lag.run(), name="loop-lag")
            group.create_task(self.certificates.run(), name="certificates")
            if self.front.tls is not None:
                group.create_task(self.front.tls.run(), name="api-certificate")
            group.create_task(self.gossip.run(), name="gossip")
            group.create_task(self.notifications.run(), name="notifications")
            if self.guard is not None:
                group.create_task(self.guard.keep_log_short(), name="server-log")
                group.create_task(self.guard.keep_going(), name="guard")
            await self.membership.obtain()
            self.loop.sight.lost_data = self.membership.lost_data
            if self.observer is not None:
                await self.observer.inspect()
                group.create_task(self.observer.run(), name="observer")
            group.create_task(self.addresses.run(), name="addresses")
            if self.settings is not None:
                group.create_task(self.settings.run(), name="settings")
            if self.instance is not None and self.observer is not None:
                self.slots = carrying(
                    self.config, self.host, self.observer, self.instance
                )
                group.create_task(self.slots.run(), name="slots")
                late = LateArchiving(self.observer, self.instance.archive)
                group.create_task(late.run(), name="late-archiving")
            group.create_task(self.membership.found(), name="found")
            group.create_task(self.pacing.run(), name="pacing")
            group.create_task(self.loop.confirm(), name="confirm")
            group.create_task(self._watch_standing(), name="standing")
            group.create_task(self.loop.run(), name="loop")
            if self.split_watch is not None:
                group.create_task(self.split_watch.run(), name="split-watch")

    async def _watch_standing(self) -> None:
        self._standing = self.membership.standing(self._stop_server)
        await self._standing.run()
        self._on_removed()

    async def _stop_server(self) -> None:
        if self.guard is not None:
            await self.guard.stop(fast_ms=self.config.failover.stop_timeout)

    # What the engine tells

    async def _take_events(self) -> None:
        async for event in self.engine.events():
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Committed(index=index, proposal_id=proposal_id, data=data):
                self.host.on_committed(index, proposal_id, data)
                self._note_state()
            case Request():
                task = asyncio.create_task(self.peer_requests.answer(event))
                self._peer_tasks.add(task)
                task.add_done_callback(self._peer_tasks.discard)
            case LeaderChanged(term=term, leader=leader):
                log.info("raft_leader", term=term, leader=leader)
                self.host.on_leader()
                self.loop.wake()
            case Logged(level=level, event=name, fields=fields):
                say = log.warning if level == "warning" else log.info
                say(name, **fields)
            case MembersChanged():
                self.host.on_members()
                self.wake()
            case BaseWanted():
                self.host.compact()
            case SnapshotTaken():
                self.host.on_snapshot(event.index, event.data)
                self._note_state()
            case _:
                self.loop.wake()

    @property
    def paused(self) -> bool:
        """Whether automatic actions are off: PostgreSQL stays as it is.

        A daemon that has not read its log yet goes by what the last one has noted.
        """
        return self.host.state.paused or self.page.read().paused

    def _note_state(self) -> None:
        self.notifications.note_state()
        self.pacing.note()
        if self._standing is not None:
            self._standing.notice()
        if self.instance is None:
            return
        if self.settings is not None:
            self.settings.note()
        state = self.host.state
        self.page.note_pause(state.pause_revision, paused=state.paused)
        self.instance.mode = state.mode
        own = self.config.node.name
        known = state.named(self.own.name)
        if known is not None and known.data_id is not None:
            self.membership.note_data()
        self.instance.nodes = tuple(m.name for m in state.servers if m.name != own)
        hosts = tuple(m.host for m in state.servers)
        if hosts != self._hosts:
            self._hosts = hosts
            task = asyncio.create_task(self.peer_requests.let_in(self.instance))
            self._peer_tasks.add(task)
            task.add_done_callback(self._peer_tasks.discard)

    # The lease

    def _holds_lease(self, epoch: Epoch) -> bool:
        """The permit for what cannot be undone: looked at again just before it."""
        return self.page.grants(epoch, self.host.state, self.config.timings.margin_ms)

    def renew_anew(self) -> None:
        """Go on renewing what is being renewed, by the timings as they are now."""
        if self.loop.sight.renewing:
            self._hold(self.loop.sight.renewing)

    def _hold(self, epoch: Epoch) -> None:
        hold_lease(
            epoch,
            self.config.timings,
            incarnation=self.incarnation,
            sight=self.loop.sight,
            page=self.page,
            engine=self.engine,
        )

    # A changed configuration

    async def reload(self, dry_run: bool = False) -> str:  # noqa: FBT001, FBT002
        """Read the configuration again; return what came of it, in words.

        Raises:
            ConfigError: It cannot be used; nothing has changed.
        """
        if dry_run:
            return await reload_node(self, self._holds_lease, dry_run=True)
        return await self.reloads.once()

    async def reload_server(self) -> tuple[str, ...]:
        """Have the server read its files, written anew, if it runs.

        Returns:
            The settings that wait for its restart.
        """
        if self.instance is None or self.guard is None or not self.guard.facts().pid:
            return ()
        servers = self.host.state.servers
        return await self.instance.reload(servers, primary=self._runs_primary())

    def _runs_primary(self) -> bool:
        server = self.observer.server if self.observer is not None else None
        return server is not None and server.in_recovery is False

    def _leads(self) -> bool:
        """Whether the server is a primary, or is to be started as one."""
        held = self.host.state.assignment
        own = held is not None and held.live and held.node == self.own.name
        return own or self._runs_primary()

    def _local_parameters(self) -> Mapping[str, str]:
        section = self.config.postgresql
        return section.parameters if section is not None else {}

    # The end

    async def halt(self) -> None:
        """Decide nothing any more; log and lease go on."""
        await self.loop.halt()
        await self.executor.stop()

    async def dismiss_guard(self) -> None:
        """End a guard that has nothing to watch: this daemon has failed."""
        if self.guard is not None:
            await self.guard.dismiss()

    async def close(self) -> None:
        """Close everything that this process holds; PostgreSQL and guard go on."""
        await self.halt()
        await self.addresses.close()
        await self.host.stop()
        await self.front.stop()
        await asyncio.to_thread(self.traces.close)
        await self.gossip.stop()
        if self.split_watch is not None:
            await self.split_watch.close()
        if self.instance is not None:
            await self.instance.close()
        if self.guard is not None:
            await self.guard.close()
        self.engine.stop()
