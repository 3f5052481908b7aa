"""Questions to an HTTP server at a steady rate, each timed from when it was due.

The client is as small as can be: what it costs is taken from the server, where both
share the processors, and what it is late counts as the server's.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

CLIENTS: Final = 16
ANSWER_S: Final = 5.0
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_CHUNKED: Final = b"transfer-encoding: chunked"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Took:
    """What the questions of one path took."""

    ms: list[float] = field(default_factory=list)
    unanswered: int = 0


class _Line(asyncio.Protocol):
    """One connection that carries one question at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._got = b""
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(_HEAD_END)
        if found and _is_whole(head, body) and self._answered is not None:
            self._got = b""
            if not self._answered.done():
                self._answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError())

    async def ask(self, request: bytes) -> None:
        """Send a question and wait for its answer.

        Raises:
            OSError: The connection ended.
        """
        if self.transport is None:
            raise ConnectionResetError
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._answered


class Steady:
    """Asks one server; a context of its own for each measurement.

    Args:
        url: The server, ``http://HOST:PORT``.
        anew: Whether each question has a connection of its own, as a balancer's does.
    """

    def __init__(self, url: str, *, anew: bool = False) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._anew = anew
        self._idle: deque[_Line] = deque()
        self._used = asyncio.Semaphore(CLIENTS)

    async def measure(
        self, paths: tuple[str, ...], rate: float, for_s: float
    ) -> dict[str, Took]:
        """Ask the paths in turn and return what each answer took.

        Raises:
            OSError: The server cannot be reached at all.
        """
        took = {path: Took() for path in paths}
        self._give_back(await self._line())
        async with asyncio.TaskGroup() as group:
            begun = time.monotonic()
            for number in range(int(rate * for_s)):
                due = begun + number / rate
                await asyncio.sleep(max(due - time.monotonic(), 0))
                path = paths[number % len(paths)]
                group.create_task(self._ask(path, due, took[path]))
        while self._idle:
            self._close(self._idle.pop())
        return took

    async def _ask(self, path: str, due: float, took: Took) -> None:
        host = f"{self._host}:{self._port}"
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        line: _Line | None = None
        try:
            async with asyncio.timeout(ANSWER_S), self._used:
                line = await self._line()
                await line.ask(request)
        except OSError:
            # A time-out is one of these too. It took all of its time at least.
            took.unanswered += 1
            if line is not None:
                self._close(line)
        else:
            self._give_back(line)
        took.ms.append((time.monotonic() - due) * 1_000)

    async def _line(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if line.transport is not None:
                return line
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(_Line, self._host, self._port)
        return made

    def _give_back(self, line: _Line) -> None:
        if self._anew:
            self._close(line)
        else:
            self._idle.append(line)

    @staticmethod
    def _close(line: _Line) -> None:
        if line.transport is not None:
            line.transport.abort()


def _is_whole(head: bytes, body: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(_LENGTH):
            return len(body) >= int(line[len(_LENGTH) :])
        if line == _CHUNKED:
            return body.endswith(_LAST_CHUNK)
    return True
