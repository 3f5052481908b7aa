"""Runs the operator's program for addresses that are not ours to set.

The contract is docs/howto/address-hooks.md: the program is given ``take`` or ``drop``,
the address and the interface; exit code 0 means done. It may be called again for what
is done already, is ended when it takes too long, and is replaced by a newer call.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pgbastion.model.addresses import VirtualAddress
from pgbastion.observe.logging import get_logger
from pgbastion.programs import run_program

ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0

log = get_logger("vip-hook")


class Hook:
    """One program; calls for one address replace each other.

    Args:
        program: Its absolute path.
        timeout_s: How long one call may take.
        environment: Variables that tell it about node and cluster.
    """

    def __init__(
        self, program: Path, *, timeout_s: float, environment: Mapping[str, str]
    ) -> None:
        self._program = program
        self._timeout_s = timeout_s
        self._environment = dict(environment)
        self._running: dict[VirtualAddress, asyncio.Task[bool]] = {}
        self.failures_total = 0

    def start(
        self, verb: str, address: VirtualAddress, epoch: int
    ) -> asyncio.Task[bool]:
        """Call the program, in place of a call for this address that still runs."""
        former = self._running.get(address)
        if former is not None:
            former.cancel()
        task = asyncio.create_task(self._call(verb, address, epoch, former))
        self._running[address] = task
        return task

    async def finish(self) -> None:
        """Wait until no call runs; each has its time limit."""
        if self._running:
            await asyncio.wait(self._running.values())

    async def _call(
        self,
        verb: str,
        address: VirtualAddress,
        epoch: int,
        former: asyncio.Task[bool] | None,
    ) -> bool:
        if former is not None:
            # Two programs for one address must not overtake each other.
            await asyncio.wait([former])
        for attempt in range(1, ATTEMPTS + 1):
            problem = await self._attempt(verb, address, epoch)
            if problem is None:
                log.info("vip_hook_done", verb=verb, address=str(address))
                return True
            self.failures_total += 1
            log.warning(
                "vip_hook_failed",
                verb=verb,
                address=str(address),
                attempt=attempt,
                error=problem,
            )
            await asyncio.sleep(PAUSE_S)
        return False

    async def _attempt(
        self, verb: str, address: VirtualAddress, epoch: int
    ) -> str | None:
        """Run it once; return what went wrong."""
        return await run_program(
            self._program,
            (verb, str(address), address.interface),
            environment={**self._environment, "PGBASTION_EPOCH": str(epoch)},
            limit_s=self._timeout_s,
        )
