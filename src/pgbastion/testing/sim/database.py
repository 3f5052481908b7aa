"""The database port of one daemon over the model of a server and its directory."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

from pgbastion.errors import PostgresError
from pgbastion.ha.ports import (
    DataFacts,
    RunningServer,
    ServerFacts,
    StoppedEnd,
    Upstream,
)
from pgbastion.model.cluster import Member, ReplicationMode, SyncSet
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.report import ReplicationRow
from pgbastion.model.views import RejoinStep, RejoinView
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.mark import Mark
from pgbastion.postgres.parse import ControlData
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.rejoin import has_strayed
from pgbastion.postgres.render import sync_names
from pgbastion.postgres.sync_change import SyncChange
from pgbastion.testing.sim.loop import SimLoop
from pgbastion.testing.sim.primary import SimPrimary
from pgbastion.testing.sim.server import Directory, Server
from pgbastion.testing.sim.wal import Branch

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

SYSTEM: str = "7000"
QUORUM: Final = ReplicationMode.QUORUM
"""How every modelled walsender counts."""
NO_NEARER_S = 5.0
REACH_ASK_EVERY_S = 0.02


class SimDatabase:
    """Fulfils ``ha.ports.Database``.

    Args:
        machine: Whose server it is.
        loop: Of the daemon that asks; once that is dead, nothing has an effect.
        look_ms: After this long a look counts as unanswered.
    """

    def __init__(self, machine: "Machine", loop: SimLoop, *, look_ms: int) -> None:
        self._machine = machine
        self._loop = loop
        self._look_s = look_ms / 1_000
        self._writing = asyncio.Lock()
        primary = SimPrimary(machine, server=self._server, write=self._disk)
        self._change = SyncChange(cast("Primary", primary))

    @property
    def _directory(self) -> Directory:
        return self._machine.directory

    async def _pause(self, least_ms: float, most_ms: float) -> None:
        delay_ms = self._machine.random.uniform(least_ms, most_ms)
        await asyncio.sleep(delay_ms / 1_000)

    async def _disk(self) -> None:
        """Wait for a write and its fsync."""
        await self._pause(*self._machine.fsync_ms)
        while self._machine.disk_frozen:
            await asyncio.sleep(0.05)

    async def _server(self) -> Server:
        """Return the running server once it has answered a question."""
        server = self._machine.server
        if server is None:
            raise PostgresError("the server does not run")
        answer: asyncio.Future[None] = self._loop.create_future()

        def settle() -> None:
            if self._loop.alive and not answer.done():
                answer.set_result(None)

        server.after(self._machine.random.uniform(0.2, 2), self._loop.call_soon, settle)
        async with asyncio.timeout(self._look_s):
            await answer
        if not server.alive or not server.answers:
            raise PostgresError("the server is starting or gone")
        return server

    # The directory

    def command(self) -> tuple[str, ...]:
        """Return the argument list that starts the server."""
        return ("postgres",)

    async def inspect(self, *, running: bool) -> DataFacts:
        """Look into the data directory."""
        await self._pause(0.5, 4)
        directory = self._directory
        if not directory.present:
            return DataFacts(empty=True, ours=False)
        return DataFacts(
            empty=False,
            ours=True,
            data_id=DataId(directory.data_id),
            epoch=Epoch(directory.epoch),
            promoted_epoch=Epoch(directory.promoted_epoch),
            cut_epoch=Epoch(directory.cut_epoch),
            was_standby=not running and directory.last_was_standby,
            system_identifier=SYSTEM,
            wal_end=None if running or directory.broken else self._wal_end(),
        )

    def _wal_end(self) -> WalEnd:
        directory = self._directory
        return WalEnd(
            timeline=Timeline(directory.branch.timeline), lsn=Lsn(directory.flushed)
        )

    async def initialise(self, cluster_id: str) -> None:
        """Make the first data directory."""
        del cluster_id
        await self._pause(300, 900)
        await self._disk()
        self._machine.replace_directory(
            Directory(
                present=True,
                data_id=self._machine.new_data_id(),
                flushed=1_000,
                branch=Branch(1, None, 0),
            )
        )

    async def check_takeover(self) -> RunningServer | None:
        """Return the server of a directory without a mark; here all have one."""
        raise PostgresError("the model's directories are the cluster's own")

    async def take_over(self, cluster_id: str, servers: Sequence[Member]) -> None:
        """Make a stranger's PostgreSQL one of ours; here there is none."""
        del cluster_id, servers
        raise PostgresError("the model's directories are the cluster's own")

    async def note_primary(self, epoch: Epoch) -> None:
        """Note the epoch of a server that was found running; here there is none."""
        del epoch
        raise PostgresError("the model's servers are all started by the guard")

    async def prepare_standby(
        self, upstream: Upstream | None, servers: Sequence[Member]
    ) -> None:
        """Write all files so that the next start is one in recovery."""
        del servers
        async with self._writing:
            self._change.forget()
            await self._disk()
            directory = self._directory
            if upstream is not None:
                self._refuse_cut(upstream)
                directory.epoch = upstream.epoch
                directory.upstream = self._target(upstream)
            else:
                directory.upstream = None
            await self._disk()
            directory.sync = None
            directory.standby = True

    async def prepare_primary(self, sync: SyncSet | None) -> None:
        """Write all files so that the next start is one outside recovery."""
        async with self._writing:
            self._change.forget()
            await self._disk()
            self._directory.sync = sync
            self._directory.standby = False

    def _refuse_cut(self, upstream: Upstream) -> None:
        if self._directory.cut_epoch >= upstream.epoch:
            raise PostgresError(f"it was cut from epoch {upstream.epoch}")

    def _target(self, upstream: Upstream) -> tuple[int, int]:
        return self._machine.number_of(upstream.node), upstream.epoch

    # The running server

    async def look(self, on_evidence: Callable[[int], None]) -> ServerFacts:
        """Ask the running server and its disks."""
        sent_ns = self._loop.now_ns()
        try:
            server = await self._server()
        except (PostgresError, TimeoutError) as exc:
            return ServerFacts(sent_ns=sent_ns, answered=False, reason=str(exc))
        if not self._machine.disk_frozen:
            on_evidence(sent_ns)
        directory = self._directory
        rows = tuple(
            ReplicationRow(
                name=s.name,
                streaming=s.flush > 0,
                flush_lsn=Lsn(s.flush),
                sync_state="quorum" if s.counts else "async",
            )
            for s in server.senders
        )
        return ServerFacts(
            sent_ns=sent_ns,
            answered=True,
            in_recovery=server.recovering,
            wal_end=self._wal_end(),
            replay_lsn=Lsn(directory.flushed),
            streaming=server.link is not None,
            checkpoint_timeline=Timeline(directory.checkpoint),
            replication=() if server.recovering else rows,
            slots=tuple(sorted(map(self._machine.name_of, directory.slots))),
            **self._change.facts(QUORUM, sync_names(QUORUM, directory.sync), sent_ns),
        )

    async def cut(self, epoch: Epoch) -> WalEnd | None:
        """Cut the running standby off from ``epoch`` durably."""
        async with self._writing:
            await self._disk()
            directory = self._directory
            directory.cut_epoch = max(directory.cut_epoch, epoch)
            directory.upstream = None
            server = await self._server()
            await self._pause(0.5, 20)
            server.disconnect()
            await self._pause(0.5, 3)
            if not server.alive or not server.recovering:
                return None
            return self._wal_end()

    async def cut_stopped(self, epoch: Epoch) -> StoppedEnd:
        """Cut the stopped server off from ``epoch`` durably."""
        async with self._writing:
            await self._disk()
            directory = self._directory
            directory.cut_epoch = max(directory.cut_epoch, epoch)
            directory.upstream = None
            await self._pause(5, 60)
            if directory.broken:
                return StoppedEnd(wal_end=None)
            return StoppedEnd(wal_end=self._wal_end(), has_strayed=self._has_strayed())

    def _has_strayed(self) -> bool:
        directory = self._directory
        mark = Mark(
            cluster_id="c1",
            data_id=DataId(directory.data_id),
            node=NodeId(self._machine.name),
            epoch=Epoch(directory.epoch),
            promoted_epoch=Epoch(directory.promoted_epoch),
            promoted_timeline=Timeline(directory.promoted_timeline),
        )
        ended = SimpleNamespace(is_standby=directory.last_was_standby)
        control = cast("ControlData", SimpleNamespace(state=ended))
        return has_strayed(mark, control, self._wal_end(), has_backup_label=False)

    async def timeline_begin(self, timeline: Timeline) -> Lsn | None:
        """Return where a timeline forked off its parent."""
        await self._pause(0.1, 1)
        for branch, _ in self._directory.branch.path():
            if branch.timeline == timeline and branch.parent is not None:
                return Lsn(branch.begin)
        return None

    async def newest_timeline(self) -> Timeline:
        """Return the highest timeline id that the directory knows of."""
        await self._pause(0.1, 1)
        return Timeline(max(self._directory.timelines, default=0))

    async def history(self, timeline: Timeline) -> tuple[tuple[Timeline, Lsn], ...]:
        """Return a timeline's newest ancestors and where each was left."""
        del timeline
        await self._pause(0.1, 1)
        forks = self._directory.branch.forks()
        return tuple((Timeline(t), Lsn(lsn)) for t, lsn in forks)

    async def follow(self, upstream: Upstream) -> None:
        """Point the running standby at a primary."""
        async with self._writing:
            await self._disk()
            self._refuse_cut(upstream)
            directory = self._directory
            directory.epoch = upstream.epoch
            directory.upstream = self._target(upstream)
            server = await self._server()
            server.disconnect()
            server.connect_soon()

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> None:
        """Stream from another standby until this one has that much."""
        async with self._writing:
            await self._disk()
            directory = self._directory
            if (
                directory.cut_epoch != upstream.epoch
                or directory.epoch > upstream.epoch
            ):
                raise PostgresError(f"it is not cut from epoch {upstream.epoch}")
            directory.upstream = self._target(upstream)
            server = await self._server()
            server.disconnect()
            server.connect_soon()
        async with asyncio.timeout(NO_NEARER_S):
            while self._wal_end() < upto:
                await asyncio.sleep(REACH_ASK_EVERY_S)

    async def wal_end(self) -> WalEnd | None:
        """Return the running standby's end of WAL, read now."""
        server = await self._server()
        return self._wal_end() if server.recovering else None

    async def promote(self, epoch: Epoch, timeline: Timeline) -> None:
        """Ask for a promotion that takes ``timeline``."""
        async with self._writing:
            directory = self._directory
            if directory.cut_epoch < epoch - 1:
                directory.cut_epoch = epoch - 1
                directory.upstream = None
                (await self._server()).disconnect()
            await self._disk()
            directory.epoch = directory.promoted_epoch = epoch
            directory.promoted_timeline = timeline
            directory.history_files |= set(range(2, timeline))
            server = await self._server()
            server.promote(self._machine.promotion_ms())

    async def apply_sync(self, sync: SyncSet, *, first: bool) -> bool:
        """Put the set into the setting; tell whether it is effective everywhere."""
        async with self._writing:
            own = DataId(self._directory.data_id)
            return await self._change.apply(QUORUM, sync, own, first=first)

    async def keep_slots(self, nodes: Sequence[NodeId]) -> None:
        """Have exactly these members' slots."""
        await self._server()
        self._directory.slots = {self._machine.number_of(node) for node in nodes}

    async def checkpoint(self) -> None:
        """Write a checkpoint, however long it takes."""
        server = await self._server()
        await self._pause(20, 700)
        await self._disk()
        if server.alive and not server.frozen:
            server.checkpoint()

    # Rejoining

    async def _upstream(self, upstream: Upstream) -> Server:
        await self._pause(1, 10)
        target = self._machine.peers[self._machine.number_of(upstream.node)]
        server = target.server
        reached = self._machine.links.connects(self._machine.number, target.number)
        if server is None or not reached or not server.answers or server.frozen:
            raise PostgresError(f"{upstream.node} cannot be reached")
        if server.recovering:
            raise PostgresError(f"{upstream.node} is no primary")
        return server

    async def examine(self, upstream: Upstream) -> RejoinView:
        """Compare the stopped directory with the primary's history."""
        server = await self._upstream(upstream)
        directory = self._directory
        step = RejoinStep.FOLLOW
        theirs = {branch.timeline for branch, _ in server.directory.branch.path()}
        another = self._has_strayed() and directory.branch.timeline in theirs
        if directory.broken or another:
            step = RejoinStep.COPY
        elif not directory.clean and not directory.last_was_standby:
            step = RejoinStep.RECOVER
        elif not self._lies_on(server):
            step = RejoinStep.REWIND
            if self._machine.random.random() < 0.2:
                step = RejoinStep.COPY
        return RejoinView(step=step, detail="", epoch=upstream.epoch)

    def _lies_on(self, server: Server) -> bool:
        """Judge by ids and positions, which is all that PostgreSQL has."""
        mine, theirs = self._directory, server.directory
        if mine.branch.timeline == theirs.branch.timeline:
            return mine.flushed <= theirs.flushed
        left = dict(theirs.branch.forks()).get(mine.branch.timeline)
        return left is not None and mine.flushed <= left

    async def copy(self, upstream: Upstream, cluster_id: str) -> None:
        """Replace the data directory by a copy of the primary's."""
        del cluster_id
        await self._replace(upstream, 400, 2_500)

    async def rewind(self, upstream: Upstream) -> None:
        """Rewind the stopped data directory to the primary's history."""
        await self._replace(upstream, 200, 1_500)

    async def _replace(
        self, upstream: Upstream, least_ms: float, most_ms: float
    ) -> None:
        server = await self._upstream(upstream)
        # The new id is on disk before anything else is touched.
        await self._disk()
        old = self._directory
        self._machine.replace_directory(
            Directory(
                present=True,
                data_id=self._machine.new_data_id(),
                epoch=old.epoch,
                cut_epoch=old.cut_epoch,
                branch=old.branch,
                flushed=old.flushed,
                broken=True,
            )
        )
        await self._pause(least_ms, most_ms)
        server = await self._upstream(upstream)
        new = self._directory
        new.branch, new.flushed = server.directory.branch, server.directory.flushed
        new.history_files = set(server.directory.history_files)
        new.checkpoint = new.branch.timeline
        await self._disk()
        new.clean, new.broken, new.standby = True, False, True
        new.last_was_standby = True

    async def recover(self) -> None:
        """Let the stopped, crashed server recover on its own."""
        await self._pause(100, 900)
        await self._disk()
        self._directory.clean = True

    async def refresh_access(self, servers: Sequence[Member]) -> None:
        """Nothing to do: the model lets everybody in."""

    async def close(self) -> None:
        """Nothing to close."""


class SimHandOver:
    """Fulfils ``ha.ports.HandOver``."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    async def drain(self, limit_ms: int) -> None:
        """Wait until the open transactions have ended."""
        await asyncio.sleep(self._machine.random.uniform(0, limit_ms) / 1_000)

    async def ended_at(self) -> WalEnd | None:
        """Return where the stopped server's WAL ends."""
        await asyncio.sleep(self._machine.random.uniform(1, 10) / 1_000)
        directory = self._machine.directory
        if not directory.clean or self._machine.server is not None:
            return None
        return WalEnd(
            timeline=Timeline(directory.branch.timeline), lsn=Lsn(directory.flushed)
        )
