"""Serves an application on one port, in the daemon's own event loop."""

import asyncio
import contextlib
import ipaddress
import socket
from functools import partial
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from pgbastion.api.bounds import BoundedProtocol, Bounds
from pgbastion.api.tls import ApiTls
from pgbastion.errors import ApiError
from pgbastion.model.cluster import join_host_port

BACKLOG: Final = 256
# What a request that is being answered may still take when the server stops.
GRACE_S: Final = 1.0


class ApiServer:
    """One listening port.

    Args:
        app: What is served.
        host: The address to listen on.
        port: The port; 0 lets the system choose.
        bounds: What clients may hold.
        tls: What is shown to clients; None: they speak in the clear.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        bounds: Bounds | None = None,
        tls: ApiTls | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._bounds = bounds or Bounds()
        self._tls = tls
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
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
                h11_max_incomplete_event_size=self._bounds.head_bytes_max,
                timeout_keep_alive=self._bounds.keep_alive_s,
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
        wake up ten times a second, as its end does. So is its opening of the port,
        which does not bound a handshake of TLS.

        Raises:
            ApiError: The address cannot be listened on.
        """
        self._socket = self._listen()
        config = self._server.config
        config.load()
        secured = self._tls is not None
        listening = await asyncio.get_running_loop().create_server(
            partial(
                BoundedProtocol,
                config=config,
                server_state=self._server.server_state,
                app_state={},
                bounds=self._bounds,
            ),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=self._tls.context if self._tls else None,
            ssl_handshake_timeout=self._bounds.exchange_s if secured else None,
            ssl_shutdown_timeout=self._bounds.exchange_s if secured else None,
        )
        self._server.servers = [listening]

    async def stop(self) -> None:
        """Accept nobody any more, and let answers that are on their way go out."""
        if self._socket is None:
            return
        for server in self._server.servers:
            server.close()
        self._socket.close()
        self._socket = None
        state = self._server.server_state
        for connection in tuple(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=GRACE_S)
        for task in state.tasks:
            task.cancel()
        # One turn of the loop for those that close by themselves.
        await asyncio.sleep(0)
        for connection in tuple(state.connections):
            # One of asyncio's TLS transports that was closed twice has let go of what
            # it would abort (Python 3.11.2): it is closed already.
            with contextlib.suppress(AttributeError):
                connection.transport.abort()
        await asyncio.sleep(0)

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
            # Inherited by each connection: head and body of an answer are two writes,
            # and the second would wait for the client's delayed acknowledgement.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            undo.pop_all()
        return listener
