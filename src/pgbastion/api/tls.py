"""TLS on the ports of the API and of the metrics.

Certificates are read again when they change, without a restart: each handshake takes
the context that is current then. A context is made anew as a whole, never changed: half
of a change is not used, and an authority that was taken out is not trusted any more.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from pgbastion.config.tls import WARN_BELOW_DAYS
from pgbastion.errors import ApiError, PgBastionError
from pgbastion.model.snapshot import ApiCertificateSnapshot
from pgbastion.observe.logging import get_logger

LOOK_EVERY_S: Final = 5.0
SUBJECT_SHOWN_MAX: Final = 200
DAY_S: Final = 86_400

log = get_logger("api")

# What tells that a file is another one: inode, size, time of the last change.
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the certificate lies, and whose certificates stand for the token."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ApiTls:
    """What the ports show to clients, kept current.

    Args:
        files: The files, in PEM.
        read_end: Returns when a certificate in PEM expires, in seconds since 1970.

    Raises:
        ApiError: They cannot be used.
    """

    def __init__(self, files: TlsFiles, read_end: Callable[[bytes], int]) -> None:
        self._files = files
        self._read_end = read_end
        self._stamp = _stamp(files)
        self._current = _context(files)
        self._expires_s = self._end()
        self.context = _context(files)
        """For the server: it hands every handshake on to the current context."""
        self.context.sni_callback = self._choose

    async def run(self) -> None:
        """Look for ever whether the files have changed."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take up files that have changed; what cannot be used changes nothing."""
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                self._warn()
                return
            context, expires_s = _context(self._files), self._end()
        except ApiError as exc:
            log.state(
                "api_certificate",
                "api_certificate_not_usable",
                level=logging.ERROR,
                error=str(exc),
                remedy="the one in use stays; correct the files",
            )
            return
        self._stamp, self._current, self._expires_s = stamp, context, expires_s
        log.info("api_certificate_read", file=str(self._files.cert))
        self._warn()

    def snapshot(self) -> ApiCertificateSnapshot:
        """Return what the certificate in use says."""
        # Wall-clock time: that is what a certificate is written in.
        left_s = round(self._expires_s - time.time())
        return ApiCertificateSnapshot(
            expires_s=self._expires_s,
            left_s=left_s,
            expires_soon=left_s < WARN_BELOW_DAYS * DAY_S,
        )

    def _end(self) -> int:
        try:
            return self._read_end(self._files.cert.read_bytes())
        except (OSError, PgBastionError) as exc:
            raise ApiError(f"{self._files.cert} cannot be read: {exc}") from exc

    def _warn(self) -> None:
        now = self.snapshot()
        if now.expires_soon:
            log.state(
                "api_certificate_end",
                "api_certificate_expires",
                level=logging.WARNING,
                days=now.left_s // DAY_S,
                remedy="replace the files of api.tls_cert and api.tls_key",
            )

    def _choose(
        self,
        connection: ssl.SSLSocket | ssl.SSLObject,
        name: str | None,
        context: ssl.SSLContext,
    ) -> None:
        # OpenSSL asks whether or not the client names a host.
        del name, context
        connection.context = self._current


def subject_of(connection: ssl.SSLObject | None) -> str | None:
    """Return whose certificate a client has shown; None: it has shown none.

    One is asked for only where an authority for clients is configured, and another
    authority's ends the handshake.
    """
    # A resumed session was verified once, perhaps by an authority that is gone.
    if connection is None or connection.session_reused:
        return None
    shown = connection.getpeercert()
    if not shown:
        return None
    # One tuple of names for each part; the type that is declared says less.
    parts = cast("tuple[tuple[tuple[str, str], ...], ...]", shown.get("subject", ()))
    names = [f"{key}={value}" for part in parts for key, value in part]
    return ", ".join(names)[:SUBJECT_SHOWN_MAX] or "a certificate without a name"


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # A key with a passphrase is refused, instead of asked for at the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as exc:
        raise ApiError(f"the API's TLS cannot be set up: {exc}") from exc
    return context


def _stamp(files: TlsFiles) -> _Stamp:
    paths = [files.cert, files.key, *([files.client_ca] if files.client_ca else [])]
    try:
        found = [path.stat() for path in paths]
    except OSError as exc:
        raise ApiError(f"{exc.filename} cannot be read: {exc.strerror}") from exc
    return tuple((f.st_ino, f.st_size, f.st_mtime_ns) for f in found)
