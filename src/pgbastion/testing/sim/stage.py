"""A simulated cluster, and words to write scripts for it in."""

from collections.abc import Callable

from pgbastion.model.cluster import NOBODY, SyncSet
from pgbastion.model.ids import MemberId
from pgbastion.testing.sim.cluster import Cluster
from pgbastion.testing.sim.machine import Machine
from pgbastion.testing.sim.runs import end
from pgbastion.testing.sim.world import ms

Condition = Callable[[], bool]


class Stage:
    """A cluster, and words to write a script in."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.n = cluster.machines

    def wait(self, milliseconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now_ns + ms(milliseconds))

    def until(
        self, condition: Condition, *, limit_ms: float, step_ms: float = 1
    ) -> None:
        """Let time pass until something is so.

        Raises:
            AssertionError: It never was: the script does not fit any more.
        """
        latest_ns = self.world.now_ns + ms(limit_ms)
        while not condition():
            if self.world.now_ns >= latest_ns:
                raise AssertionError("what the script waits for never came")
            self.wait(step_ms)

    @property
    def epoch(self) -> int:
        """Return the newest epoch that was assigned."""
        return self.cluster.judge.state.epoch

    @property
    def holder(self) -> Machine:
        """Return the machine that was assigned the newest epoch."""
        held = self.cluster.judge.state.assignment
        assert held is not None
        return self.n[held.member_id]

    @property
    def promised(self) -> SyncSet:
        """Return the synchronous set that the newest opened epoch promises."""
        opened = self.cluster.judge.state.opened
        return opened.sync if opened is not None else NOBODY

    def opened(self, epoch: int) -> bool:
        """Tell whether this epoch has acknowledged a commit."""
        return epoch in self.cluster.judge.first_ack_ns

    def settled(self) -> bool:
        """Tell whether all is well: everybody streams, the set has all standbys."""
        judge = self.cluster.judge
        servers = [m for m in self.n.values() if not m.witness]
        wanted = len(servers) - 1
        full = len(self.promised.names) == wanted
        return full and len(judge.proxied_ns) == len(self.n) and judge.unwell() is None

    def leads(self, machine: Machine) -> bool:
        """Tell whether a machine leads the Raft group."""
        daemon = machine.daemon
        return daemon is not None and daemon.host.raft().is_leader

    def leader(self) -> Machine | None:
        """Return the machine that leads, or None."""
        return next((m for m in self.n.values() if self.leads(m)), None)

    def transfer(self, leader: Machine, target: Machine) -> None:
        """Have a leader hand Raft leadership over."""
        daemon = leader.daemon
        assert daemon is not None
        engine = daemon.engine

        def move() -> None:
            daemon.loop.create_task(engine.transfer(MemberId(target.number), 1.0))

        daemon.loop.call_soon(move)

    def isolate(self, machine: Machine) -> None:
        """Cut a machine off from all others, both ways."""
        for other in self.n:
            if other != machine.number:
                self.cluster.links.cut(machine.number, other)
                self.cluster.links.cut(other, machine.number)

    def cut(self, one: int, other: int) -> None:
        """Cut a link, both ways."""
        self.cluster.links.cut(one, other)
        self.cluster.links.cut(other, one)

    def renewed(self) -> None:
        """Wait for the next lease that reaches its holder."""
        grants = self.cluster.judge.grants
        seen = grants[self.epoch].at_ns
        self.until(lambda: grants[self.epoch].at_ns > seen, limit_ms=60_000)

    def mend(self) -> None:
        """End all faults, and look whether the cluster is well in the stated time."""
        end(self.cluster)
