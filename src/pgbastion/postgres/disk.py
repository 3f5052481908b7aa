"""Whether the disks under the server still write, and its files are there.

One small fsync at a time.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.clock import boottime_ns
from pgbastion.errors import PostgresError
from pgbastion.postgres import fsync_worker
from pgbastion.postgres.files import Files
from pgbastion.postgres.layout import PgPaths

END_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskAnswer:
    """What became of one fsync."""

    sent_ns: int
    answered_ns: int | None
    """None: it is still under way."""
    error: str | None = None
    errno: int | None = None
    free_bytes: Mapping[str, int] | None = None
    size_bytes: Mapping[str, int] | None = None
    """Both by directory: the data's first, then that of WAL on a disk of its own."""

    @property
    def is_good(self) -> bool:
        """Whether the disks have written."""
        return self.answered_ns is not None and self.error is None


class DiskWorker:
    """Has a process of its own do an fsync where the data and the WAL are.

    At most one is under way: a frozen file system costs this process, nothing else. It
    ends with its standard input, so also with the daemon.
    """

    def __init__(self, paths: PgPaths, files: Files) -> None:
        self._paths = paths
        self._files = files
        self._process: asyncio.subprocess.Process | None = None
        self._pending: asyncio.Task[DiskAnswer] | None = None
        self._sent_ns = 0

    @property
    def pid(self) -> int | None:
        """The process that waits for the disks; None before the first check."""
        return None if self._process is None else self._process.pid

    async def check(self, *, deadline_s: float) -> DiskAnswer:
        """Return the answer of the fsync that is under way, or of a new one."""
        if self._pending is None:
            self._sent_ns = boottime_ns()
            self._pending = asyncio.create_task(self._ask(self._sent_ns))
        pending, sent_ns = self._pending, self._sent_ns
        await asyncio.wait({pending}, timeout=deadline_s)
        if not pending.done():
            return DiskAnswer(sent_ns=sent_ns, answered_ns=None)
        self._pending = None
        return pending.result()

    async def close(self) -> None:
        """End the process; one that hangs in the kernel ends when its disk answers."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.wait()

    async def _ask(self, sent_ns: int) -> DiskAnswer:
        try:
            answer = await self._exchange()
        except (OSError, ValueError, PostgresError) as exc:
            answer = {"error": f"the disk worker failed: {exc}"}
        error, free = answer.get("error"), answer.get("free")
        size = answer.get("size")
        if error is not None:
            # Where data and WAL are is looked up anew: a copy may have moved them.
            await self._forget()
        return DiskAnswer(
            sent_ns=sent_ns,
            answered_ns=boottime_ns(),
            error=None if error is None else str(error),
            errno=number if isinstance(number := answer.get("errno"), int) else None,
            free_bytes=free if isinstance(free, dict) else None,
            size_bytes=size if isinstance(size, dict) else None,
        )

    async def _exchange(self) -> dict[str, object]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{boottime_ns()}\n".encode())
        await process.stdin.drain()
        line = await process.stdout.readline()
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("not an answer")  # noqa: TRY004 - as of any other nonsense
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        account = self._paths.account
        directories = await self._files.run("find the disks", self._directories)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(fsync_worker.__file__)),
            str(account.uid),
            str(account.gid),
            *directories,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )

    def _directories(self) -> list[str]:
        """Return the data directory, and that of WAL if it is on another disk."""
        data, wal = self._paths.data_dir, self._paths.wal_dir.resolve()
        if wal.stat().st_dev == data.stat().st_dev:
            return [str(data)]
        return [str(data), str(wal)]

    async def _forget(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await process.wait()
