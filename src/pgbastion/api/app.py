"""The endpoints, as ASGI applications: one for the API, one for metrics alone."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pgbastion.api import answers, patroni
from pgbastion.api.access import Access
from pgbastion.api.checks import CHECKS, Asked, Check
from pgbastion.api.ports import (
    Commands,
    Done,
    Outcome,
    Refused,
    TakeSnapshot,
    Tokens,
)
from pgbastion.api.problems import Problem, ProblemError, bad_request
from pgbastion.config.types import NODE_NAME, parse_peer
from pgbastion.config.units import parse_duration_ms, parse_size_bytes
from pgbastion.model.ids import NodeId
from pgbastion.model.snapshot import NodeSnapshot
from pgbastion.observe.logging import get_logger

BODY_BYTES_MAX: Final = 64 * 1024
BODY_S: Final = 5.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

RenderMetrics = Callable[[NodeSnapshot], bytes]
Handler = Callable[[Request], Awaitable[Response]]
Answer = Callable[[NodeSnapshot], Mapping[str, Any] | Sequence[Any]]

READS: Final[Mapping[str, Answer]] = {
    "/health": answers.health,
    "/cluster": answers.cluster,
    "/cluster/state": answers.cluster_state,
    "/cluster/replication": answers.replication,
    "/raft/state": answers.raft_state,
    "/raft/peers": answers.raft_peers,
    "/raft/directives": answers.directives,
    "/connections": answers.connections,
    "/patroni": patroni.patroni,
    "/history": patroni.history,
}

log = get_logger("api")


def build_api(
    take: TakeSnapshot,
    commands: Commands,
    *,
    tokens: Callable[[], Tokens],
    render_metrics: RenderMetrics,
) -> Starlette:
    """Return the application of the API port."""
    routes = [
        *(_check(path, check, take) for path, check in CHECKS.items()),
        *(_read(path, answer, take) for path, answer in READS.items()),
        _metrics(take, render_metrics),
        Route("/raft/add-peer", _add_peer(commands), methods=["POST"]),
        Route("/reload", _reload(commands), methods=["POST"]),
        Route("/cluster/switchover", _switch_over(commands), methods=["POST"]),
        Route("/cluster/failover", _fail_over(commands), methods=["POST"]),
        Route("/cluster/pause", _pause(commands, paused=True), methods=["POST"]),
        Route("/cluster/resume", _pause(commands, paused=False), methods=["POST"]),
    ]
    return _application(routes, tokens)


def build_metrics_api(
    take: TakeSnapshot,
    *,
    tokens: Callable[[], Tokens],
    render_metrics: RenderMetrics,
) -> Starlette:
    """Return the application of the metrics port."""
    return _application([_metrics(take, render_metrics)], tokens)


def _application(routes: list[Route], tokens: Callable[[], Tokens]) -> Starlette:
    application = Starlette(
        routes=routes,
        middleware=[Middleware(Access, tokens=tokens)],
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
        asked = Asked(lag_bytes_max=_lag(request))
        snapshot = take()
        problem = check(snapshot, asked)
        if problem is not None:
            return problem.response()
        return _json(answers.health(snapshot))

    return Route(path, answer, methods=["GET", "OPTIONS"])


def _read(path: str, answer: Answer, take: TakeSnapshot) -> Route:
    async def render(request: Request) -> Response:
        del request
        return _json(answer(take()))

    return Route(path, render, methods=["GET", "OPTIONS"])


def _metrics(take: TakeSnapshot, render_metrics: RenderMetrics) -> Route:
    async def answer(request: Request) -> Response:
        del request
        headers = {"Content-Type": METRICS_TYPE, "Cache-Control": "no-store"}
        return Response(render_metrics(take()), headers=headers)

    return Route("/metrics", answer, methods=["GET", "OPTIONS"])


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


# Changing


def _add_peer(commands: Commands) -> Handler:
    usage = 'send {"id": "node2", "address": "10.0.1.2:8300"}'

    async def handle(request: Request) -> Response:
        body = await _body(request)
        name, address = body.get("id", body.get("name")), body.get("address")
        if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
            raise bad_request("id is missing or no name of a node", usage)
        if not isinstance(address, str):
            raise bad_request("address is missing or no text", usage)
        try:
            host, port = parse_peer(address)
        except ValueError as exc:
            raise bad_request(f"address: {exc}", usage) from exc
        return _outcome(await commands.add_peer(NodeId(name), host, port))

    return handle


def _reload(commands: Commands) -> Handler:
    async def handle(request: Request) -> Response:
        await _body(request)
        return _outcome(await commands.reload())

    return handle


def _pause(commands: Commands, *, paused: bool) -> Handler:
    async def handle(request: Request) -> Response:
        await _body(request)
        return _outcome(await commands.set_pause(paused=paused))

    return handle


def _switch_over(commands: Commands) -> Handler:
    usage = 'send {"to": "node2"}, or {} for the best; "drain": "30s" if you like'

    async def handle(request: Request) -> Response:
        body = await _body(request)
        to = _node_or_none(body, usage)
        return _outcome(await commands.switch_over(to, _drain(body, usage)))

    return handle


def _fail_over(commands: Commands) -> Handler:
    usage = 'send {"to": "node2"}; "force": true where a loss is accepted'

    async def handle(request: Request) -> Response:
        body = await _body(request)
        to, force = _node_or_none(body, usage), body.get("force", False)
        if to is None:
            raise bad_request("to is missing", usage)
        if not isinstance(force, bool):
            raise bad_request("force is neither true nor false", usage)
        return _outcome(await commands.fail_over(to, force=force))

    return handle


def _node_or_none(body: Mapping[str, Any], usage: str) -> NodeId | None:
    # Patroni's tools say "candidate".
    name = body.get("to", body.get("candidate"))
    if name is None:
        return None
    if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
        raise bad_request("to is no name of a node", usage)
    return NodeId(name)


def _drain(body: Mapping[str, Any], usage: str) -> int | None:
    text = body.get("drain")
    if text is None:
        return None
    if not isinstance(text, str):
        raise bad_request("drain is no duration", usage)
    try:
        return parse_duration_ms(text)
    except ValueError as exc:
        raise bad_request(f"drain: {exc}", usage) from exc


def _outcome(outcome: Outcome) -> Response:
    if isinstance(outcome, Done):
        return _json({"ok": True, **outcome.facts})
    if isinstance(outcome, Refused):
        status, code = HTTPStatus.CONFLICT, outcome.code
    else:
        status, code = HTTPStatus.GATEWAY_TIMEOUT, "outcome_unknown"
    return Problem(
        status=status, code=code, message=outcome.message, remedy=outcome.remedy
    ).response()


async def _body(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object under any content type; {} for an empty one."""
    raw = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError as exc:
        raise _too_slow() from exc
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise bad_request("the body is no JSON", "send one JSON object") from exc
    if not isinstance(body, dict):
        raise bad_request("the body is no JSON object", "send one JSON object")
    return body


def _too_large() -> ProblemError:
    return ProblemError(
        Problem(
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="body_too_large",
            message="the body is too large",
            remedy=f"send at most {BODY_BYTES_MAX} bytes",
        )
    )


def _too_slow() -> ProblemError:
    return ProblemError(
        Problem(
            status=HTTPStatus.REQUEST_TIMEOUT,
            code="body_too_slow",
            message="the body did not arrive in time",
            remedy=f"send it within {BODY_S:g} s",
        )
    )


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
    return sorted(r.path for r in request.app.routes if isinstance(r, Route))
