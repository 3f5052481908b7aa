"""Runs the operator's program that switches nodes off, for the decisions of a leader.

The contract is docs/howto/fencing.md. It decides nothing: what a run proves, and for
how long, is judged in :mod:`pgbastion.control.fencing`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pgbastion.clock import boottime_ms
from pgbastion.config.model import Config
from pgbastion.model.actions import CallFence
from pgbastion.model.snapshot import FenceCounts
from pgbastion.model.views import FenceCall, FencingView
from pgbastion.observe.logging import get_logger
from pgbastion.programs import run_program

VERB = "off"

log = get_logger("fencing")


class FenceProgram:
    """The program of ``failover.fence_command``; fulfils ``ha.ports.Fencer``.

    Args:
        config: Returns the configuration: another program counts from the next call.
        on_change: Called when a run has begun or ended.
    """

    def __init__(
        self, config: Callable[[], Config], *, on_change: Callable[[], None]
    ) -> None:
        self._config = config
        self._on_change = on_change
        self._newest: FenceCall | None = None
        self._task: asyncio.Task[None] | None = None
        self.counts = FenceCounts()

    def view(self) -> FencingView | None:
        """Return what came of the newest run; None: no program is configured."""
        config = self._config()
        if config.failover.fence_command is None:
            return None
        lead_ms = config.timings.stop_ms + config.timings.margin_ms
        return FencingView(lead_ms=lead_ms, call=self._newest)

    def call(self, order: CallFence) -> None:
        """Run it for a node, without waiting; not while another run goes on."""
        if self._task is not None:
            return
        call = FenceCall(epoch=order.epoch, term=order.term, started_ms=boottime_ms())
        self._newest = call
        self._task = asyncio.create_task(self._run(order, call))

    async def _run(self, order: CallFence, call: FenceCall) -> None:
        problem: str | None = "it was interrupted"
        try:
            problem = await self._attempt(order)
        finally:
            self._task = None
            self._newest = replace(
                call, ended_ms=boottime_ms(), confirmed=problem is None
            )
            self._note(order, problem)
            self._on_change()

    async def _attempt(self, order: CallFence) -> str | None:
        config = self._config()
        program = config.failover.fence_command
        if program is None:
            return "it is not configured any more"
        log.warning("fence_called", node=order.node, epoch=order.epoch)
        return await run_program(
            program,
            (VERB, order.node, order.host),
            environment={
                "PGBASTION_NODE": config.node.name,
                "PGBASTION_CLUSTER": config.cluster.name,
                "PGBASTION_EPOCH": str(order.epoch),
            },
            limit_s=config.failover.fence_timeout / 1_000,
        )

    def _note(self, order: CallFence, problem: str | None) -> None:
        if problem is None:
            self.counts = replace(self.counts, confirmed=self.counts.confirmed + 1)
            log.warning("fence_confirmed", node=order.node, epoch=order.epoch)
            return
        self.counts = replace(self.counts, failed=self.counts.failed + 1)
        log.error("fence_failed", node=order.node, epoch=order.epoch, error=problem)

    async def close(self) -> None:
        """End a run that goes on: what it does is of no use to anybody here."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
