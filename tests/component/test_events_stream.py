"""``GET /events`` on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from pgbastion.api import streaming
from pgbastion.api.app import build_api
from pgbastion.api.bounds import Bounds
from pgbastion.api.ports import Tokens
from pgbastion.api.server import ApiServer
from pgbastion.observe.events import EventKind, Events, Happening
from pgbastion.observe.metrics import Metrics
from support.api_server import HOST, WRITE, FakeCommands
from support.snapshots import primary_snapshot

pytestmark = pytest.mark.anyio
SOON_S = 5.0


class Served:
    def __init__(self) -> None:
        self.events = Events("n1", now=lambda: "now", first=1)
        self.server = ApiServer(
            build_api(
                primary_snapshot,
                FakeCommands(),
                tokens=lambda: Tokens(write=WRITE),
                render_metrics=Metrics().render,
                events=self.events,
            ),
            host=HOST,
            port=0,
            bounds=Bounds(exchange_s=0.3),
        )
        self.url = ""

    def happens(self, what: str) -> None:
        self.events.note([Happening(kind=EventKind.PAUSE, what=what)])


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    await made.server.start()
    made.url = f"http://{HOST}:{made.server.port}/events"
    try:
        yield made
    finally:
        made.events.close()
        await made.server.stop()


async def begin(served: Served, number: int) -> "asyncio.Task[list[dict[str, object]]]":
    """Follow from now on; return when the stream has begun."""
    begun = asyncio.Event()
    task = asyncio.create_task(follow(served, number, begun=begun))
    await asyncio.wait_for(begun.wait(), SOON_S)
    return task


async def follow(
    served: Served,
    number: int,
    *,
    last: str | None = None,
    begun: asyncio.Event | None = None,
) -> list[dict[str, object]]:
    """Return the first ``number`` events that a follower gets."""
    headers = {} if last is None else {"Last-Event-ID": last}
    found: list[dict[str, object]] = []
    async with (
        asyncio.timeout(SOON_S),
        httpx.AsyncClient(trust_env=False) as client,
        client.stream("GET", served.url, headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        if begun is not None:
            begun.set()
        async for line in answer.aiter_lines():
            if line.startswith("event: lost"):
                found.append({"what": "lost"})
            elif line.startswith("data: {") and line != "data: {}":
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == number:
                break
    return found


def whats(found: list[dict[str, object]]) -> list[object]:
    return [event["what"] for event in found]


async def test_a_follower_gets_what_happens_from_now_on(served: Served) -> None:
    served.happens("before")
    following = await begin(served, 2)

    served.happens("paused")
    served.happens("resumed")

    found = await following
    assert whats(found) == ["paused", "resumed"]
    assert found[0] == {
        "id": "n1-2",
        "seq": 2,
        "kind": "pause",
        "what": "paused",
        "node": "n1",
        "at": "now",
        "data": {},
    }


async def test_a_follower_that_comes_back_misses_nothing(served: Served) -> None:
    for number in range(4):
        served.happens(str(number))

    assert whats(await follow(served, 2, last="2")) == ["2", "3"]


async def test_a_follower_of_another_node_is_told_that_it_may_have_missed_some(
    served: Served,
) -> None:
    served.happens("first")

    assert whats(await follow(served, 2, last="99999")) == ["lost", "first"]


async def test_a_stream_outlives_the_bound_of_an_exchange(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BEAT_S", 0.1)
    following = await begin(served, 1)
    await asyncio.sleep(1.0)

    served.happens("late")

    assert whats(await following) == ["late"]


@pytest.mark.parametrize("last", ["x", "-1", "1" * 30, "1.5"])
async def test_an_id_that_is_none_is_refused(served: Served, last: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(served.url, headers={"Last-Event-ID": last})

    assert answer.status_code == 400


async def test_the_number_of_followers_is_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STREAMS_MAX", 1)
    first = await begin(served, 1)

    async with httpx.AsyncClient(trust_env=False) as client:
        second = await client.get(served.url)
    served.happens("end")
    await first

    assert second.status_code == 503
    assert second.json()["error"]["code"] == "too_many_followers"


async def test_followers_are_let_go_when_the_node_stops(served: Served) -> None:
    following = await begin(served, 1)

    served.events.close()

    assert await following == []
