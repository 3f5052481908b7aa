"""A model of the guard: the real latches on a page, the kill as a matter of time."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pgbastion.errors import GuardError
from pgbastion.guard import page as words
from pgbastion.guard.latches import Latches, Refused
from pgbastion.ha.ports import GuardFacts, RunningServer
from pgbastion.model.ids import Epoch
from pgbastion.testing.sim.loop import SimLoop
from pgbastion.testing.sim.world import ms

if TYPE_CHECKING:
    from pgbastion.testing.sim.machine import Machine

KILL_DEADLINE_MS: Final = 2_000


class GuardProcess:
    """The guard of one machine: it lives on when the daemon dies."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.world = machine.world
        self.latches = Latches(machine.page)  # type: ignore[arg-type]
        self.alive = True
        self.stopped = False
        self.killing = False
        self.tainted = False
        self.started_ns = 0
        self._held: list[Callable[[], None]] = []
        self._looks = 0
        self._killed_waiters: list[Callable[[], None]] = []

    def deliver(self, do: Callable[[], None]) -> None:
        """Have the guard do something now, or when it goes on after a stop."""
        if not self.alive:
            return
        if self.stopped:
            self._held.append(do)
        else:
            do()

    def stop_process(self) -> None:
        """Stop, as by SIGSTOP."""
        self.stopped = True

    def continue_process(self, delay_ns: int = 0) -> None:
        """Go on."""
        self.stopped = False
        self._looks += 1
        self.world.after(delay_ns, self._go_on, self._looks)

    def _go_on(self, number: int) -> None:
        if number != self._looks or self.stopped or not self.alive:
            return
        held, self._held = self._held, []
        for do in held:
            do()
        self._look(number)

    def die(self) -> None:
        """End at once; the kernel takes PostgreSQL along by its parent-death signal."""
        self.alive = False
        server = self.machine.server
        if server is not None:
            server.after(
                self.machine.random.uniform(5, 40), self.machine.end_server, server
            )

    # The lease

    @property
    def may_hold_primary(self) -> bool:
        """Whether something runs, or is not proven dead, that may be a primary."""
        return self.killing or (self.machine.server is not None and self.tainted)

    def look_soon(self) -> None:
        """Look at the page again: it was written, or an arming changed."""
        self._looks += 1
        self._look(self._looks)

    def _look(self, number: int) -> None:
        if number != self._looks or self.stopped or not self.alive:
            return
        armed, clock = self.latches.armed, self.machine.clock
        if not armed or self.latches.is_paused:
            return
        if self.latches.has_expired(clock.now_ns()):
            self._expire(armed)
        elif not clock.stands:
            left = clock.until_ns(self.latches.acts_at_ns())
            self.world.after(
                left + ms(self.machine.random.uniform(0, 2)), self._look, number
            )

    def _expire(self, epoch: int) -> None:
        self.latches.end(epoch)
        if not self.may_hold_primary:
            self.latches.disarm()
        elif not self.killing:
            self.world.say(self.machine.name, f"guard kills: lease of {epoch} ran out")
            self.kill(lambda: None)
        self.tell()

    # The server

    def started(self, *, primary: bool) -> None:
        """Note that a server was started."""
        self.tainted = primary
        self.started_ns = self.machine.clock.now_ns()

    def kill(self, done: Callable[[], None]) -> None:
        """Kill every process of the server; ``done`` comes at "stopped"."""
        if self.machine.server is None:
            done()
            return
        self._killed_waiters.append(done)
        if not self.killing:
            self.killing = True
            self.world.after(ms(self.machine.random.uniform(2, 14)), self._killed)

    def _killed(self) -> None:
        if self.machine.disk_frozen:
            # Processes that wait for the disk die when it answers again.
            if self.machine.server is not None:
                self.machine.server.doomed = True
            self.machine.on_disk_thaw.append(self._killed)
            return
        server = self.machine.server
        if server is not None:
            self.machine.end_server(server)
        self.world.after(
            ms(self.machine.random.uniform(1, 8)), self.deliver, self._said
        )

    def _said(self) -> None:
        """Say "stopped": nothing is left."""
        self.killing = False
        waiters, self._killed_waiters = self._killed_waiters, []
        self.idle()
        for done in waiters:
            done()

    def idle(self) -> None:
        """Nothing runs any more."""
        self.tainted = False
        self.latches.answer()
        if self.latches.armed <= self.latches.ended:
            self.latches.disarm()
        self.tell()

    def server_ended(self) -> None:
        """Reap a server that ended by itself."""
        if not self.killing:
            self.world.after(
                ms(self.machine.random.uniform(1, 10)), self.deliver, self._reaped
            )

    def _reaped(self) -> None:
        if self.machine.server is None and not self.killing:
            self.idle()

    # Its clients

    def tell(self) -> None:
        """Send the newest facts to the daemon."""
        self.machine.note_guard(self.facts())

    def facts(self) -> GuardFacts:
        """Return what the guard would say now."""
        server = self.machine.server
        running = server is not None or self.killing
        return GuardFacts(
            running=running,
            pid=server.pid if server is not None else 0,
            started_ns=self.started_ns if running else 0,
            started_as_primary=self.may_hold_primary,
            armed_epoch=Epoch(self.latches.armed),
            ended_epoch=Epoch(self.latches.ended),
            asked_ns=self.machine.page[words.ASKED_NS],
        )

    def arm(self, epoch: int) -> None:
        """Arm, as the real supervisor does."""
        if self.killing:
            raise Refused("killing", "PostgreSQL is being killed")
        if self.latches.armed not in (0, epoch) and not self.may_hold_primary:
            self.latches.disarm()
        self.latches.arm(epoch, self.machine.clock.now_ns())
        self.tainted = True
        self.look_soon()

    def disarm(self) -> None:
        """Disarm, unless what runs may be a primary."""
        if self.may_hold_primary:
            raise Refused("tainted", "only its end disarms")
        self.latches.disarm()

    def ask(self, epoch: int) -> None:
        """Note that a promotion is under way."""
        if self.machine.server is None or self.killing:
            raise Refused("not_running", "no postmaster that could be promoted")
        self.latches.check_primary(epoch, self.machine.clock.now_ns())
        self.tainted = True
        self.latches.ask(self.machine.clock.now_ns())

    def end_epoch(self, epoch: int) -> None:
        """Latch the end of an epoch."""
        self.latches.end(epoch)
        armed = self.latches.armed
        if self.may_hold_primary and armed <= epoch:
            raise Refused("running", f"epoch {epoch} is latched, its primary may run")
        if armed and armed <= epoch:
            self.latches.disarm()

    def start(self, *, primary: bool, epoch: int) -> None:
        """Start a server."""
        if self.machine.server is not None or self.killing:
            raise Refused("running", "PostgreSQL runs or is not stopped")
        if primary:
            self.latches.check_primary(epoch, self.machine.clock.now_ns())
        self.latches.ask(self.machine.clock.now_ns())
        self.machine.start_server(primary=primary)
        self.started(primary=primary)


