"""Asks the REST API of a node, or of the next one where that does not answer.

It stands on the standard library: a command that shows a state has a third of a second
for everything.
"""

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from pgbastion.cli.problems import (
    CommandError,
    RefusedError,
    UnfinishedError,
    UnreachableError,
)

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
ORDER_S: Final = 15.0
ANSWER_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which nodes to ask, the likeliest first, and how to prove who asks."""

    urls: Sequence[str]
    token: str | None = field(default=None, repr=False)
    trust: ssl.SSLContext | None = field(default=None, repr=False)
    """With what nodes are verified; None: with the certificates of this machine."""

    @property
    def url(self) -> str:
        """The node that is asked first."""
        return self.urls[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a node answered."""

    url: str
    status: int
    body: Any
    """The JSON value; for another kind of answer its text."""

    @property
    def ok(self) -> bool:
        """Whether it is an answer to the question."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class _NeverSentError(Exception):
    """The node was not reached: whatever was asked has surely not happened."""


class Client:
    """Asks one cluster; whoever answered last is asked first the next time."""

    def __init__(self, target: Target) -> None:
        token = target.token
        if token is not None and not (token.isascii() and token.isprintable()):
            raise CommandError("the token has characters that no request can carry")
        self._token = token
        self._trust = target.trust
        self._urls = list(dict.fromkeys(url.rstrip("/") for url in target.urls))

    @property
    def url(self) -> str:
        """The node that is asked first: after an answer, whoever gave it."""
        return self._urls[0]

    def get(self, path: str) -> dict[str, Any]:
        """Return what a node knows, by name.

        Raises:
            UnreachableError: No node answers, or somebody else does in its place.
            RefusedError: The one that does refuses to.
        """
        found = self.fetch(path)
        if not isinstance(found, dict):
            raise UnreachableError(f"{self.url} does not answer as pgbastion does")
        return found

    def fetch(self, path: str) -> Any:
        """Return what a node answers, of whatever kind.

        Raises:
            UnreachableError: No node answers.
            RefusedError: The one that does refuses to.
        """
        return _value_of(self.ask("GET", path))

    def order(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        method: str = "POST",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Have something changed, and return what the node says of it.

        A dry run changes nothing: the node says what it would do.

        Raises:
            UnreachableError: No node answers.
            RefusedError: It was not done.
            UnfinishedError: Nobody can tell whether it was.
        """
        asked = {**body, "dry_run": True} if dry_run else body
        found = _value_of(self.ask(method, path, asked))
        if not isinstance(found, dict):
            raise CommandError(f"{self.url} does not answer as pgbastion does")
        return found

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Reply:
        """Return the answer of the first node that gives one, whatever it is.

        A question goes to the next node when one does not answer. What changes
        something does so only while it has surely reached nobody.

        Raises:
            UnreachableError: No node answers.
            UnfinishedError: A node may have been reached, and did not answer.
        """
        reading = method in ("GET", "HEAD")
        tried = []
        for url in tuple(self._urls):
            try:
                reply = self._ask_one(url, method, path, body)
            except _NeverSentError as exc:
                tried.append(f"{url}: {exc}")
            except (OSError, http.client.HTTPException, ValueError) as exc:
                if not reading:
                    raise UnfinishedError(
                        f"{url} did not answer, it may have done it all the same "
                        f"({_words(exc)}); look with pgbastion status"
                    ) from exc
                tried.append(f"{url}: {_words(exc)}")
            else:
                self._urls.remove(url)
                self._urls.insert(0, url)
                return reply
        raise UnreachableError(
            "no node answers: " + "; ".join(tried)
            if len(tried) > 1
            else f"{tried[0].partition(': ')[0]} does not answer: "
            f"{tried[0].partition(': ')[2]}"
        )

    def _ask_one(
        self, url: str, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Reply:
        parts = urlsplit(url)
        connection = self._connection(parts)
        try:
            try:
                connection.connect()
            except (OSError, http.client.HTTPException, ValueError) as exc:
                raise _NeverSentError(_words(exc)) from exc
            if connection.sock is not None:
                connection.sock.settimeout(READ_S if body is None else ORDER_S)
            content = None if body is None else json.dumps(dict(body))
            connection.request(
                method, parts.path + path, body=content, headers=self._headers()
            )
            answer = connection.getresponse()
            raw = answer.read(ANSWER_BYTES_MAX)
        finally:
            connection.close()
        text = raw.decode(errors="replace")
        is_json = answer.headers.get_content_type() == "application/json"
        body_told = _parse(text) if is_json else text
        return Reply(url=url, status=answer.status, body=body_told)

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        try:
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise _NeverSentError(str(exc)) from exc
        if not host or parts.scheme not in ("http", "https"):
            raise _NeverSentError("this is not the address of an API: http://HOST:PORT")
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
        trust = self._trust or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=trust)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as exc:
        raise ValueError("its answer is nested too deeply") from exc


def _value_of(reply: Reply) -> Any:
    if reply.ok:
        return reply.body
    found = reply.body.get("error") if isinstance(reply.body, dict) else None
    error = found if isinstance(found, dict) else {}
    message = str(error.get("message", f"{reply.url} answers {reply.status}"))
    remedy = error.get("remedy")
    text = f"{message}; {remedy}" if remedy else message
    if error.get("code") == "outcome_unknown":
        raise UnfinishedError(text)
    raise RefusedError(text)


def _words(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
