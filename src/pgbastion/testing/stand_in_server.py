"""A stand-in for a PostgreSQL server: enough of the protocol to test a proxy.

It authenticates everybody, answers a few queries of its own and notes what it was
asked. It takes the place of real servers where there are too many sessions for one,
or where a server has to misbehave.
"""

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_CANCEL_REQUEST: Final = 80877102


class Behaviour(Enum):
    """How the server treats those who connect."""

    SERVE = auto()
    # Accept and say nothing, like a stopped postmaster.
    SILENT = auto()
    # Accept and reset, like one that is being killed.
    RESET = auto()
    # Answer start-up packets with FATAL 57P03.
    STARTING_UP = auto()


@dataclass
class StandInServer:
    """One server; its answers name ``node``."""

    node: str
    behaviour: Behaviour = Behaviour.SERVE
    # Whether SSLRequest is answered with S; what follows is echoed.
    tls: bool = False
    key_bytes: int = 4
    host: str = "127.0.0.1"
    port: int = 0
    startups: list[dict[str, str]] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    cancels: list[tuple[int, bytes]] = field(default_factory=list)
    # Sessions that are in the query loop now, by process id.
    sessions: dict[int, StreamWriter] = field(default_factory=dict)
    # How each session ended: "terminate", "eof" or "reset".
    endings: list[str] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _next_pid: int = 1000
    _cancelled: dict[int, asyncio.Event] = field(default_factory=dict)
    _writers: set[StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        """Listen on ``host``, on any port if ``port`` is 0."""
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, backlog=4096, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def connections(self) -> int:
        """How many clients are there, whatever they are told."""
        return len(self._writers)

    def turn_away(self) -> None:
        """Answer FATAL 57P03 to everybody who is there, and hang up."""
        for writer in tuple(self._writers):
            writer.write(error("57P03", f"{self.node} is shutting down"))
            writer.close()

    def secret_of(self, pid: int) -> bytes:
        """Return the cancel key that session ``pid`` was given."""
        return struct.pack("!I", pid * 7919 & 0xFFFFFFFF) * (self.key_bytes // 4)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(
                asyncio.IncompleteReadError, ConnectionError, struct.error
            ):
                await self._first_packets(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _first_packets(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self.behaviour is Behaviour.RESET:
            raw = writer.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            if self.behaviour is Behaviour.SILENT:
                await reader.read()
                return
            (code,) = struct.unpack_from("!I", body)
            if code == _CANCEL_REQUEST:
                self._cancel(body)
                return
            if code == _SSL_REQUEST and self.tls:
                writer.write(b"S")
                await _echo(reader, writer)
                return
            if code in (_SSL_REQUEST, _GSS_REQUEST):
                writer.write(b"N")
                continue
            await self._session(body[4:], reader, writer)
            return

    def _cancel(self, body: bytes) -> None:
        (pid,) = struct.unpack_from("!I", body, 4)
        self.cancels.append((pid, body[8:]))
        if body[8:] == self.secret_of(pid) and pid in self._cancelled:
            self._cancelled[pid].set()

    async def _session(
        self, parameters: bytes, reader: StreamReader, writer: StreamWriter
    ) -> None:
        words = parameters.decode(errors="replace").split("\0")
        self.startups.append(dict(zip(words[::2], words[1::2], strict=False)))
        if self.behaviour is Behaviour.STARTING_UP:
            writer.write(error("57P03", f"{self.node} is starting up"))
            await writer.drain()
            return
        pid = self._next_pid
        self._next_pid += 1
        self._cancelled[pid] = asyncio.Event()
        writer.write(
            message(b"R", struct.pack("!I", 0))
            + message(b"S", b"server_version\x0015.0\0")
            + message(b"S", b"client_encoding\0UTF8\0")
            + message(b"K", struct.pack("!I", pid) + self.secret_of(pid))
            + READY
        )
        self.sessions[pid] = writer
        try:
            await self._queries(pid, reader, writer)
        except ConnectionError:
            self.endings.append("reset")
        except asyncio.IncompleteReadError:
            self.endings.append("eof")
        finally:
            del self.sessions[pid], self._cancelled[pid]

    async def _queries(
        self, pid: int, reader: StreamReader, writer: StreamWriter
    ) -> None:
        while True:
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            body = await reader.readexactly(length - 4)
            if kind == b"X":
                self.endings.append("terminate")
                return
            self.queries.append(body.rstrip(b"\0").decode(errors="replace"))
            words = self.queries[-1].split()
            handler = self._handlers().get(words[0] if words else "", self._name)
            await handler(pid, words, writer)
            await writer.drain()

    def _handlers(
        self,
    ) -> dict[str, Callable[[int, list[str], StreamWriter], Awaitable[None]]]:
        return {"rows": self._rows, "wait": self._wait, "half": self._half}

    async def _name(self, _pid: int, _words: list[str], writer: StreamWriter) -> None:
        """Answer with one row: the node."""
        writer.write(row(self.node.encode()) + message(b"C", b"SELECT 1\0") + READY)

    async def _rows(self, _pid: int, words: list[str], writer: StreamWriter) -> None:
        """Answer "rows COUNT BYTES" with as many rows, numbered."""
        count, size = int(words[1]), int(words[2])
        for number in range(count):
            writer.write(row(number_pattern(number, size)))
            await writer.drain()
        writer.write(message(b"C", f"SELECT {count}\0".encode()) + READY)

    async def _wait(self, pid: int, _words: list[str], writer: StreamWriter) -> None:
        """Answer once the query is cancelled."""
        await self._cancelled[pid].wait()
        self._cancelled[pid].clear()
        writer.write(error("57014", "canceled") + READY)

    async def _half(self, _pid: int, _words: list[str], writer: StreamWriter) -> None:
        """Answer with the first half of a row and no more."""
        whole = row(b"x" * 100)
        writer.write(whole[: len(whole) // 2])


def message(kind: bytes, body: bytes) -> bytes:
    """Build a message of the protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body


READY: Final = message(b"Z", b"I")


def row(value: bytes) -> bytes:
    """Build a DataRow of one column."""
    return message(b"D", struct.pack("!HI", 1, len(value)) + value)


def error(sqlstate: str, text: str) -> bytes:
    """Build an ErrorResponse."""
    body = f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0"
    return message(b"E", body.encode())


def number_pattern(number: int, size: int) -> bytes:
    """Return ``size`` bytes that tell ``number`` and their own place."""
    unit = b"%010d." % number
    return (unit * (size // len(unit) + 1))[:size]


async def _echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