class GuardPort:
    """A daemon's connection to its guard; fulfils ``ha.ports.Guard``."""

    def __init__(
        self, machine: "Machine", loop: SimLoop, on_stopped: Callable[[], None]
    ) -> None:
        self._machine = machine
        self._loop = loop
        self._on_stopped = on_stopped
        # Connected before anything is decided, as the real daemon is.
        self._facts = machine.obtain_guard().facts()
        self._idle = asyncio.Event()
        if not self._facts.running:
            self._idle.set()
        self.on_event: Callable[[], None] = lambda: None

    def note(self, facts: GuardFacts) -> None:
        """Take the newest facts."""
        was_running = self._facts.running
        self._facts = facts
        if facts.running:
            self._idle.clear()
        else:
            self._idle.set()
            if was_running:
                self._on_stopped()
        self.on_event()

    def facts(self) -> GuardFacts:
        """Return what the guard last said."""
        return self._facts

    async def _ask(self, do: Callable[[GuardProcess], None]) -> None:
        answer: asyncio.Future[str | None] = self._loop.create_future()
        guard = self._machine.guard

        def settle(refused: str | None) -> None:
            if self._loop.alive and not answer.done():
                answer.set_result(refused)

        def act() -> None:
            refused = None
            if guard is not None:
                try:
                    do(guard)
                except Refused as exc:
                    refused = str(exc)
                guard.tell()
            self._loop.call_soon(settle, refused)

        if guard is None or not guard.alive or not self._loop.alive:
            raise GuardError("there is no guard")
        delay = ms(self._machine.random.uniform(0.1, 1.0))
        self._machine.world.after(delay, guard.deliver, act)
        try:
            async with asyncio.timeout(5):
                refused = await answer
        except TimeoutError as exc:
            raise GuardError("the guard does not answer") from exc
        if refused is not None:
            raise GuardError(refused)

    async def start(
        self, command: tuple[str, ...], *, primary: bool, epoch: Epoch
    ) -> None:
        """Start the postmaster."""
        del command
        await self._ask(lambda guard: guard.start(primary=primary, epoch=epoch))

    async def adopt(self, server: RunningServer) -> None:
        """Watch a server that somebody else started; the model has none."""
        raise GuardError(f"the model starts all its servers, not {server}")

    async def stop(self, *, fast_ms: int) -> None:
        """Stop the server: fast, immediate, kill."""
        if not self._facts.running:
            return
        if fast_ms and self._facts.pid:
            for clean, share in ((True, 0.7), (False, 0.2)):
                self._machine.signal_server(clean=clean)
                if await self._idle_within(share * fast_ms / 1_000):
                    return
        await self._ask(lambda guard: guard.kill(lambda: None))
        if not await self._idle_within(KILL_DEADLINE_MS / 1_000):
            raise GuardError("not stopped")

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def arm(self, epoch: Epoch) -> None:
        """Have PostgreSQL killed when this epoch's lease runs out."""
        await self._ask(lambda guard: guard.arm(epoch))

    async def disarm(self) -> None:
        """Take an arming back."""
        await self._ask(GuardProcess.disarm)

    async def end_epoch(self, epoch: Epoch) -> None:
        """Latch the end of this epoch and all before it."""
        await self._ask(lambda guard: guard.end_epoch(epoch))

    async def ask(self, epoch: Epoch) -> None:
        """Note that a promotion is asked for."""
        await self._ask(lambda guard: guard.ask(epoch))

    async def answered(self) -> None:
        """Note that what was asked for has happened."""
        if self._facts.asked_ns:
            await self._ask(lambda guard: guard.latches.answer())
