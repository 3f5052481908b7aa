"""One node: this module alone knows all parts. It builds them and runs them."""

import asyncio
import secrets as random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from pgbastion._build import VERSION
from pgbastion.api.app import build_api, build_metrics_api
from pgbastion.api.ports import Tokens
from pgbastion.api.server import ApiServer
from pgbastion.clock import boottime_ns
from pgbastion.config.load import load_config
from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.reload import what_changes
from pgbastion.config.secrets import TOKEN_FILE_NAME, Secrets
from pgbastion.consensus.engine import Engine, ask_as_guest, is_member
from pgbastion.consensus.interface import (
    Committed,
    Event,
    LeaderChanged,
    Logged,
    Request,
    SnapshotTaken,
)
from pgbastion.control.apply import Outcome
from pgbastion.control.routing import Routing
from pgbastion.errors import PgBastionError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page
from pgbastion.ha.cutter import NodeCutter, WitnessCutter
from pgbastion.ha.executor import Executor, Job, Server
from pgbastion.ha.host import Host
from pgbastion.ha.joining import Doorkeeper, Identity, Joiner
from pgbastion.ha.loop import LeaseWords, Loop, Pace
from pgbastion.ha.observer import Observer
from pgbastion.ha.talk import Kind, decode_cut, encode_answer
from pgbastion.model.cluster import Assignment, Member, Policy, join_host_port
from pgbastion.model.commands import Found, Release
from pgbastion.model.ids import Epoch, Incarnation, MemberId, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.views import START_MAX_MS, Limits
from pgbastion.node_api import NodeCommands, Snapshots
from pgbastion.observe.logging import configure_logging, get_logger
from pgbastion.observe.metrics import Metrics
from pgbastion.postgres.config_files import Secrets as Passwords
from pgbastion.postgres.guard_link import GuardLink
from pgbastion.postgres.instance import Bounds, Instance
from pgbastion.postgres.layout import PgIdentity, PgPaths, PgRoles, resolve_account
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Backend, DataPath, Routes
from pgbastion.proxy.routes import Limits as ProxyLimits

GUEST_TIMEOUT_S: Final = 1.0
FOUND_AGAIN_S: Final = 0.2
RELEASE_DEADLINE_S: Final = 3.0

log = get_logger("node")


