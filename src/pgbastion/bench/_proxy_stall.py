"""A reader that stalls in the middle of a long answer: what it makes others keep.

The server counts what it can send, the reader what it has read; the difference is kept
by somebody: the kernel's buffers, its queues, or the proxy. The proxy's own memory is
looked at as well.
"""

import select
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Final, Self

from pgbastion.bench._proxy_ways import Way, open_ways
from pgbastion.bench.lab.errors import LabError
from pgbastion.testing.stand_in_server import READY, message

_SERVER: Final = "127.35.250.4"
_BLOCK: Final = message(b"d", bytes(65_531))
# Read before the stall, so that every path is at its full speed.
_READ_BYTES: Final = 64 << 20
_TIMEOUT_S: Final = 30.0
# Of the reader and of the server, so that they keep the same on every way.
_BUFFER_BYTES: Final = 1 << 20
_GREETING: Final = message(b"R", struct.pack("!I", 0)) + READY


@dataclass(frozen=True, slots=True)
class Stall:
    """What is kept for a reader that stalls."""

    # Early in the stall, and at its end.
    first_bytes: int
    last_bytes: int


def measure_stall(seconds: float, missing: dict[str, str]) -> dict[str, Stall]:
    """Return what is kept while a reader stalls for ``seconds``, by way."""
    with (
        _Source() as source,
        tempfile.TemporaryDirectory(prefix="pgb-bench-stall-") as name,
        open_ways(_SERVER, source.port, Path(name), missing) as ways,
    ):
        return {way.name: _stall(way, source, seconds) for way in ways.values()}


def _stall(way: Way, source: "_Source", seconds: float) -> Stall:
    with _reading(way) as reader:
        left, before = _READ_BYTES, way.pss_bytes()
        while left:
            size = len(reader.recv(min(left, 1 << 18)))
            if not size:
                raise LabError(f"{way.name} has ended the session")
            left -= size
        time.sleep(1)
        first = source.sent - _READ_BYTES + max(way.pss_bytes() - before, 0)
        time.sleep(seconds)
        last = source.sent - _READ_BYTES + max(way.pss_bytes() - before, 0)
        # It has to go on afterwards, or it was no stall.
        if not reader.recv(1 << 18):
            raise LabError(f"{way.name} has ended the session of a slow reader")
    source.let_go()
    return Stall(first, last)


@contextmanager
def _reading(way: Way) -> Iterator[socket.socket]:
    with socket.socket() as reader:
        # What the kernel allows it by itself depends on how fast it has read.
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        reader.settimeout(_TIMEOUT_S)
        reader.connect((way.host, way.port))
        body = struct.pack("!I", 3 << 16) + b"user\0bench\0\0"
        reader.sendall(struct.pack("!I", len(body) + 4) + body)
        left = len(_GREETING)
        while left:
            left -= len(reader.recv(left))
        yield reader


class _Source:
    """A server that sends without end to one client after the other."""

    def __init__(self) -> None:
        self.sent = 0
        self._listener = socket.create_server((_SERVER, 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._ended = False
        self._idle = Event()
        self._thread = Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_why: object) -> None:
        self._ended = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_TIMEOUT_S)

    def let_go(self) -> None:
        """Wait until the client that has left is forgotten."""
        if not self._idle.wait(_TIMEOUT_S):
            raise LabError("the end of a session did not reach the server")

    def _serve(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._idle.clear()
            with client:
                self._pour(client)
            self._idle.set()

    def _pour(self, client: socket.socket) -> None:
        """Send until the client has gone."""
        client.settimeout(_TIMEOUT_S)
        self.sent = 0
        try:
            if not client.recv(1 << 16):
                return
            client.sendall(_GREETING)
            client.setblocking(False)
            rest = memoryview(_BLOCK)
            while not self._ended:
                _, writable, _ = select.select([], [client], [], 1.0)
                if not writable:
                    continue
                sent = client.send(rest)
                self.sent += sent
                rest = rest[sent:] or memoryview(_BLOCK)
        except OSError:
            return
