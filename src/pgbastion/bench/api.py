"""How long checks take to be answered at a steady rate, of a node that runs.

The questions are spread evenly over time and each is timed from the instant at which
it was due, so that a pause of the node counts for every question that it delayed.
"""

import asyncio
import json
import statistics
import sys
import time
from typing import Final

import httpx

PATHS: Final = ("/primary", "/health")
RATE: Final = 200.0
FOR_S: Final = 20.0
ANSWER_S: Final = 5.0
CLIENTS: Final = 16


async def measure(url: str, rate: float, for_s: float) -> dict[str, list[float]]:
    """Return the milliseconds that each answer took, by path."""
    took: dict[str, list[float]] = {path: [] for path in PATHS}
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with (
        httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=ANSWER_S, limits=limits
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        begun = time.monotonic()
        for number in range(int(rate * for_s)):
            due = begun + number / rate
            await asyncio.sleep(max(due - time.monotonic(), 0))
            path = PATHS[number % len(PATHS)]
            group.create_task(_ask(client, path, due, took[path]))
    return took


async def _ask(
    client: httpx.AsyncClient, path: str, due: float, took: list[float]
) -> None:
    await client.get(path)
    took.append((time.monotonic() - due) * 1_000)


def figures(took: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the worst, in milliseconds."""
    cuts = statistics.quantiles(took, n=100)
    return {
        "requests": len(took),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(max(took), 2),
    }


def main(arguments: list[str]) -> None:
    """Measure the node at the given address; print a line of JSON for each path."""
    if len(arguments) not in (1, 2, 3):
        sys.exit("usage: python -m pgbastion.bench api URL [RATE] [SECONDS]")
    url = arguments[0]
    rate = float(arguments[1]) if len(arguments) > 1 else RATE
    for_s = float(arguments[2]) if len(arguments) > 2 else FOR_S
    try:
        took = asyncio.run(measure(url, rate, for_s))
    except* httpx.HTTPError as failures:
        sys.exit(f"{url} does not answer: {failures.exceptions[0]!r}")
    for path, all_of_it in took.items():
        print(json.dumps({"path": path, "rate": rate, **figures(all_of_it)}))
