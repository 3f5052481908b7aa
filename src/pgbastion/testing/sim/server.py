"""A model of one PostgreSQL: its directory, its server, its replication.

Modelled are: what is flushed where, timelines by id as PostgreSQL knows them,
recovery and promotion that take time (a promotion may finish late), walsenders with
a configuration of their own that counts flushed positions for ``ANY k``, a
checkpointer that has sessions wait for them as soon as it is not busy, receivers
that reconnect, freezes, frozen disks and crashes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from pgbastion.model.cluster import SyncSet
from pgbastion.testing.sim.links import Links
from pgbastion.testing.sim.wal import Branch
from pgbastion.testing.sim.world import World, ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

RECORD_BYTES: Final = 64
RETRY_MS: Final = 60
SHUT_DOWN_LOOK_MS: Final = 3
SILENCE_MS: Final = 2_000
"""After this long without a word a connection counts as broken."""


@dataclass(slots=True)
class Directory:
    """A data directory; everything in it is on disk."""

    present: bool = False
    data_id: str = ""
    epoch: int = 0
    promoted_epoch: int = 0
    promoted_timeline: int = 0
    """Which the promotion of that epoch was to take."""
    cut_epoch: int = 0
    branch: Branch = field(default_factory=lambda: Branch(1, None, 0))
    flushed: int = 0
    history_files: set[int] = field(default_factory=set)
    """Timelines whose history file is there, beyond those of the branch."""
    standby: bool = False
    """It has a ``standby.signal``."""
    upstream: tuple[int, int] | None = None
    """Machine and epoch of the server that it follows."""
    sync: SyncSet | None = None
    """The setting; None names nobody who exists."""
    last_was_standby: bool = False
    clean: bool = True
    checkpoint: int = 1
    """Timeline of the last checkpoint."""
    broken: bool = False
    """A rewind was interrupted: only a copy helps."""
    slots: set[int] = field(default_factory=set)

    @property
    def timelines(self) -> set[int]:
        """Return the ids for which there is a history file."""
        own = {b.timeline for b, _ in self.branch.path() if b.parent is not None}
        return own | self.history_files


def names_somebody(sync: SyncSet | None) -> bool:
    """Tell whether commits are to wait under a setting, for nobody who exists also."""
    return sync is None or sync.num_sync > 0


@dataclass(slots=True, eq=False)
class Waiter:
    """A backend whose commit waits for standbys."""

    lsn: int
    branch: Branch
    done: Callable[["Waiter"], None]


@dataclass(slots=True, eq=False)
class Sender:
    """A walsender and the receiver at its other end."""

    upstream: "Server"
    receiver: "Server"
    name: str
    config: SyncSet | None
    flush: int = 0
    alive: bool = True
    sent: int = 0
    number: int = 0
    pid: int = 0

    @property
    def counts(self) -> bool:
        """Whether it is synchronous, by its own configuration."""
        return self.config is not None and self.name in self.config.names

    def end(self) -> None:
        """Break the connection on both sides."""
        self.alive = False
        if self in self.upstream.senders:
            self.upstream.senders.remove(self)
        if self.receiver.link is self:
            self.receiver.link = None
            self.receiver.connect_soon()


class Server:
    """A running postmaster with all its processes."""

    def __init__(
        self, world: World, links: Links, machine: "Machine", *, pid: int, primary: bool
    ) -> None:
        self.world = world
        self.links = links
        self.machine = machine
        self.directory = machine.directory
        self.pid = pid
        self.random: Random = machine.random
        self.alive = True
        self.frozen = False
        """Its processes are stopped, or the whole machine is."""
        self.doomed = False
        """It was killed; what waits in the kernel ends without another step."""
        self.closing = False
        self.answers = False
        """Recovery has reached a consistent state."""
        self.recovering = True
        self.promoting = False
        self.inserted = self.directory.flushed
        self.senders: list[Sender] = []
        self.link: Sender | None = None
        self.waiters: list[Waiter] = []
        self.sync = self.directory.sync
        self.commits_wait = names_somebody(self.sync)
        """Whether sessions wait for walsenders: the checkpointer says so."""
        self.walsenders = 0
        self._held: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._connecting = False
        self.as_primary = primary
        self.directory.last_was_standby = not primary
        crashed = not self.directory.clean
        self.directory.clean = False
        recovery_ms = self.random.uniform(20, 80) + (
            self.random.uniform(50, 900) if crashed else 0
        )
        if primary:
            self.after(recovery_ms, self._end_recovery_in_place)
        else:
            self.after(recovery_ms, self._reach_consistency)

    # Time

    def after(self, delay_ms: float, do: Callable[..., object], *args: object) -> None:
        """Have a process of the server do something after a while."""
        self.world.after(ms(delay_ms), self.deliver, do, *args)

    def deliver(self, do: Callable[..., object], *args: object) -> None:
        """Have a process do something now, or when the server is thawed."""
        if not self.alive or self.doomed:
            return
        if self.frozen:
            self._held.append((do, args))
        else:
            do(*args)

    def flush(self, do: Callable[..., object], *args: object) -> None:
        """Have something done once the disk has taken what was written."""
        delay = ms(self.random.uniform(0.1, 1.5))
        self.world.after(delay, self._flushed, do, args)

    def _flushed(self, do: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.machine.disk_frozen:
            self.machine.on_disk_thaw.append(lambda: self._flushed(do, args))
        else:
            self.deliver(do, *args)

    def freeze(self) -> None:
        """Stop every process."""
        self.frozen = True

    def thaw(self) -> None:
        """Let every process go on with what came meanwhile, in any order."""
        if not self.frozen:
            return
        self.frozen = False
        held, self._held = self._held, []
        for do, args in held:
            self.after(self.random.uniform(0, 3), do, *args)

    # Its life

    def _reach_consistency(self) -> None:
        self.answers = True
        self.connect_soon()

    def _end_recovery_in_place(self) -> None:
        """A crashed primary goes on, on its timeline."""
        self.answers = True
        self.recovering = False
        self._write(None)

    def end(self, *, clean: bool) -> None:
        """End all processes."""
        if not self.alive:
            return
        self.alive = False
        self.directory.clean = clean
        self.directory.last_was_standby = self.recovering and not self.as_primary
        for sender in (*self.senders, *((self.link,) if self.link else ())):
            self._break(sender)
        self.waiters.clear()

    def shut_down(self, done: Callable[[], None]) -> None:
        """End cleanly: the last record is the shutdown checkpoint.

        As PostgreSQL's, walsenders go when their receivers have all of it.
        """
        if self.closing:
            return
        self.closing, self.answers = True, False
        self.directory.flushed = self.inserted = self.inserted + RECORD_BYTES
        for sender in tuple(self.senders):
            self._send(sender)
        self._await_receivers(done)

    def _await_receivers(self, done: Callable[[], None]) -> None:
        upto = self.directory.flushed
        if all(sender.flush >= upto for sender in self.senders):
            done()
        else:
            self.after(SHUT_DOWN_LOOK_MS, self._await_receivers, done)

    def _break(self, sender: Sender) -> None:
        """Have the other end notice: at once if it can be told, else later."""
        one, other = sender.upstream.machine.number, sender.receiver.machine.number
        told = self.links.connects(one, other) and self.machine.powered
        delay = self.links.delay_ns(one, other) if told else ms(SILENCE_MS)
        self.world.after(delay, sender.end)

    @property
    def takes_orders(self) -> bool:
        """Whether somebody who logs in could promote it."""
        return self.answers and self.recovering and not (self.frozen or self.doomed)

    def promote(self, delay_ms: float) -> None:
        """Ask for a promotion; it ends after ``delay_ms``, however late that is."""
        if not self.promoting:
            self.promoting = True
            self.after(delay_ms, self._end_promotion)

    def _end_promotion(self) -> None:
        directory = self.directory
        timeline = directory.branch.timeline + 1
        while timeline in directory.timelines:
            timeline += 1
        if self.link is not None:
            self.link.end()
        directory.branch = Branch(timeline, directory.branch, directory.flushed)
        directory.standby = False
        directory.upstream = None
        self.inserted = directory.flushed
        self.recovering = self.promoting = False
        self.world.say(self.machine.name, f"promoted on timeline {timeline}")
        self.machine.judge.promoted(self.machine)
        self._write(None)

    def checkpoint(self) -> None:
        """Note the current timeline in the control file."""
        self.directory.checkpoint = self.directory.branch.timeline

    # Commits

    def commit(self, done: Callable[[Waiter], None]) -> bool:
        """Write a row; False: it accepts none. ``done`` comes when it is confirmed."""
        if not self.alive or self.doomed or self.frozen:
            return False
        if not self.answers or self.recovering:
            return False
        self._write(done)
        return True

    def _write(self, done: Callable[[Waiter], None] | None) -> None:
        self.inserted += RECORD_BYTES
        self.flush(self._written, self.inserted, self.directory.branch, done)

    def _written(
        self, lsn: int, branch: Branch, done: Callable[[Waiter], None] | None
    ) -> None:
        self.directory.flushed = max(self.directory.flushed, lsn)
        for sender in tuple(self.senders):
            self._send(sender)
        if done is None:
            return
        waiter = Waiter(lsn, branch, done)
        if not self.commits_wait:
            done(waiter)
            return
        self.waiters.append(waiter)
        # Enough may have flushed it while this backend came to wait.
        for sender in self.senders:
            self._release(sender)

    def set_sync(self, sync: SyncSet | None) -> None:
        """Reload with this setting; each process takes it in its own time."""
        self.directory.sync = sync
        self.after(self.random.uniform(0, 8), self._take_setting, sync)
        self.after(self.machine.checkpointer_ms(), self._have_commits_wait, sync)
        for sender in tuple(self.senders):
            self.after(self.random.uniform(0, 40), self._take_sender, sender, sync)

    def _take_setting(self, sync: SyncSet | None) -> None:
        if self.directory.sync == sync:
            self.sync = sync

    def _have_commits_wait(self, sync: SyncSet | None) -> None:
        """Take the setting as the checkpointer, which may be busy until now."""
        if self.directory.sync != sync:
            return
        self.commits_wait = names_somebody(sync)
        if not self.commits_wait:
            waiters, self.waiters = self.waiters, []
            for waiter in waiters:
                waiter.done(waiter)

    def _take_sender(self, sender: Sender, sync: SyncSet | None) -> None:
        if sender.alive and self.directory.sync == sync:
            sender.config = sync
            self._release(sender)

    def _release(self, sender: Sender) -> None:
        """Confirm what enough have flushed, as this walsender counts."""
        config = sender.config
        if config is None or not sender.counts or config.num_sync == 0:
            return
        flushed = sorted((s.flush for s in self.senders if s.counts), reverse=True)
        if len(flushed) < config.num_sync:
            return
        upto = flushed[config.num_sync - 1]
        ready = [w for w in self.waiters if w.lsn <= upto]
        if ready:
            self.waiters = [w for w in self.waiters if w.lsn > upto]
            for waiter in ready:
                waiter.done(waiter)

    # Replication

    def connect_soon(self) -> None:
        """Try to stream from the upstream, again and again."""
        if not self._connecting and self.alive:
            self._connecting = True
            self.after(self.random.uniform(5, RETRY_MS), self._connect)

    def _connect(self) -> None:
        self._connecting = False
        upstream = self.directory.upstream
        if self.link is not None or not self.recovering or upstream is None:
            return
        target = self.machine.peers[upstream[0]].server
        number = self.machine.number
        reached = self.links.connects(number, upstream[0])
        if target is None or not reached or not target.streams_to(self):
            self.connect_soon()
            return
        round_trip = 2 * self.links.delay_ns(number, upstream[0])
        self.world.after(round_trip, self.deliver, self._connected, target, upstream)

    def streams_to(self, standby: "Server") -> bool:
        """Tell whether this server answers a receiver that starts where that one is."""
        if not self.alive or self.frozen or not self.answers:
            return False
        if standby.machine.number not in self.directory.slots and not self.recovering:
            return False
        wanted, lsn = standby.directory.branch.timeline, standby.directory.flushed
        if wanted == self.directory.branch.timeline:
            return lsn <= self.directory.flushed
        left = dict(self.directory.branch.forks()).get(wanted)
        return left is not None and lsn <= left

    def _connected(self, target: "Server", upstream: tuple[int, int]) -> None:
        if self.directory.upstream != upstream or self.link is not None:
            return
        if not self.recovering or not target.streams_to(self):
            self.connect_soon()
            return
        sender = Sender(
            upstream=target,
            receiver=self,
            name=self.machine.standby_name,
            config=target.directory.sync,
            sent=-1,
            pid=target.fork(),
        )
        self.link = sender
        target.senders.append(sender)
        self.directory.history_files |= target.directory.timelines
        target._send(sender)

    def fork(self) -> int:
        """Return the process id of another walsender."""
        self.walsenders += 1
        return self.walsenders

    def disconnect(self) -> None:
        """End the receiver, as when the upstream is taken from the setting."""
        if self.link is not None:
            self.link.end()

    def _send(self, sender: Sender) -> None:
        upto = self.directory.flushed
        here, there = self.machine.number, sender.receiver.machine.number
        if upto <= sender.sent or (here, there) in self.links.cuts:
            return
        sender.sent = upto
        delay = self.links.delay_ns(here, there)
        receiver = sender.receiver
        branch = self.directory.branch
        self.world.after(
            delay, receiver.deliver, receiver._receive, sender, branch, upto
        )

    def resend(self) -> None:
        """After a cut: what was not sent or not confirmed goes again."""
        for sender in tuple(self.senders):
            sender.sent = -1
            self.deliver(self._send, sender)

    def _receive(self, sender: Sender, branch: Branch, upto: int) -> None:
        if sender is not self.link:
            return
        self.flush(self._received, sender, branch, upto)

    def _received(self, sender: Sender, branch: Branch, upto: int) -> None:
        if sender is not self.link:
            return
        directory = self.directory
        fits = branch.holds(directory.branch, directory.flushed, upto)
        if upto > directory.flushed and not fits:
            # Ids and positions fitted, the WAL did not: two histories with one id.
            raise self.world.broken(
                "S2",
                f"{self.machine.name} streams over WAL of another history "
                f"(timeline {directory.branch.timeline} at {directory.flushed})",
            )
        if upto > directory.flushed:
            directory.flushed = upto
            directory.branch = branch.at(upto)
            self.inserted = upto
        here, there = self.machine.number, sender.upstream.machine.number
        if (here, there) in self.links.cuts:
            return
        sender.number += 1
        delay = self.links.delay_ns(here, there)
        target = sender.upstream
        self.world.after(
            delay, target.deliver, target._replied, sender, directory.flushed
        )
        for below in tuple(self.senders):
            self._send(below)

    def _replied(self, sender: Sender, flushed: int) -> None:
        if sender.alive and flushed > sender.flush:
            sender.flush = flushed
            self._release(sender)
