"""Serves an application on one port, in the daemon's own event loop."""

import contextlib
import ipaddress
import socket
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from pgbastion.api.bounds import HEAD_BYTES_MAX, KEEP_ALIVE_S, BoundedProtocol
from pgbastion.errors import ApiError
from pgbastion.model.cluster import join_host_port

BACKLOG: Final = 256
# What a request that is being answered may still take when the server stops.
GRACE_S: Final = 1


class ApiServer:
    """One listening port.

    Args:
        app: What is served.
        host: The address to listen on.
        port: The port; 0 lets the system choose.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                # Its only messages are of clients' nonsense and of what we log better.
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                h11_max_incomplete_event_size=HEAD_BYTES_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                backlog=BACKLOG,
            )
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._socket is None:
            return self._port
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen and serve, until `stop`.

        uvicorn's own main loop is left out: it would take the daemon's signals, and
        wake up ten times a second.

        Raises:
            ApiError: The address cannot be listened on.
        """
        self._socket = self._listen()
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._socket])

    async def stop(self) -> None:
        """Accept nobody any more, and let answers that are on their way go out."""
        if self._socket is None:
            return
        await self._server.shutdown(sockets=[self._socket])
        self._socket = None

    def _listen(self) -> socket.socket:
        address = ipaddress.ip_address(self._host)
        both = address.version == 6 and address.is_unspecified
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with contextlib.ExitStack() as undo:
            try:
                listener = socket.create_server(
                    (str(address), self._port),
                    family=family,
                    backlog=BACKLOG,
                    dualstack_ipv6=both and socket.has_dualstack_ipv6(),
                )
            except OSError as exc:
                where = join_host_port(self._host, self._port)
                raise ApiError(f"cannot listen on {where}") from exc
            undo.callback(listener.close)
            listener.setblocking(False)
            undo.pop_all()
        return listener
