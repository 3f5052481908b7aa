"""The memory that idle sessions add to a proxy's process."""

import asyncio
import struct
import tempfile
import time
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


def measure_idle_bytes(sessions: int) -> dict[str, int]:
    """Return the bytes (PSS) that ``sessions`` idle sessions add, by way.

    Raises:
        LabError: This process may not open enough files.
    """
    allowed = raise_file_limit()
    needed = sessions * _DESCRIPTORS_A_SESSION + _DESCRIPTORS_BESIDE
    if needed > allowed:
        raise LabError(f"{sessions} sessions need {needed} descriptors, not {allowed}")
    return uvloop.run(_measure(sessions))


async def _measure(sessions: int) -> dict[str, int]:
    server = StandInServer("one", host=_SERVER)
    await server.start()
    found = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pgb-bench-idle-") as name,
            open_ways(_SERVER, server.port, Path(name)) as ways,
        ):
            for way in ways.values():
                if way.process is not None:
                    found[way.name] = await _added(way, sessions)
    finally:
        await server.stop()
    return found


async def _added(way: Way, sessions: int) -> int:
    writers: list[asyncio.StreamWriter] = []
    # What the first session costs, code and tables, is not what one more costs.
    writers.append(await _session(way))
    before = way.pss_bytes()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while len(writers) <= sessions:
                number = min(_AT_ONCE, sessions + 1 - len(writers))
                opened = (_session(way) for _ in range(number))
                writers += await asyncio.gather(*opened)
        time.sleep(1)  # noqa: ASYNC251 - nothing has to happen meanwhile
        return way.pss_bytes() - before
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(1)


async def _session(way: Way) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(way.host, way.port)
    body = struct.pack("!I", 3 << 16) + b"user\0bench\0\0"
    writer.write(struct.pack("!I", len(body) + 4) + body)
    await reader.readuntil(READY)
    return writer
