"""Who may ask what: tokens, certificates; and who asked for what: the audit log."""

import hmac
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgbastion.api.bounds import SUBJECT
from pgbastion.api.checks import CHECKS
from pgbastion.api.ports import Tokens
from pgbastion.api.problems import Problem
from pgbastion.observe.logging import get_logger

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What load balancers and service managers ask; it names no secret.
ALWAYS_OPEN: Final = frozenset(CHECKS) | {"/health"}
# The dashboard's files: they are the same everywhere, and say nothing of this cluster.
PAGES: Final = frozenset({"/ui", "/ui/style.css", "/ui/app.js", "/ui/draw.js"})
PATH_SHOWN_MAX: Final = 200
_SCHEME: Final = "bearer"

log = get_logger("audit")


class Access:
    """Lets a request pass, or answers why not.

    Args:
        app: What the request is for.
        tokens: Returns the tokens that count now; they may change at a reload.
    """

    def __init__(self, app: ASGIApp, *, tokens: Callable[[], Tokens]) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tokens = self._tokens()
        problem = _judge(scope, tokens)
        if scope["method"] not in READING:
            send = _audited(scope, tokens, send)
        if problem is None:
            await self._app(scope, receive, send)
            return
        headers = {}
        if problem.status is HTTPStatus.UNAUTHORIZED:
            headers = {"WWW_Authenticate": "Bearer"}
        await problem.response(**headers)(scope, receive, send)


def _judge(scope: Scope, tokens: Tokens) -> Problem | None:
    reading = scope["method"] in READING
    if reading and (tokens.read is None or scope["path"] in ALWAYS_OPEN | PAGES):
        return None
    headers = Headers(scope=scope)
    given = _given(headers)
    # A browser shows a certificate by itself: the page counts for that one too.
    if _equal(given, tokens.write) or _shown(scope) is not None:
        return None if reading or _of_own_page(headers) else _FOREIGN_PAGE
    may_read = tokens.read is not None and _equal(given, tokens.read)
    if may_read and reading:
        return None
    if may_read:
        return Problem(
            status=HTTPStatus.FORBIDDEN,
            code="read_only_token",
            message="this token is for reading only",
            remedy=_line(scope, tokens),
        )
    return Problem(
        status=HTTPStatus.UNAUTHORIZED,
        code="token_wrong" if given else "token_missing",
        message="the token is wrong" if given else "this request needs a token",
        remedy=_line(scope, tokens),
    )


_FOREIGN_PAGE: Final = Problem(
    status=HTTPStatus.FORBIDDEN,
    code="foreign_page",
    message="this request comes from a web page of another origin",
    remedy="use the dashboard of this node, or a program that sends no Origin",
)


def _of_own_page(headers: Headers) -> bool:
    """Tell whether a browser sends this for a page of ours; programs name no page.

    A page of somebody else lacks the token anyway, which no cookie carries. This holds
    also where a person was talked into giving it one.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return urlsplit(origin).netloc == headers.get("host")


def _audited(scope: Scope, tokens: Tokens, send: Send) -> Send:
    """Return a ``send`` that records who had what changed, and what came of it."""
    given = _given(Headers(scope=scope))
    by = "nobody"
    if _equal(given, tokens.write):
        by = "the writing token"
    elif tokens.read is not None and _equal(given, tokens.read):
        by = "the reading token"
    elif _shown(scope) is not None:
        by = f"the certificate {_shown(scope)}"
    client = scope.get("client")

    async def record(message: Message) -> None:
        if message["type"] == "http.response.start":
            log.info(
                "audit",
                client=client[0] if client else "",
                by=by,
                method=scope["method"],
                path=scope["path"][:PATH_SHOWN_MAX],
                status=message["status"],
            )
        await send(message)

    return record


def _shown(scope: Scope) -> str | None:
    """Return whose certificate the client has shown, of the authority for clients."""
    subject: str | None = scope.get("state", {}).get(SUBJECT)
    return subject


def _given(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == _SCHEME else ""


def _equal(given: str, wanted: str) -> bool:
    # In constant time, so that the answer's delay tells nothing of the token.
    return hmac.compare_digest(given.encode(), wanted.encode())


def _line(scope: Scope, tokens: Tokens) -> str:
    host = Headers(scope=scope).get("host") or "NODE:PORT"
    # The client's own words come back to it: only those of a host and a path.
    host = "".join(char for char in host if char.isalnum() or char in ".:-[]")
    path = "".join(c for c in scope["path"] if c.isalnum() or c in "/-_.")
    method = scope["method"] if scope["method"].isalpha() else "GET"
    return (
        f"the token is in {tokens.place}; use: curl -X {method} "
        f'-H "Authorization: Bearer TOKEN" {scope["scheme"]}://{host}{path}'
    )
