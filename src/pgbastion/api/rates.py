"""How often one client may ask: a bucket of tokens for each address.

Checks and ``/health`` are never refused: a load balancer that asks often must not take
a primary for dead.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from pgbastion.api.access import ALWAYS_OPEN
from pgbastion.api.problems import Problem

CLIENTS_MAX: Final = 1_024
"""Addresses that are remembered; the one that has been silent longest is forgotten."""
BURST_S: Final = 2.0
"""A client that was silent may ask at once for as much as in so many seconds."""
GUESS_COST: Final = 10.0
"""What a wrong token costs, in requests."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at_s: float


class Rates:
    """Lets a request pass, or answers that it comes too soon.

    Args:
        app: What the request is for.
        per_second: Returns how many requests one address may make a second; 0: any.
        now_s: The clock, in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        per_second: Callable[[], float],
        now_s: Callable[[], float],
    ) -> None:
        self._app = app
        self._per_second = per_second
        self._now_s = now_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        rate = self._per_second()
        if scope["type"] != "http" or scope["path"] in ALWAYS_OPEN or rate <= 0:
            await self._app(scope, receive, send)
            return
        bucket = self._bucket(scope, rate)
        if bucket.left < 1:
            wait_s = (1 - bucket.left) / rate
            await _too_often(rate).response(Retry_After=str(int(wait_s) + 1))(
                scope, receive, send
            )
            return
        bucket.left -= 1

        async def note(message: Any) -> None:
            if message.get("status") == HTTPStatus.UNAUTHORIZED:
                bucket.left -= GUESS_COST - 1
            await send(message)

        await self._app(scope, receive, note)

    def _bucket(self, scope: Scope, rate: float) -> _Bucket:
        client = scope.get("client")
        address = client[0] if client else ""
        now_s, most = self._now_s(), rate * BURST_S
        bucket = self._buckets.pop(address, None) or _Bucket(left=most, at_s=now_s)
        bucket.left = min(most, bucket.left + (now_s - bucket.at_s) * rate)
        bucket.at_s = now_s
        self._buckets[address] = bucket
        while len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        return bucket


def _too_often(rate: float) -> Problem:
    return Problem(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="too_many_requests",
        message=f"this address asks more often than {rate:g} times a second",
        remedy="ask less often, follow /events, or raise api.requests_per_second",
    )
