"""A machine: its clock, disks, page, guard, PostgreSQL and daemon."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from pgbastion.config.timings import Timings
from pgbastion.consensus._engine import Storage
from pgbastion.guard import page as words
from pgbastion.ha.ports import GuardFacts
from pgbastion.model.ids import (
    DataId,
    NodeId,
    standby_name,
)
from pgbastion.testing.sim.clocks import NodeClock
from pgbastion.testing.sim.daemon import Daemon
from pgbastion.testing.sim.guard import GuardProcess
from pgbastion.testing.sim.judge import Judge
from pgbastion.testing.sim.links import Links
from pgbastion.testing.sim.server import SILENCE_MS, Directory, Server
from pgbastion.testing.sim.world import NS_PER_S, World, ms

PAGE_WORDS: Final = 512
NEVER_NS: Final = 1 << 62


class SharedWords(list[int]):
    """The words of a shared page; ``changes`` rises with each write."""

    changes = 0

    def __setitem__(self, word: Any, value: Any) -> None:
        self.changes += 1
        super().__setitem__(word, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all machines of a run share."""

    timings: Timings
    late_promotions: float = 0.0
    """Share of promotions that take seconds."""
    fence_works: float | None = None
    """Share of the calls of the power switch that work; None: there is none."""
    addresses: tuple[str, ...] = ()
    """Addresses for replicas."""
    fallback: bool = False
    """The primary may have them where no standby can."""


