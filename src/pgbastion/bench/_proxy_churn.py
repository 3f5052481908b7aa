"""Memory of our proxies while clients come and go."""

import asyncio
import random
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from pgbastion.bench._proxy_idle import Session, open_session
from pgbastion.bench._proxy_ways import Way, open_ways, raise_file_limit
from pgbastion.bench.lab.errors import LabError
from pgbastion.testing.stand_in_server import READY, StandInServer

_SERVER: Final = "127.35.250.5"
_CLIENTS: Final = 40
# Enough for the kernel path to adopt a session, for some of them.
_QUERIES_MAX: Final = 60
_SAMPLE_S: Final = 5.0
# Until tables and pools have the size that this work needs.
_WARM_SHARE: Final = 0.2


@dataclass(slots=True)
class Churn:
    """What one way's process needed over time."""

    sessions: int = 0
    # Seconds since the start, PSS in bytes, open descriptors.
    samples: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def warm_bytes(self) -> int:
        """Memory after the first part of the time."""
        return self.samples[int(len(self.samples) * _WARM_SHARE)][1]

    @property
    def last_bytes(self) -> int:
        """Memory at the end, the clients still there."""
        return self.samples[-1][1]

    @property
    def most_bytes(self) -> int:
        """The most memory at any time."""
        return max(size for _, size, _ in self.samples)


def measure_churn(
    minutes: float, missing: dict[str, str], say: Callable[[str], None]
) -> dict[str, Churn]:
    """Let clients come and go for ``minutes`` on every way of ours at once."""
    raise_file_limit()
    return uvloop.run(_measure(minutes * 60, missing, say))


async def _measure(
    seconds: float, missing: dict[str, str], say: Callable[[str], None]
) -> dict[str, Churn]:
    server = StandInServer("one", host=_SERVER)
    await server.start()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pgb-bench-churn-") as name,
            open_ways(_SERVER, server.port, Path(name), missing) as ways,
        ):
            ours = [way for way in ways.values() if way.orders is not None]
            found = {way.name: Churn() for way in ours}
            clients = [
                asyncio.ensure_future(_come_and_go(way, found[way.name], number))
                for way in ours
                for number in range(_CLIENTS)
            ]
            try:
                await _watch(ours, found, seconds, server, say)
            finally:
                for client in clients:
                    client.cancel()
                ends = await asyncio.gather(*clients, return_exceptions=True)
            failed = [end for end in ends if isinstance(end, Exception)]
            if failed:
                raise LabError(f"a client failed: {failed[0]!r}")
            return found
    finally:
        await server.stop()


async def _watch(
    ways: list[Way],
    found: dict[str, Churn],
    seconds: float,
    server: StandInServer,
    say: Callable[[str], None],
) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        await asyncio.sleep(min(_SAMPLE_S, seconds))
        for way in ways:
            sample = passed, way.pss_bytes(), way.descriptors()
            found[way.name].samples.append(sample)
        # What the stand-in notes of its clients is nobody's here.
        for notes in (server.startups, server.queries, server.endings):
            notes.clear()
        if len(found[ways[0].name].samples) % 12 == 0:
            say(
                ", ".join(
                    f"{way.name} {found[way.name].samples[-1][1] / 1e6:.1f} MB"
                    for way in ways
                )
            )


async def _come_and_go(way: Way, churn: Churn, number: int) -> None:
    rng = random.Random(number)  # noqa: S311 - a workload, repeated
    while True:
        session = await open_session(way)
        churn.sessions += 1
        try:
            for _ in range(rng.randrange(_QUERIES_MAX)):
                await _ask(session, rng.choice(("who", "rows 3 100", "rows 2 30000")))
            if rng.random() < 0.5:  # the others leave without a word
                session[1].write(b"X" + struct.pack("!I", 4))
                await session[0].read()
        finally:
            session[1].transport.abort()


async def _ask(session: Session, text: str) -> None:
    reader, writer = session
    body = text.encode() + b"\0"
    writer.write(b"Q" + struct.pack("!I", len(body) + 4) + body)
    await reader.readuntil(READY)
