"""The load of `soak-api`: questions, followers, events and changes of the primary.

Fifty times what a busy cluster has: a balancer and a scraper that ask a node once a
second, an event a minute, a change of the primary every quarter of an hour.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import httpx

from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import READS
from pgbastion.bench._steady import Steady
from pgbastion.observe.events import KEPT_MAX

REQUESTS_PER_S: Final = 50.0
EVENT_EVERY_S: Final = 1.2
# At first faster, until every node keeps as many events as it ever will.
FILL_EVERY_S: Final = 0.1
FILL: Final = KEPT_MAX
SWITCH_EVERY_S: Final = 18.0
SWITCHED_S: Final = 30.0
FOLLOW_S: Final = 5.0
ROUND_S: Final = 10.0
REPLAY_EVERY: Final = 24
ANSWER_S: Final = 10.0
# Every endpoint that is read, those that give files or text, and what is refused.
PATHS: Final = (
    *CHECKS,
    *READS,
    "/replica?lag=1MB",
    "/metrics",
    "/openapi.json",
    "/ui",
    "/operations/none",
    "/nothing",
)
_SETTINGS: Final = ("4MB", "5MB")


class Load:
    """Asks all nodes until it is cancelled.

    Args:
        urls: The nodes' APIs.
        token: The writing token.
    """

    def __init__(self, urls: Sequence[str], token: str) -> None:
        self._urls = list(urls)
        self._headers = {"Authorization": f"Bearer {token}"}
        self.done: Counter[str] = Counter()
        """What was done how often, by kind."""

    async def run(self) -> None:
        """Ask for ever."""
        async with (
            httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for url in self._urls:
                group.create_task(self._ask(url))
                group.create_task(self._follow(url))
                group.create_task(self._guess(client, url))
            group.create_task(self._change(client))

    async def _ask(self, url: str) -> None:
        steady = Steady(url)
        while True:
            try:
                took = await steady.measure(PATHS, REQUESTS_PER_S, ROUND_S)
            except OSError:
                self.done["unreached"] += 1
                await asyncio.sleep(ROUND_S)
                continue
            for each in took.values():
                self.done["unanswered"] += each.unanswered
                self.done["answered"] += len(each.ms) - each.unanswered

    async def _guess(self, client: httpx.AsyncClient, url: str) -> None:
        """Be refused, again and again."""
        wrong = {"Authorization": "Bearer wrong"}
        while True:
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.post(url + "/reload", headers=wrong)
                self.done[f"a wrong token {answer.status_code}"] += 1
            await asyncio.sleep(FOLLOW_S)

    async def _follow(self, url: str) -> None:
        """Follow what happens for a while, leave without a word, and come back."""
        for number in itertools.count():
            # Now and then all that is kept is asked for again.
            since = "" if number % REPLAY_EVERY else "?after=0"
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                async with (
                    httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client,
                    asyncio.timeout(FOLLOW_S),
                    client.stream("GET", f"{url}/events{since}") as stream,
                ):
                    async for line in stream.aiter_lines():
                        self.done["heard"] += line.startswith("data:")
            self.done["followed"] += 1
            await asyncio.sleep(0)

    async def _change(self, client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        switched_s = loop.time()
        for number in itertools.count():
            await asyncio.sleep(FILL_EVERY_S if number < FILL else EVENT_EVERY_S)
            # A node that is taken out of service is brought back by the same round.
            url = self._urls[number // len(_CHANGES) % len(self._urls)]
            if loop.time() - switched_s > SWITCH_EVERY_S:
                await self._switch(client, url)
                switched_s = loop.time()
                continue
            change = _CHANGES[number % len(_CHANGES)]
            await self._order(client, url, *change)

    async def _switch(self, client: httpx.AsyncClient, url: str) -> None:
        given = await self._order(client, url, "POST", "/cluster/switchover", {})
        place = (given or {}).get("operation")
        if place is None:
            return
        with contextlib.suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(SWITCHED_S):
                while True:
                    told = (await client.get(url + place)).json()
                    if told.get("outcome"):
                        self.done[f"switchover {told['outcome']}"] += 1
                        return
                    await asyncio.sleep(0.2)

    async def _order(
        self,
        client: httpx.AsyncClient,
        url: str,
        method: str,
        path: str,
        body: dict[str, Any],
    ) -> dict[str, Any] | None:
        try:
            answer = await client.request(
                method, url + path, json=body, headers=self._headers
            )
        except httpx.HTTPError:
            self.done["order unanswered"] += 1
            return None
        self.done[f"{method} {path} {answer.status_code}"] += 1
        return dict(answer.json()) if answer.is_success else None


# Each makes an event, or two, on every node.
_CHANGES: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("POST", "/cluster/pause", {}),
    ("POST", "/cluster/resume", {}),
    ("PATCH", "/config", {"parameters": {"work_mem": _SETTINGS[0]}}),
    ("POST", "/reload", {}),
    ("POST", "/cluster/pause", {}),
    ("POST", "/cluster/resume", {}),
    ("PATCH", "/config", {"parameters": {"work_mem": _SETTINGS[1]}}),
    ("POST", "/connections/drain", {"timeout": "1s"}),
    ("POST", "/connections/undrain", {}),
)
