"""Ask, order and change the primary for hours, and see that no daemon grows.

Three nodes, each asked at fifty times the usual rate, with followers that come and go,
orders, settings and switchovers by command, and a webhook whose receiver is down for
half of the time. After the warm-up resident memory may grow by less than 1 MB an hour;
descriptors, threads, files and the series of the metrics not at all.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from pgbastion.bench._soak_load import Load
from pgbastion.bench._soak_watch import Watched, grows, series_of
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.node import run_directories
from pgbastion.bench.lab.settings import API_PORT, Plan

LOOK_EVERY_S: Final = 10.0
TELL_EVERY_S: Final = 300.0
HOOK_UP_S: Final = 60.0
GROWTH_MAX_BYTES_PER_H: Final = 1e6
MB: Final = 1e6


class Soak:
    """One run on one laboratory."""

    def __init__(self, lab: Lab, token: str, warm_up_s: float) -> None:
        self._lab = lab
        self._warm_up_s = warm_up_s
        self._began_s = time.monotonic()
        self._urls = [f"http://{n.address}:{API_PORT}" for n in lab.nodes.values()]
        self.load = Load(self._urls, token)
        self.watched = list(self._watch())
        self.series: dict[str, list[frozenset[str]]] = {url: [] for url in self._urls}

    def _watch(self) -> Iterator[Watched]:
        for node in self._lab.nodes.values():
            raft = node.directory / "raft"
            daemon, guard = node.daemon(), node.guard()
            if daemon is None or guard is None:
                raise LabError(f"{node.name} has no daemon or no guard")
            folders = (raft, *run_directories(node.name, raft))
            yield Watched(f"{node.name} daemon", daemon, folders)
            yield Watched(f"{node.name} guard", guard)

    async def run(self, for_s: float) -> None:
        """Load the cluster and look at it.

        Raises:
            OSError: A process has ended.
        """
        load = asyncio.create_task(self.load.run())
        told_s = self._at_s()
        try:
            while self._at_s() < for_s and not load.done():
                await asyncio.sleep(LOOK_EVERY_S)
                for each in self.watched:
                    each.look(self._at_s())
                await self._scrape()
                if self._at_s() - told_s > TELL_EVERY_S:
                    told_s = self._at_s()
                    print(json.dumps(self.figures()), flush=True)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)

    def figures(self) -> dict[str, Any]:
        """Return what was seen after the warm-up."""
        since_s = self._warm_up_s
        found = {}
        for each in self.watched:
            looks = [look for look in each.looks if look.at_s >= since_s]
            if not looks:
                continue
            growth = each.growth_bytes_per_h(since_s)
            found[each.name] = {
                "rss_mb": round(looks[-1].rss_bytes / MB, 1),
                "growth_mb_per_h": round(growth / MB, 2),
                "descriptors": looks[-1].descriptors,
                "threads": looks[-1].threads,
                "files": looks[-1].files,
                "grows": self._growing(each, growth),
            }
        series = {url: self._new_series(url) for url in self._urls}
        return {
            "minutes": round(self._at_s() / 60, 1),
            "processes": found,
            "new_series": {url: sorted(new) for url, new in series.items() if new},
            "load": dict(self.load.done),
        }

    def _growing(self, each: Watched, growth: float) -> list[str]:
        looks = [look for look in each.looks if look.at_s >= self._warm_up_s]
        counted = {
            "descriptors": [look.descriptors for look in looks],
            "threads": [look.threads for look in looks],
            "files": [look.files for look in looks],
        }
        more = [what for what, values in counted.items() if grows(values)]
        return more + (["memory"] if growth >= GROWTH_MAX_BYTES_PER_H else [])

    def _new_series(self, url: str) -> frozenset[str]:
        """Return the series that were first seen in the last third."""
        seen = self.series[url]
        third = len(seen) // 3
        if not third:
            return frozenset()
        before = frozenset().union(*seen[:-third])
        return frozenset().union(*seen[-third:]) - before

    async def _scrape(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for url, seen in self.series.items():
                try:
                    text = (await client.get(f"{url}/metrics")).text
                except httpx.HTTPError:
                    continue
                # What comes back after the warm-up was there before.
                seen.append(series_of(text))

    def _at_s(self) -> float:
        return time.monotonic() - self._began_s


async def _receive(host: str, port: int) -> None:
    """Take events in, and be down for as long, for ever."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    while True:
        server = await asyncio.start_server(answer, host, port)
        async with server:
            await asyncio.sleep(HOOK_UP_S)
        await asyncio.sleep(HOOK_UP_S)


@contextmanager
def _laboratory(hook: str, keep_logs: Path) -> Iterator[Lab]:
    with Lab(Plan(namespaces=False), keep_logs_in=keep_logs) as lab:
        for node in lab.nodes.values():
            added = f'events: {{webhooks: [{{url: "{hook}"}}]}}\n'
            node.config.write_text(node.config.read_text() + added)
        lab.start()
        yield lab


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


async def _soak(soak: Soak, host: str, port: int, for_s: float) -> None:
    receiver = asyncio.create_task(_receive(host, port))
    try:
        await soak.run(for_s)
    finally:
        receiver.cancel()


def main(arguments: Sequence[str]) -> None:
    """Soak; print figures now and then, and exit with 1 if something grows."""
    parser = argparse.ArgumentParser(prog="bench soak-api", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--warm-up", type=float, default=20.0, help="minutes of it")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/soak-api"))
    options = parser.parse_args(arguments)
    host = "127.0.0.1"
    port = _free_port(host)
    try:
        with _laboratory(f"http://{host}:{port}/hook", options.keep_logs) as lab:
            token = (lab.directory / "token").read_text().strip()
            soak = Soak(lab, token, options.warm_up * 60)
            asyncio.run(_soak(soak, host, port, options.minutes * 60))
            found = soak.figures()
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    print(json.dumps(found))
    growing = any(each["grows"] for each in found["processes"].values())
    if growing or found["new_series"]:
        sys.exit(1)
