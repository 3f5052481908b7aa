"""``GET /events``: server-sent events, to follow what happens.

Source: WHATWG HTML, "Server-sent events".
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pgbastion.api.problems import Problem, bad_request

STREAMS_MAX: Final = 32
"""So many may follow one node at once."""
BEAT_S: Final = 10.0
"""A comment is sent this often, so that both ends notice a dead connection."""
SEND_S: Final = 10.0
"""Who takes nothing for so long loses the connection."""
PATH: Final = "/events"


class Entry(Protocol):
    """An event, as far as it is sent."""

    @property
    def seq(self) -> int:
        """Its place in the list."""

    def as_json(self) -> Mapping[str, object]:
        """Return it as clients get it."""


class Followed(Protocol):
    """The list of events."""

    @property
    def closed(self) -> bool:
        """Whether the node stops."""

    @property
    def newest(self) -> int:
        """The number of the newest event."""

    def after(self, seq: int) -> tuple[Sequence[Entry], bool]:
        """Return what came after, and whether some of it is gone."""

    async def wait(self, seq: int, timeout_s: float) -> None:
        """Wait until there is more."""


class EventStream:
    """Serves the list to whoever follows it."""

    def __init__(self, events: Followed) -> None:
        self._events = events
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one follower until it goes, or the node stops."""
        request = Request(scope, receive)
        answer = self._refusal(request)
        if answer is not None:
            await answer(scope, receive, send)
            return
        seq = self._from(request)
        self._open += 1
        gone = asyncio.create_task(_gone(receive))
        try:
            await _send(send, _head())
            if scope["method"] == "GET":
                await self._follow(seq, send, gone)
            await _send(send, {"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            return
        finally:
            self._open -= 1
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    def _refusal(self, request: Request) -> ASGIApp | None:
        del request
        if self._open < STREAMS_MAX:
            return None
        return Problem(
            status=HTTPStatus.SERVICE_UNAVAILABLE,
            code="too_many_followers",
            message=f"{STREAMS_MAX} clients follow this node already",
            remedy="follow another node",
        ).response(Retry_After="10")

    def _from(self, request: Request) -> int:
        text = request.headers.get("last-event-id") or request.query_params.get("after")
        if text is None:
            return self._events.newest
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise bad_request("the id is not a number", "send the id of the last event")
        return int(text)

    async def _follow(self, seq: int, send: Send, gone: "asyncio.Task[None]") -> None:
        while not (gone.done() or self._events.closed):
            events, some_lost = self._events.after(seq)
            if some_lost:
                await _send(send, _part(b"event: lost\ndata: {}\n\n"))
            for event in events:
                await _send(send, _part(_line(event)))
            seq = self._events.newest
            more = asyncio.create_task(self._events.wait(seq, BEAT_S))
            await asyncio.wait({more, gone}, return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await more
            if self._events.newest == seq and not gone.done():
                await _send(send, _part(b": alive\n\n"))


def _line(event: Entry) -> bytes:
    content = event.as_json()
    text = json.dumps(content, separators=(",", ":"))
    return f"id: {event.seq}\nevent: {content['kind']}\ndata: {text}\n\n".encode()


def _head() -> dict[str, Any]:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _send(send: Send, message: dict[str, Any]) -> None:
    async with asyncio.timeout(SEND_S):
        await send(message)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
