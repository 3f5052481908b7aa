"""A step that takes longer than a pass: it runs beside the passes, one at a time."""

import asyncio
from collections.abc import Awaitable, Callable

from pgbastion.clock import boottime_ms
from pgbastion.errors import PgBastionError
from pgbastion.observe.logging import get_logger

log = get_logger("actions")


class Job:
    """Runs one long step; tells which, and how the last one failed."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.failed: str | None = None
        self.failed_ms = 0
        self.took_ms = 0
        self._task: asyncio.Task[None] | None = None

    def start(
        self, name: str, work: Awaitable[None], then: Callable[[], Awaitable[None]]
    ) -> None:
        """Run ``work``, then ``then``, whatever became of it."""
        self.name = name
        self._task = asyncio.create_task(self._run(name, work, then))

    async def _run(
        self, name: str, work: Awaitable[None], then: Callable[[], Awaitable[None]]
    ) -> None:
        started_ms = boottime_ms()
        log.info("job_started", job=name)
        try:
            try:
                await work
                self.failed = None
                log.info("job_done", job=name, ms=boottime_ms() - started_ms)
            except (PgBastionError, TimeoutError, OSError) as exc:
                self.failed, self.failed_ms = str(exc), boottime_ms()
                self.took_ms = self.failed_ms - started_ms
                log.error("job_failed", job=name, error=str(exc))
            # It goes on until what it has made was looked at. Decided on what was
            # there before, a copy would be made once more.
            await then()
        finally:
            self.name = None
            self._task = None

    async def stop(self) -> None:
        """Interrupt the step; its programs are ended with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
