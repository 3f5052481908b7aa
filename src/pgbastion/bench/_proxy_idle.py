"""Idle sessions: the memory that they add, and how soon a failover has closed them."""

import asyncio
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from pgbastion.bench._proxy_ways import Way, open_ways, raise_file_limit
from pgbastion.bench.lab.errors import LabError
from pgbastion.testing.stand_in_server import READY, StandInServer

_SERVER: Final = "127.35.250.3"
# Each session has a socket of the client's and one of the stand-in server's here.
_DESCRIPTORS_A_SESSION: Final = 2
_DESCRIPTORS_BESIDE: Final = 200
_AT_ONCE: Final = 100
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Idle:
    """What idle sessions cost on one way."""

    added_bytes: int
    # From the order until the last client has seen the end; None: nobody to order.
    closed_s: float | None


Session = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def measure_idle(sessions: int, missing: dict[str, str]) -> dict[str, Idle]:
    """Return what ``sessions`` idle sessions cost, by way.

    Raises:
        LabError: This process may not open enough files.
    """
    allowed = raise_file_limit()
    needed = sessions * _DESCRIPTORS_A_SESSION + _DESCRIPTORS_BESIDE
    if needed > allowed:
        raise LabError(f"{sessions} sessions need {needed} descriptors, not {allowed}")
    return uvloop.run(_measure(sessions, missing))


async def _measure(sessions: int, missing: dict[str, str]) -> dict[str, Idle]:
    server = StandInServer("one", host=_SERVER)
    await server.start()
    found = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pgb-bench-idle-") as name,
            open_ways(_SERVER, server.port, Path(name), missing) as ways,
        ):
            for way in ways.values():
                if way.process is not None:
                    found[way.name] = await _cost(way, sessions)
    finally:
        await server.stop()
    return found


async def _cost(way: Way, sessions: int) -> Idle:
    opened: list[Session] = []
    # What the first session costs, code and tables, is not what one more costs.
    opened.append(await open_session(way))
    before = way.pss_bytes()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while len(opened) <= sessions:
                number = min(_AT_ONCE, sessions + 1 - len(opened))
                opening = (open_session(way) for _ in range(number))
                opened += await asyncio.gather(*opening)
        time.sleep(1)  # noqa: ASYNC251 - nothing has to happen meanwhile
        added = way.pss_bytes() - before
        closed_s = None if way.orders is None else await _close(way, opened)
        return Idle(added, closed_s)
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.sleep(1)


async def _close(way: Way, opened: list[Session]) -> float:
    """Take the primary away; return how long it took until every client knew."""
    ends = [asyncio.ensure_future(reader.read()) for reader, _ in opened]
    await asyncio.sleep(0)
    began = time.monotonic()
    way.lose_primary()
    async with asyncio.timeout(_TIMEOUT_S):
        last_words = await asyncio.gather(*ends)
    took_s = time.monotonic() - began
    untold = sum(b"C57P01" not in words for words in last_words)
    if untold:
        raise LabError(f"{way.name}: {untold} clients were not told why")
    return took_s


async def open_session(way: Way) -> Session:
    """Connect and log in; the server's greeting is read."""
    reader, writer = await asyncio.open_connection(way.host, way.port)
    body = struct.pack("!I", 3 << 16) + b"user\0bench\0\0"
    writer.write(struct.pack("!I", len(body) + 4) + body)
    await reader.readuntil(READY)
    return reader, writer
