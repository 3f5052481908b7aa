"""Runs one sequence of actions at a time, and lets a stop go first."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from pgbastion.errors import OutcomeUnknown, PgBastionError
from pgbastion.model.actions import Action, StopPostgres
from pgbastion.observe.logging import EventLog

FAILURE_PAUSE_S: Final = 0.1

Perform = Callable[[Action], Awaitable[bool]]


class Runner:
    """Runs the actions of the newest decision.

    A decision that is being carried out already is left alone; another one waits
    until it is done, unless it stops PostgreSQL: that goes first, since what it
    interrupts may hang on the very server that is to be stopped.

    Args:
        perform: Carries one action out; False ends the sequence.
        on_done: Called when a sequence has ended, however it ended.
        log: Where failures go.
    """

    def __init__(
        self, perform: Perform, *, on_done: Callable[[], None], log: EventLog
    ) -> None:
        self._perform = perform
        self._on_done = on_done
        self._log = log
        self._actions: tuple[Action, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self.broken: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether a sequence is being carried out."""
        return self._task is not None

    def offer(self, actions: tuple[Action, ...]) -> None:
        """Carry these actions out, now or after what goes on has ended."""
        if not actions or actions == self._actions:
            return
        if self._task is not None:
            if not _stops(actions) or _stops(self._actions):
                return
            self._task.cancel()
        self._actions = actions
        self._task = asyncio.create_task(self._run(actions, self._task))

    async def _run(
        self, actions: tuple[Action, ...], former: asyncio.Task[None] | None
    ) -> None:
        if former is not None:
            await asyncio.wait([former])
        try:
            for action in actions:
                if not await self._perform(action):
                    # What refused it may take its time; asking at once would spin.
                    await asyncio.sleep(FAILURE_PAUSE_S)
                    break
        except (PgBastionError, OutcomeUnknown, TimeoutError, OSError) as exc:
            names = ",".join(type(action).__name__ for action in actions)
            self._log.warning("action_failed", actions=names, error=str(exc))
            # What is wanted is decided again from what is seen then; a pause keeps a
            # failure that lasts from filling log and processor.
            await asyncio.sleep(FAILURE_PAUSE_S)
        except Exception as exc:  # noqa: BLE001 - the top of a task
            # A bug, not the world: the pass that follows ends the daemon with it.
            self.broken = exc
        finally:
            if self._task is asyncio.current_task():
                self._task = None
                self._actions = ()
                self._on_done()

    async def stop(self) -> None:
        """Interrupt what goes on."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


def _stops(actions: tuple[Action, ...]) -> bool:
    return any(isinstance(action, StopPostgres) for action in actions)
