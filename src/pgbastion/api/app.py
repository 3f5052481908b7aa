"""The endpoints, as ASGI applications: one for the API, one for metrics alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from pgbastion._build import VERSION
from pgbastion.api import answers
from pgbastion.api.access import Access
from pgbastion.api.bodies import read_body
from pgbastion.api.checks import CHECKS, REPLICATION_STATES, Asked, Check
from pgbastion.api.dashboard import dashboard_files
from pgbastion.api.endpoints import (
    CHANGES,
    READS,
    TEXTS,
    Answer,
    Change,
    carry_out,
)
from pgbastion.api.openapi import body_of, describe
from pgbastion.api.operations import ONE, operation, place_of
from pgbastion.api.ports import (
    Commands,
    Done,
    Outcome,
    Refused,
    TakeSnapshot,
    Tokens,
)
from pgbastion.api.problems import Problem, ProblemError, bad_request
from pgbastion.api.rates import Rates
from pgbastion.api.streaming import PATH, EventStream, Followed
from pgbastion.config.units import parse_size_bytes
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.observe.logging import get_logger

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ASKED: Final = ("lag", "replication_state")
"""What a check can be asked besides."""
KEY_SHOWN_MAX: Final = 40

RenderMetrics = Callable[[NodeSnapshot], bytes]

log = get_logger("api")


def build_api(
    take: TakeSnapshot,
    commands: Commands,
    *,
    tokens: Callable[[], Tokens],
    render_metrics: RenderMetrics,
    requests_per_second: Callable[[], float] = lambda: 0,
    events: Followed | None = None,
) -> Starlette:
    """Return the application of the API port.

    Args:
        take: Returns what the node knows now.
        commands: What clients may change.
        tokens: Returns the tokens that count now.
        render_metrics: Renders a snapshot for Prometheus.
        requests_per_second: Returns how often one address may ask; 0: any number.
        events: What can be followed; None: nothing.
    """
    routes = [
        *(_check(path, check, take) for path, check in CHECKS.items()),
        *(_read(path, answer, take) for path, answer in READS.items()),
        _operation(take),
        *(_changing(p, m, change, commands) for (m, p), change in CHANGES.items()),
        _metrics(take, render_metrics),
        _description(),
        *dashboard_files(),
        *([] if events is None else [_events(events)]),
    ]
    return _application(routes, tokens, requests_per_second)


def build_metrics_api(
    take: TakeSnapshot,
    *,
    tokens: Callable[[], Tokens],
    render_metrics: RenderMetrics,
) -> Starlette:
    """Return the application of the metrics port."""
    return _application([_metrics(take, render_metrics)], tokens, lambda: 0)


def _application(
    routes: list[Route],
    tokens: Callable[[], Tokens],
    requests_per_second: Callable[[], float],
) -> Starlette:
    application = Starlette(
        routes=routes,
        middleware=[
            Middleware(Rates, per_second=requests_per_second, now_s=time.monotonic),
            Middleware(Access, tokens=tokens),
        ],
        exception_handlers={
            ProblemError: _on_problem,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
    )
    # A path has one form: a redirect would answer a check with 307.
    application.router.redirect_slashes = False
    return application


# Reading


def _check(path: str, check: Check, take: TakeSnapshot) -> Route:
    async def answer(request: Request) -> Response:
        _refuse_unknown(request)
        asked = Asked(
            lag_bytes_max=_lag(request), replication_state=_replication_state(request)
        )
        snapshot = take()
        problem = check(snapshot, asked)
        if problem is not None:
            return problem.response()
        return _json(answers.health(snapshot))

    return Route(path, answer, methods=["GET", "OPTIONS"])


def _read(path: str, answer: Answer, take: TakeSnapshot) -> Route:
    text = TEXTS.get(path)

    async def render(request: Request) -> Response:
        accepted = request.headers.get("accept", "")
        if text is not None and accepted.startswith("text/plain"):
            return PlainTextResponse(
                text(take()), headers={"Cache-Control": "no-store"}
            )
        found = answer(take())
        if isinstance(found, Generator):
            return StreamingResponse(
                _list_of(found),
                media_type="application/json",
                headers={"Cache-Control": "no-store"},
            )
        return _json(found)

    return Route(path, render, methods=["GET", "OPTIONS"])


def _operation(take: TakeSnapshot) -> Route:
    async def answer(request: Request) -> Response:
        return _json(operation(take(), request.path_params["id"]))

    return Route(ONE, answer, methods=["GET", "OPTIONS"])


def _metrics(take: TakeSnapshot, render_metrics: RenderMetrics) -> Route:
    async def answer(request: Request) -> Response:
        del request
        headers = {"Content-Type": METRICS_TYPE, "Cache-Control": "no-store"}
        return Response(render_metrics(take()), headers=headers)

    return Route("/metrics", answer, methods=["GET", "OPTIONS"])


def _events(events: Followed) -> Route:
    return Route(PATH, EventStream(events), methods=["GET", "OPTIONS"])


def _description() -> Route:
    # It never changes, and takes a tenth of a second to make: once, when it is wanted.
    made: list[bytes] = []

    async def answer(request: Request) -> Response:
        del request
        if not made:
            made.append(bytes(_json(describe(VERSION)).body))
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return Response(made[0], headers=headers)

    return Route("/openapi.json", answer, methods=["GET", "OPTIONS"])


def _refuse_unknown(request: Request) -> None:
    # A word that is misspelt must not pass for no condition.
    unknown = [key for key in request.query_params if key not in ASKED]
    if unknown:
        raise bad_request(
            f"{unknown[0][:KEY_SHOWN_MAX]}: unknown", f"there are {' and '.join(ASKED)}"
        )


def _replication_state(request: Request) -> str | None:
    wanted = request.query_params.get("replication_state")
    if wanted is not None and wanted not in REPLICATION_STATES:
        states = " or ".join(REPLICATION_STATES)
        raise bad_request("replication_state: unknown", f"write {states}")
    return wanted


def _lag(request: Request) -> int | None:
    text = request.query_params.get("lag")
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        # Patroni takes a bare number as bytes.
        text += "B"
    try:
        return parse_size_bytes(text)
    except ValueError as exc:
        raise bad_request(f"lag: {exc}", "write for instance ?lag=1MB") from exc


def _json(content: Mapping[str, Any] | Sequence[Any]) -> JSONResponse:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


async def _list_of(elements: Generator[Any, None, None]) -> AsyncIterator[str]:
    """Yield a list in JSON; the loop's other work has its turn between elements."""
    before = "["
    for element in elements:
        yield before + json.dumps(element, ensure_ascii=False, separators=(",", ":"))
        before = ","
        await asyncio.sleep(0)
    yield "]" if before == "," else "[]"


