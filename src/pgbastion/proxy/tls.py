"""TLS that ends in the proxy: with clients, and with servers.

A `TlsSocket` behaves like a plain non-blocking socket, so a relay needs to know nothing
of it: where TLS wants to wait, it raises what a plain socket raises.

Source: OpenSSL, SSL_read(3) and SSL_write(3); PostgreSQL documentation, "SSL Session
Encryption", for the request and for ALPN.
"""

import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, cast

from typing_extensions import Buffer

from pgbastion.errors import ProxyError

ALPN: Final = "postgresql"
# A record's plain text is at most this long; what is left of one stays unseen by epoll.
_RECORD_BYTES: Final = 16_384
# Certificate files are looked at again this often, when somebody connects.
_LOOK_S: Final = 1.0

OnEvent = Callable[[str, Mapping[str, object]], None]
Wait = Callable[[], Awaitable[bool]]


class TlsSocket(ssl.SSLSocket):
    """One side of a session, encrypted."""

    peeked = b""

    def recv(self, buflen: int = _RECORD_BYTES, flags: int = 0) -> bytes:
        """Read at least a whole record; with MSG_PEEK it is read again later."""
        if self.peeked and not flags:
            taken, self.peeked = self.peeked, b""
            return taken
        if not self.peeked:
            try:
                data = super().recv(max(buflen, _RECORD_BYTES))
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
                raise BlockingIOError from exc
            if not flags:
                return data
            self.peeked = data
        return self.peeked

    def recv_into(
        self, buffer: Buffer, nbytes: int | None = None, flags: int = 0
    ) -> int:
        """Read one record into ``buffer``, which has room for it."""
        try:
            return super().recv_into(buffer, nbytes or 0, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            raise BlockingIOError from exc

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send some of ``data``; after BlockingIOError the same has to come again."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            raise BlockingIOError from exc

    def shutdown(self, how: int) -> None:
        """End the own direction: a client is told in TLS, too.

        A server is not: it may have answers under way still, and OpenSSL, which looks
        for the peer's word as it says its own, would take them for an error.
        """
        if self.server_side:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                self._sslobj.shutdown()  # type: ignore[attr-defined]
        socket.socket.shutdown(self, how)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the configuration says of TLS in the proxy."""

    cert: Path
    key: Path
    required: bool = False
    verify: str = "off"
    ca: Path | None = None


class Tls:
    """The contexts of both sides; certificates are read again when they change."""

    def __init__(self, files: TlsFiles, on_event: OnEvent) -> None:
        """Read the files.

        Raises:
            ProxyError: One of them cannot be used.
        """
        self.files = files
        self._on_event = on_event
        self._looked_s = monotonic()
        self._seen = _stamps(files)
        self._to_clients, self._to_servers = _contexts(files)

    @property
    def required(self) -> bool:
        """Whether clients without TLS are refused."""
        return self.files.required

    @property
    def secures_servers(self) -> bool:
        """Whether the proxy connects to servers with TLS."""
        return self._to_servers is not None

    def accept(self, client: socket.socket) -> TlsSocket:
        """Return the server's end of TLS with ``client``, before the handshake."""
        self._look()
        wrapped = self._to_clients.wrap_socket(
            client, server_side=True, do_handshake_on_connect=False
        )
        return cast("TlsSocket", wrapped)

    def connect(self, server: socket.socket, host: str) -> TlsSocket:
        """Return the client's end of TLS with ``server``, before the handshake."""
        self._look()
        if self._to_servers is None:
            raise ProxyError("TLS with servers is not configured")
        wrapped = self._to_servers.wrap_socket(
            server, server_hostname=host, do_handshake_on_connect=False
        )
        return cast("TlsSocket", wrapped)

    def _look(self) -> None:
        """Take files that have changed; others stay in use if these cannot be read."""
        if monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = monotonic()
        stamps = _stamps(self.files)
        if stamps == self._seen:
            return
        try:
            self._to_clients, self._to_servers = _contexts(self.files)
        except ProxyError as exc:
            self._on_event("proxy_certificate_refused", {"error": str(exc)})
            return
        self._seen = stamps
        self._on_event("proxy_certificate_read", {"file": str(self.files.cert)})


async def shake_hands(tls: TlsSocket, readable: Wait, writable: Wait) -> str:
    """Bring the handshake to its end; return why it failed, or nothing.

    Args:
        tls: One end.
        readable: Waits until it can be read; False: not in time.
        writable: Waits until it can be written; False: not in time.
    """
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            in_time = await readable()
        except ssl.SSLWantWriteError:
            in_time = await writable()
        except ssl.SSLError as exc:
            return exc.reason or "the handshake failed"
        except OSError as exc:
            return exc.strerror or "the connection broke"
        else:
            return ""
        if not in_time:
            return "the handshake took too long"


def _contexts(files: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext | None]:
    try:
        to_clients = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        to_clients.load_cert_chain(files.cert, files.key)
        to_servers = None
        if files.verify != "off":
            to_servers = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            to_servers.check_hostname = files.verify == "full"
            if files.verify == "require":
                to_servers.verify_mode = ssl.CERT_NONE
            else:
                to_servers.load_verify_locations(files.ca)
    except (OSError, ValueError, TypeError) as exc:
        raise ProxyError(f"the proxy's TLS cannot be set up: {exc}") from exc
    for context in (to_clients, to_servers):
        if context is not None:
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # Older OpenSSL would let a client begin anew in the midst of a session,
            # and what is to be written would wait for what is to be read.
            context.options |= ssl.OP_NO_RENEGOTIATION
            context.set_alpn_protocols([ALPN])
            context.sslsocket_class = TlsSocket
    return to_clients, to_servers


def _stamps(files: TlsFiles) -> tuple[int, ...]:
    """Return when each of the files was last written; 0: it is not there."""
    stamps = []
    for path in (files.cert, files.key, files.ca):
        try:
            stamps.append(os.stat(path).st_mtime_ns if path is not None else 0)  # noqa: PTH116
        except OSError:
            stamps.append(0)
    return tuple(stamps)
