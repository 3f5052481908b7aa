"""A whole cluster with its clients."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pgbastion.config.timings import PROFILES
from pgbastion.consensus._engine import Storage
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.commands import Found, Join
from pgbastion.model.ids import MemberId
from pgbastion.model.profile import Profile
from pgbastion.node.parts import policy_of
from pgbastion.testing.sim.clocks import NodeClock
from pgbastion.testing.sim.judge import Judge
from pgbastion.testing.sim.links import Links
from pgbastion.testing.sim.machine import Machine, Setting
from pgbastion.testing.sim.people import People
from pgbastion.testing.sim.server import Waiter
from pgbastion.testing.sim.world import NS_PER_S, World, ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.daemon import Daemon

JOIN_LATE_MS: Final = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What cluster a run has."""

    servers: int = 3
    witnesses: int = 0
    profile: Profile = Profile.NORMAL
    mode: ReplicationMode = ReplicationMode.QUORUM
    sync_count: int | None = None
    strict: bool = False
    nofailover: tuple[int, ...] = ()
    """The machines that are tagged so."""
    joining: int = 0
    """How many of the machines join after the others have formed the group."""
    late_promotions: float = 0.0
    fence_works: float | None = None
    """Share of the calls of a power switch that work; None: there is none."""
    write_ms: int = 400
    """Each sampler and each proxied client writes this often."""
    addresses: tuple[str, ...] = ()
    """Addresses for replicas."""
    fallback: bool = False
    """The primary may have them where no standby can."""


class Cluster:
    """Machines, links, clients and the judge of one run."""

    def __init__(self, world: World, shape: Shape) -> None:
        self.world = world
        self.shape = shape
        self.links = Links(world)
        self.machines: dict[int, Machine] = {}
        self.timings = PROFILES[shape.profile]
        self.judge = Judge(
            world,
            self.machines,
            longest_ms=self.timings.lease_ms,
            addresses=shape.addresses,
        )
        self.final_phase = False
        self.people = People(self)
        setting = Setting(
            timings=self.timings,
            late_promotions=shape.late_promotions,
            fence_works=shape.fence_works,
            addresses=shape.addresses,
            fallback=shape.fallback,
        )
        random = world.stream("machines")
        total = shape.servers + shape.witnesses
        founders = [(1, "127.0.0.1:8300")]
        half = self.timings.drift_ppm // 2
        for number in range(1, total + 1):
            # Every second machine is at an end of the allowed range.
            rate = random.choice((-half, random.randint(-half, half), half - 1))
            clock = NodeClock(
                world,
                start_ns=random.randint(10, 100_000) * NS_PER_S,
                rate_ppm=rate,
            )
            self.machines[number] = Machine(
                number,
                world=world,
                links=self.links,
                judge=self.judge,
                setting=setting,
                clock=clock,
                storage=Storage(founders if number == 1 else []),
                peers=self.machines,
                witness=number > shape.servers,
            )
            self.machines[number].nofailover = number in shape.nofailover
        self.links.on_cut.append(self._on_cut)
        self.links.on_heal.append(self._on_heal)
        self._random = world.stream("clients")
        for machine in self.machines.values():
            machine.start_daemon()
        self._late = set(range(total - shape.joining + 1, total + 1))
        world.after(ms(50), self._found)
        world.after(ms(JOIN_LATE_MS), self._late.clear)
        world.after(ms(3_000), self._sample)
        for number in self.machines:
            world.after(ms(3_000 + number), self._write_by_proxy, number)

    def _on_cut(self, source: int, target: int) -> None:
        self.machines[source].link_cut(target)
        self.machines[target].link_cut(source)

    def _on_heal(self) -> None:
        for machine in self.machines.values():
            if machine.server is not None:
                machine.server.resend()

    # The first commands, as the founder's daemon proposes them

    def _found(self) -> None:
        """Found the cluster and let everybody in, one after the other."""
        daemon = next(
            (
                m.daemon
                for m in self.machines.values()
                if m.daemon is not None and m.daemon.host.raft().is_leader
            ),
            None,
        )
        known = {m.member_id for m in self.judge.state.members}
        missing = [n for n in self.machines if n not in known]
        if not missing:
            return
        if daemon is not None and missing[0] not in self._late:
            daemon.loop.call_soon(self._propose_member, daemon, missing[0])
        self.world.after(ms(100), self._found)

    def _propose_member(self, daemon: "Daemon", number: int) -> None:
        machine = self.machines[number]
        shape = self.shape
        if machine.daemon is None:
            return
        member = replace(machine.daemon.own, member_id=MemberId(number), joined=True)
        command: Found | Join = Join(member=member)
        if not daemon.host.state.cluster_id:
            if number != 1:
                return
            command = Found(
                cluster_name="sim",
                cluster_id="c1",
                member=member,
                policy=policy_of(shape.profile),
                mode=shape.mode,
                sync_count=shape.sync_count,
                strict=shape.strict,
            )
        daemon.loop.create_task(daemon.host.propose(command, timeout_s=1.0))

    # Clients

    def _sample(self) -> None:
        """Write a row directly at every server, as the sampler of the check does."""
        for machine in self.machines.values():
            self._write(machine, None)
        pause = self._random.uniform(0.5, 1.5) * self.shape.write_ms
        self.world.after(ms(pause), self._sample)

    def _write_by_proxy(self, number: int) -> None:
        """Write a row through a node's proxy."""
        pause = self._random.uniform(0.5, 1.5) * self.shape.write_ms
        self.world.after(ms(pause), self._write_by_proxy, number)
        machine = self.machines[number]
        daemon = machine.daemon
        if daemon is None or machine.stalled:
            return
        target = daemon.write_target()
        if target is None or daemon.routing is None:
            return
        self.judge.routed(machine, daemon.routing.epoch, self.timings.drift_ppm)
        if target == number or self.links.connects(number, target):
            self._write(self.machines[target], number)

    def _write(self, machine: Machine, proxy: int | None) -> None:
        server = machine.server
        if server is None:
            return
        epoch = machine.directory.promoted_epoch

        def confirmed(waiter: Waiter) -> None:
            self.judge.acknowledged(machine, epoch, waiter)
            if proxy is not None:
                self.judge.proxied_ns[proxy] = self.world.now_ns

        server.commit(confirmed)

    # The end

    def begin_final_phase(self) -> None:
        """Mend everything: from now on nothing fails."""
        self.final_phase = True
        self.links.heal()
        self.links.quality = Links(self.world).quality
        for machine in self.machines.values():
            machine.thaw()
            machine.thaw_disks()
            machine.continue_parts()
            machine.power_on()
            machine.start_daemon()
            guarded = machine.guard is not None and machine.guard.alive
            if not guarded and not machine.witness and machine.daemon is not None:
                machine.daemon.guard_died()
            if machine.server is not None:
                machine.server.thaw()
        self.people.tidy()

    def close(self) -> None:
        """End every process, so that nothing of the run is left."""
        for machine in self.machines.values():
            machine.kill_daemon()
