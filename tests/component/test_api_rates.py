"""How often one client may ask."""

from http import HTTPStatus
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pgbastion.api.checks import CHECKS
from pgbastion.api.rates import CLIENTS_MAX, Rates

pytestmark = pytest.mark.anyio


class Clock:
    now_s = 100.0


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    wrong = scope["path"] == "/wrong"
    await Response(status_code=401 if wrong else 200)(scope, receive, send)


def rates(rate: float = 5) -> tuple[Rates, Clock]:
    clock = Clock()
    return Rates(_app, per_second=lambda: rate, now_s=lambda: clock.now_s), clock


async def ask(
    app: Rates, times: int, path: str = "/cluster", address: str = "10.0.0.1"
) -> list[httpx.Response]:
    transport: Any = httpx.ASGITransport(app=app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://n1") as client:
        return [await client.get(path) for _ in range(times)]


def passed(answers: list[httpx.Response]) -> int:
    return sum(answer.status_code == HTTPStatus.OK for answer in answers)


async def test_a_client_that_asks_too_often_is_told_when_to_come_back() -> None:
    app, clock = rates()

    answers = await ask(app, 12)
    clock.now_s += 1
    later = await ask(app, 12)

    assert (passed(answers), passed(later)) == (10, 5)
    assert answers[-1].status_code == HTTPStatus.TOO_MANY_REQUESTS
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["error"]["code"] == "too_many_requests"


@pytest.mark.parametrize("path", [*CHECKS, "/health"])
async def test_checks_are_never_refused(path: str) -> None:
    app, _ = rates(rate=1)

    assert passed(await ask(app, 50, path)) == 50


async def test_one_client_does_not_use_up_what_another_has() -> None:
    app, _ = rates()
    await ask(app, 12)

    assert passed(await ask(app, 5, address="10.0.0.2")) == 5


async def test_guessing_a_token_is_slow() -> None:
    app, _ = rates()

    answers = await ask(app, 12, "/wrong")

    assert [a.status_code for a in answers].count(401) == 1


async def test_the_number_of_addresses_that_are_remembered_is_bounded() -> None:
    app, _ = rates()

    for number in range(CLIENTS_MAX + 10):
        await ask(app, 1, address=f"10.1.{number // 250}.{number % 250}")

    assert len(app._buckets) == CLIENTS_MAX


async def test_no_rate_is_no_limit() -> None:
    app, _ = rates(rate=0)

    assert passed(await ask(app, 50)) == 50