class SharedPage:
    """The daemon's words of the shared page.

    They are written only while this daemon is the writer in office: a successor may
    have been named while this process was stopped.
    """

    def __init__(self, page: Page, generation: int) -> None:
        self._page = page
        self.generation = generation

    def _may_write(self) -> bool:
        return self._page[words.GENERATION] == self.generation

    def note_evidence(self, at_ns: int) -> None:
        """Note that PostgreSQL and its disks answered."""
        if self._may_write() and at_ns > self._page[words.EVIDENCE_NS]:
            self._page[words.EVIDENCE_NS] = at_ns

    def latch_release(self, epoch: Epoch) -> None:
        """Note that this epoch is given back, before anybody is told.

        Raises:
            PgBastionError: Another daemon is the writer.
        """
        if not self._may_write():
            raise PgBastionError("another daemon of this node is in office")
        self._page[words.RELEASED_EPOCH] = max(self._page[words.RELEASED_EPOCH], epoch)

    def set_lead(self, lead_ms: int) -> None:
        """Have the guard act this long before the lease's end."""
        if self._may_write():
            self._page[words.LEAD_NS] = lead_ms * 1_000_000

    def read(self) -> LeaseWords:
        """Return what the page says."""
        page = self._page
        return LeaseWords(
            epoch=page[words.EPOCH],
            expiry_ns=page[words.EXPIRY_NS],
            released_epoch=page[words.RELEASED_EPOCH],
            evidence_ns=page[words.EVIDENCE_NS],
        )


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
        on_ready: Callable[[], None],
    ) -> None:
        self.config = config
        self.secrets = secrets
        self.engine = engine
        self.page = page
        self.guard = guard
        self.instance = instance
        self._on_ready = on_ready
        self._is_ready = False
        self.own = own_member(config)
        self.incarnation = Incarnation(random.randbits(62) + 1)
        self._routes: Routes | None = None
        self._revision = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._joiner: Joiner | None = None
        self._build()

    def _build(self) -> None:
        config, timings = self.config, self.config.timings
        node = NodeId(config.node.name)
        job = Job()
        self.observer: Observer | None = None
        cutter: NodeCutter | WitnessCutter = WitnessCutter()
        server = None
        if self.instance is not None and self.guard is not None:
            self.observer = Observer(
                self.instance,
                self.guard,
                probe_ms=timings.probe_ms,
                on_evidence=self.page.note_evidence,
                on_change=self.wake,
            )
            server = Server(
                database=self.instance, guard=self.guard, observer=self.observer
            )
            cutter = NodeCutter(node=node, server=server, job=job)
        self.host = Host(
            self.engine,
            node=node,
            cutter=cutter,
            on_change=self.wake,
            cut_timeout_ms=2 * timings.probe_ms + timings.deadline_ms,
        )
        self.executor = Executor(
            host=self.host,
            engine=self.engine,
            server=server,
            job=job,
            stop_ms=timings.stop_ms,
            latch_release=self.page.latch_release,
            lease_held=self._holds_lease,
            hold=self._hold,
        )
        self.loop = Loop(
            host=self.host,
            engine=self.engine,
            guard=self.guard,
            observer=self.observer,
            executor=self.executor,
            own=self.own,
            incarnation=self.incarnation,
            limits=Limits(
                lease_ms=timings.lease_ms,
                stop_ms=timings.stop_ms,
                margin_ms=timings.margin_ms,
                evidence_max_ms=timings.evidence_max_ms,
                sync_silent_ms=timings.sync_silent_ms,
            ),
            pace=Pace(
                probe_ms=timings.probe_ms,
                renew_ms=timings.renew_ms,
                lease_ms=timings.lease_ms,
                lag_max_bytes=config.failover.max_lag_threshold,
                replica_lag_max_bytes=config.proxy.max_replica_lag,
            ),
            version=VERSION,
            words=self.page.read,
            on_routing=self._route,
        )
        self.doorkeeper = Doorkeeper(self.host, self.own, timeout_s=GUEST_TIMEOUT_S)
        proxy = config.proxy
        self.proxy = Proxy(
            bind=proxy.bind_address,
            primary_port=proxy.primary_port,
            replica_port=proxy.replica_port,
            limits=ProxyLimits(
                connections_max=proxy.max_connections,
                hold_s=proxy.hold_timeout / 1_000,
                hold_max=proxy.max_hold,
            ),
            on_event=lambda event, fields: log.debug(event, **fields),
            data_path=DataPath.USERSPACE,
        )
        self.snapshots = Snapshots(
            host=self.host,
            engine=self.engine,
            loop=self.loop,
            proxy=self.proxy,
            own=self.own,
            report_max_ms=3 * timings.probe_ms,
        )
        commands = NodeCommands(host=self.host, own=self.own, reload=self.reload)
        metrics = Metrics()
        self._servers = [
            ApiServer(
                build_api(
                    self.snapshots.take,
                    commands,
                    tokens=self._tokens,
                    render_metrics=metrics.render,
                ),
                host=config.api.bind_address,
                port=config.api.port,
            ),
            ApiServer(
                build_metrics_api(
                    self.snapshots.take,
                    tokens=self._tokens,
                    render_metrics=metrics.render,
                ),
                host=config.metrics.bind_address,
                port=config.metrics.port,
            ),
        ]

    def _tokens(self) -> Tokens:
        config = self.config
        place = config.api.auth_token_file or config.raft.data_dir / TOKEN_FILE_NAME
        return Tokens(
            write=self.secrets.write_token,
            read=self.secrets.read_token,
            place=str(place),
        )

    def wake(self) -> None:
        """Have a pass soon."""
        self.loop.wake()

    async def run(self) -> None:
        """Run until cancelled, or until a part fails."""
        await self.proxy.start()
        for server in self._servers:
            await server.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_events(), name="events")
            group.create_task(self.snapshots.lag.run(), name="loop-lag")
            await self._get_identity()
            if self.observer is not None:
                await self.observer.inspect()
                group.create_task(self.observer.run(), name="observer")
            group.create_task(self._found(), name="found")
            group.create_task(self.loop.confirm(), name="confirm")
            group.create_task(self.loop.run(), name="loop")

    # Identity

    async def _get_identity(self) -> None:
        known = self.engine.identity()
        if known is None:
            config = self.config
            self._joiner = Joiner(
                own=self.own,
                cluster_name=config.cluster.name,
                peers=[join_host_port(peer.host, peer.port) for peer in config.peers],
                founding=config.raft.bootstrap and await self._may_found(),
                auto_join=config.cluster.auto_join,
                ask=self._ask_peer,
            )
            identity = await self._joiner.run()
            self._take_identity(identity)
            known = self.engine.identity()
        if known is None:
            raise PgBastionError("the consensus engine has no identity")
        self._joiner = None
        if self.instance is not None:
            self.instance.cluster_id = known[0]
        log.info("member", cluster_id=known[0], member_id=known[1])

    async def _may_found(self) -> bool:
        """A data directory with a mark belongs to a cluster: it never founds one."""
        if self.instance is None:
            return True
        facts = await self.instance.inspect(running=False)
        if facts.ours:
            log.warning(
                "not_founding", reason="the data directory has a cluster's mark"
            )
        return not facts.ours

    def _take_identity(self, identity: Identity) -> None:
        if identity.peers:
            self.engine.join(
                identity.cluster_id, identity.member_id, list(identity.peers)
            )
        else:
            self.engine.form(
                identity.cluster_id, identity.member_id, self.own.raft_address
            )

    async def _ask_peer(self, address: str, kind: Kind, payload: bytes) -> bytes | None:
        return await ask_as_guest(
            address, self.secrets.cluster, kind, payload, GUEST_TIMEOUT_S
        )

    async def _found(self) -> None:
        """Put the first command into the log of a cluster that this node formed."""
        config, timings = self.config, self.config.timings
        while not self.host.state.cluster_id:
            raft = self.host.raft()
            identity = self.engine.identity()
            alone = raft.voters == (raft.member_id,)
            if identity and raft.is_leader and raft.own_entry_applied and alone:
                command = Found(
                    cluster_name=config.cluster.name,
                    cluster_id=identity[0],
                    member=replace(
                        self.own, member_id=MemberId(identity[1]), joined=True
                    ),
                    policy=Policy(
                        lease_ms=timings.lease_ms,
                        drift_ppm=timings.drift_ppm,
                        margin_ms=timings.margin_ms,
                    ),
                    mode=config.replication.mode,
                    sync_count=config.replication.sync_count,
                    strict=config.replication.strict,
                )
                outcome = await self.host.propose(command, timeout_s=GUEST_TIMEOUT_S)
                if outcome is Outcome.OK:
                    log.info("cluster_founded", name=config.cluster.name)
            await asyncio.sleep(FOUND_AGAIN_S)

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
                task = asyncio.create_task(self._answer(event))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            case LeaderChanged(term=term, leader=leader):
                log.info("raft_leader", term=term, leader=leader)
                self.loop.wake()
            case Logged(level=level, event=name, fields=fields):
                say = log.warning if level == "warning" else log.info
                say(name, **fields)
            case SnapshotTaken():
                self.host.on_snapshot(event.index, event.data)
            case _:
                self.loop.wake()

    def _note_state(self) -> None:
        if self.instance is None:
            return
        state = self.host.state
        self.instance.mode = state.mode
        own = self.config.node.name
        self.instance.nodes = tuple(m.name for m in state.servers if m.name != own)

    async def _answer(self, request: Request) -> None:
        if request.kind == Kind.REPORT:
            self.host.on_report_bytes(MemberId(request.member_id), request.payload)
            return
        answer = b""
        if request.member_id == 0:
            answer = await self._answer_guest(request)
        elif request.kind == Kind.CUT:
            answer = await self._answer_cut(request.payload)
        self.engine.answer(request.request_id, answer)

    async def _answer_guest(self, request: Request) -> bytes:
        if self._joiner is not None:
            return self._joiner.answer(request.kind, request.payload)
        return await self.doorkeeper.answer(request.kind, request.payload)

    async def _answer_cut(self, payload: bytes) -> bytes:
        epoch = decode_cut(payload)
        if epoch is None:
            return b""
        answer = await self.host.cut(epoch)
        return b"" if answer is None else encode_answer(answer)

    # The lease

    def _holds_lease(self, epoch: Epoch) -> bool:
        """The permit for what cannot be undone: looked at again just before it."""
        page = self.page.read()
        held = self.host.state.assignment
        return (
            held is not None
            and held.epoch == epoch
            and held.live
            and page.epoch == epoch
            and page.released_epoch < epoch
            and boottime_ns() < page.expiry_ns - self.config.timings.margin_ms * 10**6
        )

    def _hold(self, epoch: Epoch) -> None:
        timings = self.config.timings
        self.page.set_lead(timings.margin_ms)
        self.engine.hold(
            epoch,
            self.incarnation,
            renew_ms=timings.renew_ms,
            deadline_ms=timings.deadline_ms,
            evidence_max_ms=timings.evidence_max_ms,
            asked_max_ms=START_MAX_MS,
        )
        self.loop.renewing = epoch

    # Where clients go

    def _route(self, routing: Routing, expires_ns: int) -> None:
        self.snapshots.routing = routing
        primary = _backend(routing.primary) if routing.primary else None
        routes = Routes(
            revision=self._revision,
            epoch=routing.epoch,
            primary=primary,
            primary_reason=routing.primary_reason,
            replicas=tuple(_backend(m) for m in routing.replicas),
            replica_reason=routing.replica_reason,
            expires_ns=0,
        )
        if self._routes is not None and routes == self._routes:
            self.proxy.extend(expires_ns)
            return
        self._revision += 1
        self._routes = replace(routes, revision=self._revision)
        self.proxy.set_routes(replace(self._routes, expires_ns=expires_ns))
        if not self._is_ready and primary is not None:
            self._is_ready = True
            self._on_ready()

    # A changed configuration

    async def reload(self) -> str:
        """Read the configuration again; return what came of it, in words.

        Raises:
            ConfigError: It cannot be used; nothing has changed.
        """
        new = load_config(self.config.source)
        changes = what_changes(self.config, new)
        self.config = new
        configure_logging(level=new.log.level, form=new.log.format)
        self.own = own_member(new)
        self.loop.set_own(self.own)
        if self.instance is not None and new.postgresql is not None:
            self.instance.config.reconfigure(
                dict(new.postgresql.parameters), new.postgresql.hba
            )
            if self.guard is not None and self.guard.facts().pid:
                await self.instance.reload(self.host.state.servers)
        told = (
            f"applied: {', '.join(changes.applied) or 'nothing'}; needs a restart: "
            f"{', '.join(changes.needs_restart) or 'nothing'}; the cluster's own "
            f"values count for: {', '.join(changes.held_by_cluster) or 'nothing'}"
        )
        log.info("reloaded", result=told)
        self.loop.wake()
        return told

    # The end

    async def halt(self) -> None:
        """Decide nothing any more; log and lease go on."""
        await self.loop.halt()
        await self.executor.stop()

    async def stop_postgres(self) -> None:
        """Stop PostgreSQL in order; a primary gives its epoch back first."""
        if self.guard is None:
            return
        held = self.host.state.assignment
        own = held is not None and held.member_id == self.host.raft().member_id
        await self.guard.stop(fast_ms=self.config.failover.stop_timeout)
        if own and held is not None and held.live:
            await self._release(held)
        await self.guard.quit()

    async def _release(self, held: Assignment) -> None:
        """Give the epoch back: PostgreSQL has stopped, another node may go on."""
        if self.guard is None or held.incarnation != self.incarnation:
            return
        await self.guard.end_epoch(held.epoch)
        self.page.latch_release(held.epoch)
        self._hold(Epoch(0))
        command = Release(
            epoch=held.epoch,
            incarnation=self.incarnation,
            lsn=None,
            cause=Reason.STOPPED_BY_OPERATOR,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        outcome = await self.host.propose(command, timeout_s=RELEASE_DEADLINE_S)
        log.info("epoch_released", epoch=held.epoch, outcome=outcome)

    async def close(self) -> None:
        """Close everything that this process holds; PostgreSQL and guard go on."""
        await self.halt()
        await self.host.stop()
        await self.proxy.stop(0)
        for server in self._servers:
            await server.stop()
        if self.instance is not None:
            await self.instance.close()
        if self.guard is not None:
            await self.guard.close()
        self.engine.stop()


def own_member(config: Config) -> Member:
    """Return this node's member record, as its configuration says."""
    tags = config.tags
    return Member(
        member_id=MemberId(0),
        name=NodeId(config.node.name),
        host=config.node.address,
        raft_port=config.raft.bind_port,
        postgres_port=config.postgresql.port if config.postgresql else None,
        api_port=config.api.port,
        primary_port=config.proxy.primary_port,
        replica_port=config.proxy.replica_port,
        nofailover=tags.nofailover or tags.failover_priority == 0,
        nosync=tags.nosync,
        noloadbalance=tags.noloadbalance,
        failover_priority=tags.failover_priority,
    )


def _backend(member: Member) -> Backend:
    return Backend(node=member.name, host=member.host, port=member.postgres_port or 0)


async def build_node(
    config: Config, secrets: Secrets, *, on_ready: Callable[[], None]
) -> Node:
    """Build the parts of a node, in the order in which they need each other.

    Raises:
        PgBastionError: A part cannot be had.
    """
    guard, instance = None, None
    page_path = config.run_dir / "page"
    node: Node | None = None

    def on_stopped() -> None:
        if node is not None and node.observer is not None:
            node.observer.on_stopped()

    def on_event() -> None:
        if node is not None:
            node.wake()

    if config.postgresql is not None:
        instance = build_instance(config, config.postgresql, secrets)
        account = resolve_account(config.postgresql.os_user)
        guard = GuardLink(
            run_dir=config.run_dir,
            data_dir=config.postgresql.data_dir,
            user=account.name,
            uid=account.uid,
            on_stopped=on_stopped,
            on_event=on_event,
        )
        if not is_member(config.raft.data_dir):
            await guard.start_afresh()
        await guard.connect()
        page = Page(str(page_path))
    else:
        page = words.obtain(str(page_path))
        page[words.GENERATION] += 1
    generation = page[words.GENERATION]
    timings = config.timings
    engine = Engine(
        directory=config.raft.data_dir,
        listen=join_host_port(config.raft.bind_address, config.raft.bind_port),
        secret=secrets.cluster,
        heartbeat_ms=timings.heartbeat_ms,
        election_ms=timings.election_ms,
        page=page_path,
        generation=generation,
    )
    shared = SharedPage(page, generation)
    node = Node(
        config,
        secrets,
        engine=engine,
        page=shared,
        guard=guard,
        instance=instance,
        on_ready=on_ready,
    )
    return node


def build_instance(
    config: Config, section: PostgresqlSection, secrets: Secrets
) -> Instance:
    """Build the adapter of this node's PostgreSQL."""
    timings = config.timings
    roles = PgRoles(
        superuser=section.superuser,
        replication=section.replication_user,
        rewind=section.rewind_user,
    )
    return Instance(
        paths=PgPaths(
            bin_dir=section.bin_dir,
            data_dir=section.data_dir,
            config_dir=section.config_dir,
            run_dir=config.run_dir,
            socket_dir=section.socket_dir,
            state_dir=config.raft.data_dir,
            account=resolve_account(section.os_user),
        ),
        identity=PgIdentity(
            node=NodeId(config.node.name),
            listen=(section.listen,),
            port=section.port,
            roles=roles,
        ),
        secrets=Passwords(secrets.passwords),
        parameters=dict(section.parameters),
        hba=section.hba,
        bounds=Bounds(
            look_s=(timings.evidence_max_ms - timings.probe_ms) / 1_000,
            cut_s=timings.evidence_max_ms / 1_000,
        ),
    )
