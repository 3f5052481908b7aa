"""This node's certificate on the Raft port, taken up and renewed while the node runs.

Either the operator's three files, read again when they change, or one that this node
signs itself by the authority that follows from the cluster's secret. Its key then lives
in memory only, and it is renewed long before it expires.
"""

import asyncio
import ipaddress
import logging
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.config.model import Config
from pgbastion.config.tls import WARN_BELOW_DAYS
from pgbastion.consensus.certificates import (
    Authority,
    CertificateFacts,
    Credentials,
    Files,
)
from pgbastion.errors import ConfigError, ConsensusError
from pgbastion.model.snapshot import CertificateSnapshot
from pgbastion.observe.logging import get_logger

LOOK_EVERY_S: Final = 5.0
DAY_S: Final = 86_400
OWN_DAYS: Final = 90
OWN_RENEWED_BELOW_DAYS: Final = 30
_FILE_BYTES_MAX: Final = 1 << 20

log = get_logger("certificates")

# What tells that a file is another one: inode, size, time of the last change.
_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    certificate: Path
    key: Path
    authority: Path

    def stamp(self) -> _Stamp:
        found = [p.stat() for p in (self.certificate, self.key, self.authority)]
        return tuple((f.st_ino, f.st_size, f.st_mtime_ns) for f in found)

    def read(self) -> Files:
        return Files(
            certificate=_read(self.certificate),
            key=_read(self.key),
            authority=_read(self.authority),
        )


class Certificates:
    """Keeps the credentials of the Raft port current.

    Args:
        config: Says whether there is TLS, and whose certificates.
        secret: The cluster's secret.

    Raises:
        ConfigError: The operator's files cannot be used.
    """

    def __init__(self, config: Config, secret: bytes) -> None:
        self._name = config.node.name
        self._places = places_of(config)
        self._paths = _paths(config)
        self._authority: Authority | None = None
        self._stamp: _Stamp = ()
        self.credentials: Credentials | None = None
        if not config.raft.tls_enabled:
            return
        try:
            if self._paths is not None:
                self._stamp = self._paths.stamp()
                self.credentials = self._paths.read().load()
            else:
                self._authority = Authority.of_secret(secret)
                self.credentials = self._sign(self._authority).load()
        except (OSError, ConsensusError) as exc:
            raise ConfigError(
                f"raft.tls_cert: {exc}: correct the files that raft.tls_cert, tls_key "
                "and tls_ca name"
            ) from exc
        self._say_certificate("certificate_in_use")

    def _sign(self, authority: Authority) -> Files:
        issued = authority.issue(self._name, self._places, OWN_DAYS)
        return Files(
            certificate=issued.certificate.encode(),
            key=issued.key.encode(),
            authority=authority.certificate.encode(),
        )

    def snapshot(self) -> CertificateSnapshot | None:
        """Return what the certificate in use says; None: plain transport."""
        if self.credentials is None:
            return None
        node, authority = map(CertificateFacts.of, self.credentials.facts())
        # Wall-clock time: that is what a certificate is written in.
        left_s = round(node.not_after_s - time.time())
        return CertificateSnapshot(
            subject=node.subject,
            places=node.places,
            own=self._authority is not None,
            expires_s=node.not_after_s,
            authority_expires_s=authority.not_after_s,
            left_s=left_s,
            expires_soon=left_s < WARN_BELOW_DAYS * DAY_S,
        )

    async def run(self) -> None:
        """Look for ever whether there is a newer one, or one has to be made."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take up other files, or renew our own; say when the end comes near."""
        if self.credentials is None:
            return
        try:
            if self._renew(self.credentials):
                self._say_certificate("certificate_renewed")
        except (OSError, ConsensusError) as exc:
            log.state(
                "certificate",
                "certificate_not_usable",
                level=logging.ERROR,
                error=str(exc),
                remedy="the one in use stays; correct the files",
            )
            return
        self._warn()

    def _renew(self, credentials: Credentials) -> bool:
        if self._authority is not None:
            now = self.snapshot()
            if now is None or now.left_s > OWN_RENEWED_BELOW_DAYS * DAY_S:
                return False
            self._sign(self._authority).replace(credentials)
            return True
        if self._paths is None:
            return False
        stamp = self._paths.stamp()
        if stamp == self._stamp:
            return False
        # Half of a change is no pair of certificate and key: it is looked at again.
        self._paths.read().replace(credentials)
        self._stamp = stamp
        return True

    def _say_certificate(self, event: str) -> None:
        now = self.snapshot()
        if now is not None:
            log.info(event, subject=now.subject, places=now.places, days=now.days_left)
        self._warn()

    def _warn(self) -> None:
        now = self.snapshot()
        if now is not None and now.expires_soon:
            log.state(
                "certificate",
                "certificate_expires",
                level=logging.WARNING,
                days=now.days_left,
                remedy="replace the files of raft.tls_cert and raft.tls_key",
            )


def places_of(config: Config) -> tuple[str, ...]:
    """Return the addresses and names that this node's own certificate carries."""
    bound = config.raft.bind_address
    host = platform.node()
    places = [config.node.address]
    if not ipaddress.ip_address(bound).is_unspecified:
        places.append(bound)
    if host and host.isascii():
        places.append(host)
    return tuple(dict.fromkeys(places))


def _paths(config: Config) -> _Paths | None:
    raft = config.raft
    if raft.tls_cert is None or raft.tls_key is None or raft.tls_ca is None:
        return None
    return _Paths(certificate=raft.tls_cert, key=raft.tls_key, authority=raft.tls_ca)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES_MAX)
