"""Tells from probes what is wrong, and tries a new connection now and then.

A warm session proves that backends work, a small fsync that the disks do; only a new
connection shows a postmaster that takes none. One is tried every few seconds, and at
once while something is silent, so that the kinds of hanging can be told apart. It runs
beside the probes: what it waits for delays no evidence.
"""

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable
from typing import Final, Self

from pgbastion.clock import NS_PER_MS
from pgbastion.model.trouble import Trouble
from pgbastion.observe.logging import get_logger
from pgbastion.postgres.connection import Address
from pgbastion.postgres.disk import DiskAnswer
from pgbastion.postgres.hello import Hello, knock
from pgbastion.postgres.probe import ProbeResult

FRESH_EVERY_MS: Final = 5_000
STRIKES: Final = 3
"""New connections in a row without an answer before a postmaster counts as hung: one
may be lost on a machine that is busy for a moment."""
SEGMENT_BYTES: Final = 16 << 20
"""PostgreSQL's usual size of a WAL segment: what it asks for next."""
NEEDS_RESTART: Final = (
    "somebody removed the server's Unix socket, which only a restart makes anew:"
    " restart pgbastion here; a primary's role goes on after failover.stop_timeout"
)

log = get_logger("postgres")


class Doctor:
    """Follows the probes of one server.

    Args:
        greet: Tries a new connection; None: no answer in time. OSError: none could be
            tried.
    """

    def __init__(self, greet: Callable[[], Awaitable[Hello | None]]) -> None:
        self._greet = greet
        self._greeting: asyncio.Task[None] | None = None
        self._tried_ns = 0
        self._strikes = 0
        self._greeted = self._socket_gone = self._told = False

    @classmethod
    def at(cls, address: Address, *, deadline_s: Callable[[], float]) -> Self:
        """Follow the server at this address."""
        return cls(lambda: knock(address, deadline_s=deadline_s()))

    async def forget(self) -> None:
        """Begin anew with another server."""
        task, self._greeting = self._greeting, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tried_ns = self._strikes = 0
        self._greeted = self._socket_gone = self._told = False

    def judge(self, result: ProbeResult) -> tuple[Trouble | None, int | None]:
        """Return what a probe shows to be wrong, and the evidence that is left.

        A postmaster that hangs takes the evidence away that a session gave.
        """
        trouble = self._look(result)
        hung = trouble is Trouble.POSTMASTER_SILENT
        return trouble, None if hung else result.evidence_ns

    def _look(self, result: ProbeResult) -> Trouble | None:
        silent = not result.session_answered
        due = result.sent_ns - self._tried_ns >= FRESH_EVERY_MS * NS_PER_MS
        if self._greeting is None and (silent or self._strikes or due):
            self._tried_ns = result.sent_ns
            self._greeting = asyncio.create_task(self._try(answers=not silent))
        disk = disk_trouble(result.disk)
        if disk is not None:
            return disk
        if silent:
            greeted = Trouble.BACKENDS_SILENT if self._greeted else None
            return greeted or Trouble.SERVER_SILENT
        if self._socket_gone and not self._told:
            self._told = True
            log.warning("socket_gone", do=NEEDS_RESTART)
        return Trouble.POSTMASTER_SILENT if self._strikes >= STRIKES else None

    async def _try(self, *, answers: bool) -> None:
        try:
            answer = await self._greet()
        except OSError as exc:
            # No descriptor, or no socket: not there yet, or removed. That says nothing
            # of a server whose sessions answer: it is no strike.
            self._greeted, self._strikes = False, 0
            self._socket_gone = answers and isinstance(exc, FileNotFoundError)
        else:
            self._greeted, self._socket_gone = answer is not None, False
            self._strikes = 0 if self._greeted else self._strikes + 1
        self._greeting = None


def disk_trouble(answer: DiskAnswer) -> Trouble | None:
    """Return what is wrong with the disks; None: they write, and there is room."""
    if answer.answered_ns is None:
        return Trouble.DISK_SILENT
    if answer.error is not None:
        full = answer.errno == errno.ENOSPC
        return Trouble.DISK_FULL if full else Trouble.DISK_FAILED
    free = (answer.free_bytes or {}).values()
    return (
        Trouble.DISK_FULL if min(free, default=SEGMENT_BYTES) < SEGMENT_BYTES else None
    )
