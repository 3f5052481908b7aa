"""A process's asyncio loop, driven by the world: repeatable, on the node's clock."""

import asyncio
import heapq
import time as real_time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from typing import Any, Final

from pgbastion import clock as product_clock
from pgbastion.testing.sim.clocks import NodeClock
from pgbastion.testing.sim.world import NS_PER_S, Violation, World

STEPS_MAX: Final = 20_000
"""Steps at one instant before a loop counts as spinning."""
WALL_BEGIN_S: Final = 1_767_225_600
"""Each run begins with the year 2026."""


class Handle:
    """A callback that may be taken back."""

    __slots__ = ("args", "callback", "context", "dropped", "when_s")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        when_s: float = 0.0,
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.when_s = when_s
        self.dropped = False

    def cancel(self) -> None:
        """Take it back."""
        self.dropped = True

    def cancelled(self) -> bool:
        """Tell whether it was taken back."""
        return self.dropped

    def when(self) -> float:
        """Return when it is due, in seconds of the loop's time."""
        return self.when_s


class SimLoop(asyncio.AbstractEventLoop):
    """The loop of one process.

    Nothing of it runs while the process is stopped; what came meanwhile runs when it
    goes on. A killed process never runs again, and what its ports are told then has
    no effect.

    Args:
        world: Fires the events.
        clock: The node's clock: timers are set on it.
        name: For the trace.
    """

    def __init__(self, world: World, clock: NodeClock, name: str) -> None:
        self._world = world
        self._clock = clock
        self.name = name
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[int, int, Handle]] = []
        self._sequence = 0
        self._wake_ns = -1
        self._turns = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.alive = True
        self.stopped = False

    # What asyncio needs

    def time(self) -> float:
        """Return the node's clock in seconds."""
        return self._clock.now_ns() / NS_PER_S

    def get_debug(self) -> bool:
        """No debugging aids: they would slow a run down."""
        return False

    def is_running(self) -> bool:
        """Tell whether the process lives."""
        return self.alive

    def is_closed(self) -> bool:
        """Tell whether the process is dead."""
        return not self.alive

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task of this loop."""
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Run a callback at this instant, after what is due already."""
        handle = Handle(callback, args, context)
        if self.alive:
            self._ready.append(handle)
            self._arm(0)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Run a callback after a while."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Run a callback at an instant of the node's clock."""
        handle = Handle(callback, args, context or copy_context(), when)
        if self.alive:
            self._sequence += 1
            due_ns = round(when * NS_PER_S)
            heapq.heappush(self._timers, (due_ns, self._sequence, handle))
            if self._timers[0][2] is handle:
                self._arm_timer()
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """End the run: nothing of ours may fail unseen."""
        if not self.alive:
            return
        exception = context.get("exception")
        if isinstance(exception, Violation):
            raise exception
        message = context.get("message", "")
        raise self._world.broken("exception", f"{self.name}: {message} {exception!r}")

    # What the world does to it

    def stop_process(self) -> None:
        """Stop, as by SIGSTOP."""
        self.stopped = True

    def continue_process(self, delay_ns: int = 0) -> None:
        """Go on after a stop."""
        self.stopped = False
        self._wake_ns = -1
        self._arm(delay_ns)

    def kill(self) -> None:
        """End at once: no code of the process has any effect from now on."""
        self.alive = False
        self._ready.clear()
        self._timers.clear()
        # Another node's step may be what ends this process: it goes on afterwards.
        killer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for task in tuple(self._tasks):
                # Nobody waits for it, and nobody is to complain about that.
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(Exception, asyncio.CancelledError):
                    task.get_coro().close()
        finally:
            asyncio._set_running_loop(killer)
        self._tasks.clear()

    def _arm(self, delay_ns: int) -> None:
        wake_ns = self._world.now_ns + delay_ns
        if self.stopped or 0 <= self._wake_ns <= wake_ns:
            return
        self._wake_ns = wake_ns
        self._turns += 1
        self._world.after(delay_ns, self._turn, self._turns)

    def _arm_timer(self) -> None:
        if self._timers and not self._clock.stands:
            self._arm(self._clock.until_ns(self._timers[0][0]))

    def _turn(self, number: int) -> None:
        if number != self._turns or self.stopped or not self.alive:
            return
        self._wake_ns = self._world.now_ns
        _Current.loop = self
        asyncio._set_running_loop(self)
        try:
            self._run_ready()
        finally:
            asyncio._set_running_loop(None)
            _Current.loop = None
        self._wake_ns = -1
        self._arm_timer()

    def _run_ready(self) -> None:
        ready, timers = self._ready, self._timers
        steps = 0
        while self.alive:
            now_ns = self._clock.now_ns()
            while timers and timers[0][0] <= now_ns:
                handle = heapq.heappop(timers)[2]
                if not handle.dropped:
                    ready.append(handle)
            if not ready:
                return
            handle = ready.popleft()
            if handle.dropped:
                continue
            steps += 1
            if steps > STEPS_MAX:
                raise self._world.broken("L1", f"{self.name} spins")
            if handle.context is None:
                handle.callback(*handle.args)
            else:
                handle.context.run(handle.callback, *handle.args)

    def now_ns(self) -> int:
        """Return the node's clock."""
        return self._clock.now_ns()

    def time_passed_s(self) -> float:
        """Return how much true time has passed since the run began."""
        return self._world.now_ns / NS_PER_S


class _Current:
    """Whose step runs now."""

    loop: SimLoop | None = None


def current_process() -> str:
    """Return the name of the process whose step runs now."""
    loop = _Current.loop
    return loop.name if loop is not None else "world"


class _NodeTime:
    """Stands in for the module ``time`` in :mod:`pgbastion.clock`."""

    CLOCK_BOOTTIME = real_time.CLOCK_BOOTTIME

    @staticmethod
    def clock_gettime_ns(clock: int) -> int:
        """Return the clock of the node whose step runs now."""
        loop = _Current.loop
        return loop.now_ns() if loop is not None else real_time.clock_gettime_ns(clock)

    @staticmethod
    def time() -> float:
        """Return the wall-clock time: all machines agree on it."""
        loop = _Current.loop
        return real_time.time() if loop is None else WALL_BEGIN_S + loop.time_passed_s()


@contextmanager
def node_time() -> Iterator[None]:
    """Have :mod:`pgbastion.clock` show the clock of the node whose step runs."""
    replaced: Any = product_clock
    replaced.time = _NodeTime
    try:
        yield
    finally:
        replaced.time = real_time