# Changing


def _changing(path: str, method: str, change: Change, commands: Commands) -> Route:
    model = body_of(change)

    async def handle(request: Request) -> Response:
        body = await read_body(request, model)
        return _outcome(await carry_out(change, commands, body))

    return Route(path, handle, methods=[method])


def _outcome(outcome: Outcome) -> Response:
    if isinstance(outcome, Done) and outcome.follow:
        place = place_of(outcome.follow)
        response = _json({"ok": True, **outcome.facts, "operation": place})
        response.status_code = HTTPStatus.ACCEPTED
        response.headers["Location"] = place
        return response
    if isinstance(outcome, Done):
        return _json({"ok": True, **outcome.facts})
    if isinstance(outcome, Refused):
        status, code = HTTPStatus.CONFLICT, outcome.code
    else:
        status, code = HTTPStatus.GATEWAY_TIMEOUT, "outcome_unknown"
    return Problem(
        status=status, code=code, message=outcome.message, remedy=outcome.remedy
    ).response()


# What went wrong


async def _on_problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ProblemError), "registered for it alone"
    del request
    # What is left of a refused body is not read: the connection ends.
    return exc.problem.response(Connection="close")


async def _on_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException), "registered for it alone"
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return Problem(
            status=HTTPStatus.NOT_FOUND,
            code="not_found",
            message="there is no such endpoint",
            remedy=f"there are: {', '.join(_paths(request))}",
        ).response()
    allowed = dict(exc.headers or {}).get("Allow", "")
    return Problem(
        status=HTTPStatus(exc.status_code),
        code="method_not_allowed",
        message=f"this endpoint does not take {request.method}",
        remedy=f"it takes {allowed}",
    ).response(Allow=allowed)


async def _on_bug(request: Request, exc: Exception) -> Response:
    if isinstance(exc, ClientDisconnect):
        return Response(status_code=HTTPStatus.BAD_REQUEST)
    log.error(
        "request_failed",
        path=request.url.path,
        error=f"{type(exc).__name__}: {exc}",
    )
    return Problem(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal_error",
        message="the request failed because of a bug of pgbastion",
        remedy='the log has it under "request_failed"',
    ).response()


def _paths(request: Request) -> list[str]:
    return sorted({r.path for r in request.app.routes if isinstance(r, Route)})
