"""This node's PostgreSQL as decisions see it: the directory, the programs, the server.

It joins the modules of this package behind ``ha.ports.Database`` and keeps one set of
warm connections to the running server.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pgbastion.ha.ports import (
    DataFacts,
    RunningServer,
    ServerFacts,
    StoppedEnd,
    Upstream,
)
from pgbastion.model.cluster import Member, ReplicationMode, SyncSet
from pgbastion.model.ids import Epoch, NodeId, Timeline
from pgbastion.model.settings import NodeSettings
from pgbastion.model.views import RejoinView
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres import render
from pgbastion.postgres.bootstrap import init_cluster
from pgbastion.postgres.config_files import ConfigFiles, Secrets
from pgbastion.postgres.connection import Address
from pgbastion.postgres.directory import DataDirectory
from pgbastion.postgres.disk import DiskWorker
from pgbastion.postgres.files import Files
from pgbastion.postgres.fitness import Fitness
from pgbastion.postgres.guc import judge_settings
from pgbastion.postgres.layout import PgIdentity, PgPaths
from pgbastion.postgres.lock_files import disown
from pgbastion.postgres.mark import Mark, MarkFile, new_data_id
from pgbastion.postgres.offline import Offline
from pgbastion.postgres.planned_end import PlannedEnd
from pgbastion.postgres.primary import Primary
from pgbastion.postgres.probe import Probe
from pgbastion.postgres.programs import Programs
from pgbastion.postgres.rejoin import has_strayed
from pgbastion.postgres.rejoin_ladder import Ladder
from pgbastion.postgres.rejoining import Rejoining
from pgbastion.postgres.role_probe import RoleProbe
from pgbastion.postgres.roles import renew_passwords
from pgbastion.postgres.server_log import SERVER_LOG, stream_failure
from pgbastion.postgres.setting_trial import SettingTrial
from pgbastion.postgres.settings import Problem, Value, limits
from pgbastion.postgres.side_queries import SideQueries
from pgbastion.postgres.source import FromPrimary
from pgbastion.postgres.standby import Standby, Unknown
from pgbastion.postgres.sync_change import SyncChange
from pgbastion.postgres.takeover import TakeOver
from pgbastion.postgres.trouble import Doctor
from pgbastion.postgres.vitals import vitals


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long things may take, in seconds."""

    look_s: float
    cut_s: float


