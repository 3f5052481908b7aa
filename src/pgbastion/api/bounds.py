"""What one client may hold of the server: a connection, a time, a size.

uvicorn bounds the size of a request's head and an idle connection, but not how slowly
a head, a body or the reading of an answer may trickle.
"""

import asyncio
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

from uvicorn.protocols.http.h11_impl import H11Protocol

from pgbastion.api.streaming import PATH as STREAM_PATH
from pgbastion.api.tls import subject_of

SUBJECT: Final = "client_certificate"
"""Under it the state of a request has whose certificate the client has shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Every bound of one port."""

    connections_max: int = 512
    head_bytes_max: int = 16 * 1024
    keep_alive_s: int = 5
    """How long a connection may stay without a request."""
    exchange_s: float = 10.0
    """From the beginning of the wait for a request until its answer was taken."""


class BoundedProtocol(H11Protocol):
    """One connection that is ended when an exchange takes too long."""

    def __init__(self, *args: Any, bounds: Bounds, **kwargs: Any) -> None:
        """Take what uvicorn gives, and the bounds."""
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._deadline: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    @property
    def waiting(self) -> bool:
        """Whether no request is being answered here."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in; at the bound one gives way."""
        super().connection_made(transport)
        # uvicorn gives a copy of it to each request.
        self.app_state = {SUBJECT: subject_of(transport.get_extra_info("ssl_object"))}
        self._begin_exchange()
        if len(self.connections) > self._bounds.connections_max:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        # uvicorn's own loop would renew the date ten times a second for nobody.
        date = formatdate(usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date)]
        super().data_received(data)
        if self._follows() and self._deadline is not None:
            # It has bounds of its own: each part has to be taken in time.
            self._deadline.cancel()

    def handle_events(self) -> None:
        """Begin to answer what has arrived, whatever form its target has."""
        super().handle_events()
        if self.scope is not None:
            # "http://NODE/PATH" means the path; RFC 9112, section 3.2.2.
            scheme, found, rest = self.scope["raw_path"].partition(b"://")
            if found and scheme.lower() in (b"http", b"https"):
                path = b"/" + rest.partition(b"/")[2]
                self.scope["raw_path"] = path
                self.scope["path"] = unquote(path.decode("ascii"))

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._begin_exchange()
        super().on_response_complete()

    def _follows(self) -> bool:
        return (
            not self.waiting
            and self.scope is not None
            and (self.scope["path"] == STREAM_PATH)
        )

    def _begin_exchange(self) -> None:
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        # Also after a close, which waits for a client that does not read.
        self._deadline = self.loop.call_later(
            self._bounds.exchange_s, self.transport.abort
        )

    def _make_room(self) -> None:
        """End the connection that has been waiting longest, so that checks get in."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, BoundedProtocol) and each is not self and each.waiting
        ]
        longest = min(waiting, key=lambda each: each._since, default=self)  # noqa: SLF001
        longest.transport.abort()
