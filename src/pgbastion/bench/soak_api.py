"""Ask, order and change the primary for hours, and see that no daemon grows.

Three nodes, each asked at fifty times the usual rate, with followers that come and go,
orders, settings and switchovers by command, and a webhook whose receiver is down for
half of the time. After the warm-up resident memory may grow by less than 1 MB an hour;
descriptors, threads, files and the series of the metrics not at all.

Exit code 0: that is shown. 1: something grows, or it is not shown: the run was too
short for the noise of its figures, or the load was not carried.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any, Final

import httpx

from pgbastion.bench._soak_load import REQUESTS_PER_S, Load
from pgbastion.bench._soak_watch import Watched, new_series, series_of
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun, LabError
from pgbastion.bench.lab.node import run_directories
from pgbastion.bench.lab.settings import API_PORT, Plan

LOOK_EVERY_S: Final = 10.0
TELL_EVERY_S: Final = 300.0
HOOK_UP_S: Final = 60.0
# What part of the load has to be carried; of three switchovers a minute one.
CARRIED_MIN: Final = 0.9
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

    async def run(self, for_s: float, receiver: Coroutine[Any, Any, None]) -> None:
        """Load the cluster and look at it.

        Raises:
            LabError: A process has ended, or the load or the receiver has.
        """
        tasks = [asyncio.create_task(each) for each in (self.load.run(), receiver)]
        told_s = self._at_s()
        try:
            while self._at_s() < for_s:
                ended, _ = await asyncio.wait(tasks, timeout=LOOK_EVERY_S)
                if ended:
                    raise LabError("the load has ended") from ended.pop().exception()
                for each in self.watched:
                    each.look(self._at_s())
                await self._scrape()
                if self._at_s() - told_s > TELL_EVERY_S:
                    told_s = self._at_s()
                    print(json.dumps(self.figures()), flush=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def figures(self) -> dict[str, Any]:
        """Return what was seen after the warm-up, and what is wrong with it."""
        late = {url: sorted(new_series(seen)) for url, seen in self.series.items()}
        judged = {each.name: each.wrong(self._warm_up_s) for each in self.watched}
        wrong = [f"{name}: {what}" for name, found in judged.items() for what in found]
        wrong += [f"{url}: series of metrics grow" for url, new in late.items() if new]
        return {
            "minutes": round(self._at_s() / 60, 1),
            "processes": {each.name: self._process(each) for each in self.watched},
            "new_series": late,
            "load": dict(self.load.done),
            "wrong": wrong + self._not_carried(),
        }

    def _process(self, each: Watched) -> dict[str, Any]:
        last, growth = each.looks[-1], each.growth(self._warm_up_s)
        return {
            "rss_mb": round(last.rss_bytes / MB, 1),
            "growth_mb_per_h": round(growth.bytes_per_h / MB, 2),
            "error_mb_per_h": None
            if growth.error == inf
            else round(growth.error / MB, 2),
            "descriptors": last.descriptors,
            "threads": last.threads,
            "files": last.files,
        }

    def _not_carried(self) -> list[str]:
        """Tell what of the load is missing that the figures are to be for."""
        done, minutes = self.load.done, self._at_s() / 60
        wanted = len(self._urls) * REQUESTS_PER_S * self._at_s() * CARRIED_MIN
        wrong = []
        if done["answered"] < wanted:
            wrong.append(f"only {done['answered']} requests were answered")
        if done["switchover done"] < minutes * CARRIED_MIN:
            wrong.append(f"only {done['switchover done']} switchovers were done")
        wrong += [f"{url}: no metrics" for url in self._urls if not self.series[url]]
        return wrong

    async def _scrape(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for url, seen in self.series.items():
                try:
                    text = (await client.get(f"{url}/metrics")).text
                except httpx.HTTPError:
                    continue
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


def main(arguments: Sequence[str]) -> None:
    """Soak; print figures now and then, and exit with 1 if something grows."""
    parser = argparse.ArgumentParser(prog="bench soak-api", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--warm-up", type=float, default=10.0, help="minutes of it")
    parser.add_argument("--keep-logs", type=Path, default=Path("test-results/soak-api"))
    options = parser.parse_args(arguments)
    host = "127.0.0.1"
    port = _free_port(host)
    try:
        with _laboratory(f"http://{host}:{port}/hook", options.keep_logs) as lab:
            token = (lab.directory / "token").read_text().strip()
            soak = Soak(lab, token, options.warm_up * 60)
            asyncio.run(soak.run(options.minutes * 60, _receive(host, port)))
            found = soak.figures()
    except (CannotRun, LabError) as why:
        sys.exit(f"not run: {why}")
    print(json.dumps(found))
    if found["wrong"]:
        sys.exit(1)
