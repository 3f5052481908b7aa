"""Runs an operator's program when this node's role changes.

It blocks nothing: it is a process of its own, with a time limit. A newer change ends
the program that runs, since what that one was to announce is over (safety rule 60).
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pgbastion.observe.logging import get_logger

EVENT: Final = "on_role_change"
END_S: Final = 1.0

log = get_logger("callbacks")


class RoleCallback:
    """Calls ``PROGRAM on_role_change ROLE CLUSTER`` for the newest role.

    Args:
        program: Returns what to run; None: nothing.
        limit_s: Returns how long it may run.
        cluster: Returns the cluster's name.
    """

    def __init__(
        self,
        *,
        program: Callable[[], Path | None],
        limit_s: Callable[[], float],
        cluster: Callable[[], str],
    ) -> None:
        self._program = program
        self._limit_s = limit_s
        self._cluster = cluster
        self._role: str | None = None
        self._changed = asyncio.Event()

    def note(self, role: str) -> None:
        """Take this node's role; a change has the program run."""
        if role != self._role:
            self._role = role
            self._changed.set()

    async def run(self) -> None:
        """Run the program for the newest role, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            program, role = self._program(), self._role
            if program is None or role is None:
                continue
            await self._call(program, role)

    async def _call(self, program: Path, role: str) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                str(program),
                EVENT,
                role,
                self._cluster(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as exc:
            log.warning("callback_not_run", program=str(program), error=str(exc))
            return
        ended = asyncio.create_task(process.wait())
        newer = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait(
                {ended, newer},
                timeout=self._limit_s(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            newer.cancel()
            if not ended.done():
                _kill_group(process.pid)
            await asyncio.wait({ended}, timeout=END_S)
            ended.cancel()
        outcome = process.returncode
        if outcome == 0:
            log.info("callback_ran", role=role)
        else:
            why = "a newer change" if self._changed.is_set() else "error or time limit"
            log.warning("callback_failed", role=role, code=outcome, why=why)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