class Instance:
    """One server and its directory.

    Args:
        paths: Where everything is.
        identity: Name, addresses, port and roles.
        secrets: Passwords by role.
        parameters: The operator's settings.
        hba: The operator's access rules.
        bounds: Limits of the profile.
        dbname: The database of the daemon's own connections.
        options: What they set besides, in libpq's form.
    """

    def __init__(
        self,
        *,
        paths: PgPaths,
        identity: PgIdentity,
        secrets: Secrets,
        parameters: dict[str, Value],
        hba: Sequence[str],
        bounds: Bounds,
        dbname: str = "postgres",
        options: str = "",
    ) -> None:
        self._paths = paths
        self._identity = identity
        self._secrets = secrets
        self._bounds = bounds
        self.files = Files(paths.account)
        self.programs = Programs(paths)
        self.config = ConfigFiles(
            paths, identity, self.files, secrets=secrets, parameters=parameters, hba=hba
        )
        self.mark = MarkFile(paths, self.files)
        self.offline = Offline(paths, self.files, self.programs)
        self._directory = DataDirectory(paths, self.files, self.mark, self.offline)
        roles = identity.roles
        address = Address(
            host=str(paths.socket_dir),
            port=identity.port,
            user=roles.superuser,
            password=secrets.of(roles.superuser),
            newest=lambda: secrets.of(roles.superuser),
            dbname=dbname,
            options=options,
        )
        self._disk = DiskWorker(paths, self.files)
        self._probe = Probe(address, self._disk)
        self._doctor = Doctor.at(address, deadline_s=lambda: self._bounds.look_s)
        self._standby = Standby(paths, address, self.files, self.config, self.mark)
        self._primary = Primary(address, self.config)
        self._sync = SyncChange(self._primary)
        self._side = SideQueries(self._primary, self._standby, look_s=bounds.look_s)
        self._access: tuple[str, ...] | None = None
        self._timeline: Timeline | None = None
        self._fitness = Fitness(address, roles, secrets, deadline_s=bounds.look_s)
        self._settings = NodeSettings(version=0)
        source = FromPrimary(paths, identity, self.files, self.programs, self.config)
        self.archive = source.archive
        ladder = Ladder(paths, self.files, self.programs, self.offline, source)
        self._rejoining = Rejoining(ladder, identity.node)
        self.address = address
        self._takeover = self._make_takeover()
        # One file: a cut that was answered must not be overwritten by earlier work.
        self._writing = asyncio.Lock()
        self.mode = ReplicationMode.QUORUM
        self.cluster_id = ""
        self.nodes: tuple[NodeId, ...] = ()
        """The other nodes that run PostgreSQL."""

    def _make_takeover(self) -> TakeOver:
        """Return what takes over a PostgreSQL that somebody else set up."""
        return TakeOver(
            self._paths,
            self._identity,
            self.files,
            programs=self.programs,
            offline=self.offline,
            config=self.config,
            mark_file=self.mark,
            secrets=self._secrets,
        )

    def planned_end(self) -> PlannedEnd:
        """Return what ends this server cleanly."""
        return PlannedEnd(self.address, self.offline)

    def role_probe(self) -> RoleProbe:
        """Return what asks servers of other nodes for their role."""
        return RoleProbe(replace(self.address, application_name="pgbastion watch"))

    def command(self) -> tuple[str, ...]:
        """Return the argument list that starts the server in the foreground."""
        return self._paths.server_command()

    # The directory

    async def inspect(self, *, running: bool) -> DataFacts:
        """Look into the data directory."""
        return await self._directory.inspect(self.cluster_id, running=running)

    async def initialise(self, cluster_id: str) -> None:
        """Make the first data directory with its roles and its mark."""
        mark = Mark(
            cluster_id=cluster_id, data_id=new_data_id(), node=self._identity.node
        )
        await init_cluster(
            self._paths,
            self.files,
            self.programs,
            roles=self._identity.roles,
            secrets=self._secrets,
            mark=mark,
            limits=limits(self.config.settings({})),
        )
        await self.config.write_access((), fresh=True)

    async def check_takeover(self) -> RunningServer | None:
        """Check a PostgreSQL that somebody else made; return the server, if it runs."""
        return await self._takeover.check()

    async def take_over(self, cluster_id: str, servers: Sequence[Member]) -> None:
        """Make that PostgreSQL one of ours, stopped or running; the mark comes last."""
        hosts = tuple(m.host for m in servers)
        await self._takeover.take_over(cluster_id, hosts)
        await self._forget()

    async def note_primary(self, epoch: Epoch) -> None:
        """Note in the mark that the server is the primary of ``epoch``."""
        await self.mark.update(promoted=epoch)

    async def prepare_standby(
        self, upstream: Upstream | None, servers: Sequence[Member]
    ) -> None:
        """Write all files so that the next start is one in recovery."""
        async with self._writing:
            await self._forget()
            await disown(self._paths, self.files)
            control = await self.offline.control()
            await self.config.write_static(control.settings)
            await self._write_access(servers)
            if upstream is None:
                mark = await self._directory.own_mark()
                await self.config.write_volatile(render.Volatile(), mark.data_id)
            else:
                await self._standby.follow_files(_source(upstream), upstream.epoch)
            await self.config.sanitise()
            await self.config.mark_standby()

    async def prepare_primary(self, sync: SyncSet | None) -> None:
        """Write all files so that the next start is one outside recovery."""
        async with self._writing:
            await self._forget()
            await disown(self._paths, self.files)
            mark = await self._directory.own_mark()
            await self.config.write_static({})
            volatile = render.Volatile(mode=self.mode, sync=sync)
            await self.config.write_volatile(volatile, mark.data_id)
            await self.config.sanitise()
            await self.config.mark_primary()

    async def _forget(self) -> None:
        """Close what belongs to an earlier server: it must not tell old truth."""
        await self._side.forget()
        await self._probe.close()
        await self._doctor.forget()
        await self._fitness.close()
        await self._standby.close()
        await self._primary.close()
        self._sync.forget()
        self._timeline = None

    # The running server

    async def look(self, on_evidence: Callable[[int], None]) -> ServerFacts:
        """Ask the running server and its disks, then for what else counts."""
        result = await self._probe.look(deadline_s=self._bounds.look_s)
        facts = result.facts
        trouble, evidence_ns = self._doctor.judge(result)
        if evidence_ns is not None:
            on_evidence(evidence_ns)
        if facts is None:
            return ServerFacts(
                sent_ns=result.sent_ns,
                answered=False,
                reason=result.reason,
                trouble=trouble,
            )
        # What it is of this server stays so while other work forgets the last one.
        timeline = facts.timeline or self._timeline or facts.checkpoint_timeline
        self._timeline = timeline
        side = self._side
        await side.ask(
            self.nodes, in_recovery=facts.in_recovery, loaded_at=facts.loaded_at
        )
        if facts.in_recovery:
            lsn = max(facts.receive_lsn or Lsn(0), facts.replay_lsn or Lsn(0))
        else:
            lsn = facts.flush_lsn or Lsn(0)
        self._fitness.look_soon()
        streaming = facts.receiver is not None and facts.receiver.is_streaming
        return ServerFacts(
            sent_ns=result.sent_ns,
            answered=True,
            reason=result.reason,
            trouble=trouble,
            replay_paused=facts.replay_paused,
            in_recovery=facts.in_recovery,
            wal_end=WalEnd(timeline=timeline, lsn=lsn),
            replay_lsn=facts.replay_lsn if facts.in_recovery else facts.flush_lsn,
            replayed=facts.replayed,
            streaming=streaming,
            stream_failure=""
            if streaming or not facts.in_recovery
            else await self._stream_failure(),
            checkpoint_timeline=facts.checkpoint_timeline,
            replication=() if facts.in_recovery else side.rows,
            replication_ns=side.rows_ns,
            slots=side.slots,
            pending_restart=side.settings_state.pending_restart,
            flaws=self._fitness.flaws,
            settings=replace(self._settings, limits=side.settings_state.limits),
            vitals=vitals(result, side.all_slots),
            **self._sync.facts(self.mode, facts.sync_names, result.sent_ns),
        )

    async def _stream_failure(self) -> str:
        log = self._paths.run_dir / SERVER_LOG
        try:
            return await asyncio.to_thread(stream_failure, log)
        except OSError:
            # It goes elsewhere, or there is none yet.
            return ""

    async def cut(self, epoch: Epoch) -> WalEnd | None:
        """Cut the running standby off from ``epoch`` durably; return its end of WAL."""
        async with self._writing:
            end = await self._standby.cut(epoch, deadline_s=self._bounds.cut_s)
            return None if isinstance(end, Unknown) else end

    async def cut_stopped(self, epoch: Epoch) -> StoppedEnd:
        """Cut the stopped server off from ``epoch`` durably; return its end of WAL."""
        async with self._writing:
            mark = await self._standby.cut_files(epoch)
            control = await self.offline.control()
            end = await self.offline.wal_end(control)
            if end is None:
                return StoppedEnd(wal_end=None)
            label = await self._directory.has_backup_label()
            strayed = has_strayed(mark, control, end, has_backup_label=label)
            return StoppedEnd(wal_end=end, has_strayed=strayed)

    async def timeline_begin(self, timeline: Timeline) -> Lsn | None:
        """Return where a timeline forked off its parent; None: it is the first."""
        return await self._directory.timeline_begin(timeline)

    async def newest_timeline(self) -> Timeline:
        """Return the highest timeline id that the directory knows of; 0: none."""
        return await self._directory.newest_timeline()

    async def history(self, timeline: Timeline) -> tuple[tuple[Timeline, Lsn], ...]:
        """Return a timeline's newest ancestors and where each was left."""
        return await self._directory.history(timeline)

    async def catch_up(self, upstream: Upstream, upto: WalEnd) -> None:
        """Stream from another standby, both cut, until this one has that much."""
        async with self._writing:
            await self._standby.read_from(_source(upstream), upstream.epoch)
        await self._standby.reach(upto)

    async def follow(self, upstream: Upstream) -> None:
        """Point the running standby at a primary."""
        async with self._writing:
            await self._standby.follow(_source(upstream), upstream.epoch)

    async def wal_end(self) -> WalEnd | None:
        """Return the running standby's end of WAL, read now."""
        end = await self._standby.wal_end(deadline_s=self._bounds.cut_s)
        return None if isinstance(end, Unknown) else end

    async def promote(self, epoch: Epoch, timeline: Timeline) -> None:
        """Ask for a promotion that takes ``timeline``; do not wait for its end."""
        async with self._writing:
            mark = await self._directory.own_mark()
            if mark.cut_epoch < epoch - 1 or not await self._standby.is_cut():
                # Nobody surveyed it, or its cut has failed half-way.
                await self._standby.cut(Epoch(epoch - 1), deadline_s=self._bounds.cut_s)
            await self._standby.promote(epoch, timeline)

    async def apply_sync(self, sync: SyncSet, *, first: bool) -> bool:
        """Put the set into the setting; tell whether it is effective everywhere."""
        async with self._writing:
            mark = await self._directory.own_mark()
            own = mark.data_id
            return await self._sync.apply(self.mode, sync, own, first=first)

    async def keep_slots(self, nodes: Sequence[NodeId]) -> None:
        """Have exactly these members' slots."""
        await self._primary.open()
        await self._primary.slots.keep(nodes)
        self._side.slots = None

    async def checkpoint(self) -> None:
        """Write a checkpoint, however long it takes."""
        await self._primary.checkpoint()

    # From the primary's history to a standby of it

    async def examine(self, upstream: Upstream) -> RejoinView:
        """Compare the stopped directory with the primary's history."""
        primary = replace(self.address, host=upstream.host, port=upstream.port)
        return await self._rejoining.examine(primary, upstream.epoch)

    async def copy(self, upstream: Upstream, cluster_id: str) -> None:
        """Replace the data directory by a copy of the primary's."""
        await self._rejoining.copy(_source(upstream), cluster_id)

    async def rewind(self, upstream: Upstream) -> None:
        """Rewind the stopped data directory to the primary's history."""
        mark = await self._directory.own_mark()
        await self._rejoining.rewind(_source(upstream), upstream.node, mark)

    async def recover(self) -> None:
        """Let the stopped, crashed server recover on its own."""
        await self.offline.recover()

    async def refresh_access(self, servers: Sequence[Member]) -> None:
        """Let the members' servers in, and nobody who is no longer a member."""
        hosts = tuple(m.host for m in servers)
        if self._access != hosts:
            await self.config.write_access(hosts)
            await self._primary.reload()
            self._access = hosts

    async def _write_access(self, servers: Sequence[Member]) -> None:
        hosts = tuple(m.host for m in servers)
        await self.config.write_access(hosts)
        self._access = hosts

    async def reload(
        self, servers: Sequence[Member], *, primary: bool
    ) -> tuple[str, ...]:
        """Write settings and access rules anew; the running server takes them up.

        Returns:
            The settings that wait for its restart.
        """
        control = await self.offline.control()
        # A standby must not have less than pg_control asks for; a primary may.
        await self.config.write_static({} if primary else control.settings)
        await self._write_access(servers)
        return await self._side.reload()

    def note_settings(self, settings: NodeSettings) -> None:
        """Note what the files have of what the cluster agreed on; reports carry it."""
        self._settings = settings

    async def judge(self, parameters: Mapping[str, str]) -> tuple[Problem, ...]:
        """Return which settings the running server would refuse, and why."""
        trial = SettingTrial(self._paths, self.files, self.programs)
        return await judge_settings(self.address, parameters, trial)

    async def renew_passwords(
        self, passwords: Mapping[str, str], *, on_server: bool
    ) -> tuple[str, ...]:
        """Take other passwords; with ``on_server``, return whose changed there."""
        self._secrets.renew(passwords)
        async with self._writing:
            await self.config.renew_passfile()
        if not on_server:
            return ()
        roles, bound_s = self._identity.roles, self._bounds.look_s
        return await renew_passwords(
            self.address, roles, self._secrets, deadline_s=bound_s
        )

    def go_by(self, bounds: Bounds) -> None:
        """Take other limits."""
        self._bounds = bounds
        self._side.go_by(look_s=bounds.look_s)
        self._fitness.deadline_s = bounds.look_s

    async def close(self) -> None:
        """Close connections; the server goes on."""
        await self._forget()
        await self._disk.close()
        self.files.close()


def _source(upstream: Upstream) -> render.Upstream:
    return render.Upstream(host=upstream.host, port=upstream.port)