class Machine:
    """One machine.

    Args:
        number: Its Raft member id.
        witness: It runs no PostgreSQL.
        storage: Its Raft log as it is on disk.
        peers: All machines by number, filled in by whoever makes them.
    """

    checkpointer_busy = 0.2
    """Share of the changes of a setting that come in the middle of a checkpoint."""
    loses_answers = False
    """What its daemon has its server do has effect, and the answer is lost."""

    def __init__(
        self,
        number: int,
        *,
        world: World,
        links: Links,
        judge: Judge,
        setting: Setting,
        clock: NodeClock,
        storage: Storage,
        peers: dict[int, "Machine"],
        witness: bool,
    ) -> None:
        self.number = number
        self.name = f"n{number}"
        self.world = world
        self.links = links
        self.judge = judge
        self.setting = setting
        self.clock = clock
        self.storage = storage
        self.peers = peers
        self.witness = witness
        self.random: Random = world.stream(f"node {number}")
        self.address_random: Random = world.stream(f"addresses {number}")
        self.checkpointer_random: Random = world.stream(f"checkpointer {number}")
        self.addresses: dict[str, int] = {}
        """Addresses for replicas that are set, and until when by the own clock."""
        self.directory = Directory()
        self.page = SharedWords([0] * PAGE_WORDS)
        self.guard: GuardProcess | None = None
        self.server: Server | None = None
        self.daemon: Daemon | None = None
        self.powered = True
        self.off_ns = -NS_PER_S
        """True time at which it last lost its power."""
        self.stalled = False
        self.woke_ns = -NS_PER_S
        """True time at which the machine last went on after a stall."""
        self.guard_lame_ns = -NS_PER_S
        """True time up to which the guard did not run."""
        self.paused = False
        """Its guard reads that a pause is on: no lease bounds what runs here."""
        self.resumed_ns = -NS_PER_S
        """True time at which its guard last read of a pause's end."""
        self.nofailover = False
        """Its tag: it is not to become the primary."""
        self.disk_frozen = False
        self.on_disk_thaw: list[Callable[[], None]] = []
        self.fsync_ms = (0.2, 2.5)
        """How long a file of the configuration takes, at least and at most."""
        self.raft_flush_ms = (0.2, 2.0)
        """How long a write of the Raft log takes, at least and at most."""
        self.raft_disk_frozen = False
        self.on_raft_disk_thaw: list[Callable[[], None]] = []
        self.pids = 0
        self.lives = 0

    # Addresses

    def set_address(self, name: str, until_ns: int) -> None:
        """Set an address, or prolong it, up to an instant of the own clock."""
        fresh = not self.has_address(name)
        self.addresses[name] = until_ns
        self.judge.addressed(self, name, fresh=fresh)

    def has_address(self, name: str) -> bool:
        """Tell whether an address is set and its lifetime not over."""
        return self.clock.now_ns() < self.addresses.get(name, 0)

    # Names

    @property
    def standby_name(self) -> str:
        """Return the name that its server has at its upstream."""
        return standby_name(NodeId(self.name), DataId(self.directory.data_id))

    def number_of(self, node: str) -> int:
        """Return a machine's number by its name."""
        return int(node[1:])

    def name_of(self, number: int) -> NodeId:
        """Return a machine's name by its number."""
        return NodeId(f"n{number}")

    def new_data_id(self) -> str:
        """Draw the id of a data directory."""
        return f"{self.random.getrandbits(64):016x}"

    def replace_directory(self, directory: Directory) -> None:
        """Put another data directory in the place of the old one."""
        self.directory = directory

    def promotion_ms(self) -> float:
        """Draw how long a promotion takes; it may finish late."""
        if self.random.random() < self.setting.late_promotions:
            return self.random.uniform(500, 20_000)
        return self.random.uniform(30, 150)

    def checkpointer_ms(self) -> float:
        """Draw how long the checkpointer takes to read a setting; it may be busy."""
        random = self.checkpointer_random
        if random.random() < self.checkpointer_busy:
            return random.uniform(200, 5_000)
        return random.uniform(0, 8)

    # Processes

    def start_daemon(self) -> None:
        """Start the daemon, and a guard if there is none."""
        if self.daemon is None and self.powered:
            self.lives += 1
            self.daemon = Daemon(self)

    def kill_daemon(self) -> None:
        """End the daemon at once; guard and PostgreSQL go on."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon = None

    def obtain_guard(self) -> GuardProcess:
        """Return the guard, started if there is none."""
        if self.guard is None or not self.guard.alive:
            self.guard = GuardProcess(self)
            self.guard.stopped = self.stalled
            self.guard_lame_ns = min(self.guard_lame_ns, self.world.now_ns)
        return self.guard

    def kill_guard(self) -> None:
        """End the guard at once; the kernel tells PostgreSQL, the pidfd the daemon."""
        if self.guard is None or not self.guard.alive:
            return
        self.guard.die()
        self.guard_lame_ns = NEVER_NS
        if self.daemon is not None:
            self.daemon.guard_died()

    def start_server(self, *, primary: bool) -> None:
        """Start PostgreSQL on the data directory."""
        self.pids += 1
        self.server = Server(
            self.world, self.links, self, pid=self.pids, primary=primary
        )
        self.server.frozen = self.stalled

    def end_server(self, server: Server, *, clean: bool = False) -> None:
        """End a server with all its processes."""
        if self.server is server:
            server.end(clean=clean)
            self.server = None
            if self.guard is not None and self.guard.alive:
                self.guard.server_ended()

    def crash_server(self) -> None:
        """Kill the postmaster; its backends follow a moment later."""
        if self.server is not None:
            self.world.after(
                ms(self.random.uniform(0, 10)), self.end_server, self.server
            )

    def signal_server(self, *, clean: bool) -> None:
        """Ask the server to stop, cleanly or abruptly."""
        server = self.server
        if server is None or self.disk_frozen:
            return
        if clean and server.promoting:
            return
        delay = self.random.uniform(20, 250) if clean else self.random.uniform(2, 15)
        server.after(delay, self._stop_server, server, clean)

    def _stop_server(self, server: Server, clean: bool) -> None:  # noqa: FBT001
        if self.server is not server or not server.alive:
            return
        if clean and not server.recovering:
            server.shut_down(lambda: self.end_server(server, clean=True))
        else:
            self.end_server(server, clean=clean)

    def stop_guard(self) -> None:
        """Stop the guard alone."""
        if self.guard is not None and not self.stalled:
            self.guard.stop_process()
            self.guard_lame_ns = NEVER_NS

    def stop_daemon(self) -> None:
        """Stop the daemon alone, its engine with it."""
        if self.daemon is not None and not self.stalled:
            self.daemon.loop.stop_process()
            self.daemon.engine.stop_process()

    def stop_python(self) -> None:
        """Stop the daemon's Python loop; the engine's thread goes on."""
        if self.daemon is not None and not self.stalled:
            self.daemon.loop.stop_process()

    def continue_parts(self) -> None:
        """Let guard, daemon and server go on."""
        if self.stalled:
            return
        if self.guard is not None and self.guard.alive:
            self.guard_lame_ns = min(self.guard_lame_ns, self.world.now_ns)
        for part in self._processes():
            if part.stopped:
                part.continue_process()
        if self.server is not None:
            self.server.thaw()

    # Faults of the machine

    def stall(self, *, clock_stands: bool) -> None:
        """Stop every process; the clock goes on, or stands still as well."""
        if self.stalled or not self.powered:
            return
        self.stalled = True
        if clock_stands:
            self.clock.stand()
        for part in self._processes():
            part.stop_process()
        if self.server is not None:
            self.server.freeze()

    def thaw(self) -> None:
        """Let everything go on, in any order."""
        if not self.stalled:
            return
        self.stalled = False
        self.woke_ns = self.world.now_ns
        if self.clock.stands:
            self.clock.run()
            waiting, self.clock.on_run[:] = list(self.clock.on_run), []
            for go_on in waiting:
                go_on()
        for part in self._processes():
            part.continue_process(ms(self.random.uniform(0, 20)))
        if self.server is not None:
            self.world.after(ms(self.random.uniform(0, 20)), self.server.thaw)

    def _processes(self) -> list[Any]:
        parts: list[Any] = []
        if self.daemon is not None:
            parts += [self.daemon.loop, self.daemon.engine]
        if self.guard is not None:
            parts.append(self.guard)
        return parts

    def power_off(self) -> None:
        """Lose everything that is not on disk."""
        if not self.powered:
            return
        self.kill_daemon()
        self.powered = False
        self.off_ns = self.world.now_ns
        if self.guard is not None:
            self.guard.alive = False
            self.guard = None
        if self.server is not None:
            self.end_server(self.server)
        self.stalled = False
        self.clock.run()
        self.clock.on_run.clear()
        self.thaw_disks()
        self.page = SharedWords([0] * PAGE_WORDS)
        self.addresses.clear()
        self.paused = False

    def power_on(self) -> None:
        """Boot; the daemon starts by itself."""
        if not self.powered:
            self.powered = True
            self.start_daemon()

    def freeze_disk(self) -> None:
        """Let no write of PostgreSQL end."""
        self.disk_frozen = True

    def thaw_disks(self) -> None:
        """Let all writes end."""
        self.disk_frozen = self.raft_disk_frozen = False
        waiting = self.on_disk_thaw + self.on_raft_disk_thaw
        self.on_disk_thaw, self.on_raft_disk_thaw = [], []
        for go_on in waiting:
            go_on()

    def link_cut(self, other: int) -> None:
        """Break connections across a cut that lasts."""
        server = self.server
        if server is None:
            return
        for sender in (*server.senders, *((server.link,) if server.link else ())):
            ends = {sender.upstream.machine.number, sender.receiver.machine.number}
            if ends == {self.number, other}:
                self.world.after(ms(SILENCE_MS), self._break_if_cut, sender, other)

    def _break_if_cut(self, sender: Any, other: int) -> None:
        if sender.alive and not self.links.connects(self.number, other):
            sender.end()

    # What arrives

    def receive_frame(self, target: int, frame: bytes) -> None:
        """Deliver a frame of the engine that this machine has sent."""
        daemon = self.peers[target].daemon
        if daemon is not None:
            daemon.engine.receive(self.number, frame)

    def receive_request(
        self, target: int, back: tuple[int, int], kind: int, payload: bytes
    ) -> None:
        """Deliver a question or broadcast that this machine has sent."""
        daemon = self.peers[target].daemon
        if daemon is not None:
            daemon.loop.call_soon(daemon.asked, back, kind, payload)

    def receive_answer(self, target: int, number: int, payload: bytes) -> None:
        """Deliver an answer that this machine has sent."""
        daemon = self.peers[target].daemon
        if daemon is not None:
            daemon.loop.call_soon(daemon.engine.answered, number, payload)

    def note_pause(self) -> None:
        """Have the guard look: a pause has begun or ended."""
        paused = self.page[words.PAUSED] != 0
        if self.paused and not paused:
            self.resumed_ns = self.world.now_ns
        if self.paused != paused and self.guard is not None:
            self.guard.look_soon()
        self.paused = paused

    def write_expiry(self, epoch: int, expiry_ns: int) -> None:
        """Write the engine's words of the page."""
        self.page[words.EXPIRY_NS] = expiry_ns
        self.page[words.EPOCH] = epoch
        self.judge.granted(self, epoch, expiry_ns)
        if self.guard is not None:
            self.guard.look_soon()

    def note_guard(self, facts: GuardFacts) -> None:
        """Tell the daemon what the guard said."""
        daemon = self.daemon
        if daemon is not None and daemon.guard is not None:
            delay = ms(self.random.uniform(0.1, 1.0))
            self.world.after(delay, daemon.loop.call_soon, daemon.guard.note, facts)
