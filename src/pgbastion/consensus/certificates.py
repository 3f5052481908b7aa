"""Certificates for the port between the nodes, made and read by the native engine.

An authority either has a key of its own, in a file that an operator keeps, or follows
from the cluster's secret: then every node that knows the secret is able to sign its own
certificate, and none has to be copied (docs/adr/0008).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgbastion.consensus import _engine
from pgbastion.consensus._engine import Credentials
from pgbastion.consensus.engine_errors import as_consensus_error

__all__ = ["Authority", "CertificateFacts", "Credentials", "Files", "Issued"]

# Whoever connects sees a signature of the authority: a weak secret must not be found by
# trying the likely ones against it in no time.
STRETCH_ROUNDS: Final = 100_000
_STRETCH_SALT: Final = b"pgbastion certificate authority"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a certificate says; instants are seconds since 1970."""

    subject: str
    places: tuple[str, ...]
    """Addresses and host names."""
    not_before_s: int
    not_after_s: int

    @classmethod
    def of(cls, said: tuple[str, list[str], int, int]) -> "CertificateFacts":
        """Take what the engine says."""
        subject, places, not_before_s, not_after_s = said
        return cls(
            subject=subject,
            places=tuple(places),
            not_before_s=not_before_s,
            not_after_s=not_after_s,
        )

    @classmethod
    def read(cls, pem: bytes) -> "CertificateFacts":
        """Read the first certificate of a PEM file.

        Raises:
            ConsensusError: There is none.
        """
        with as_consensus_error():
            return cls.of(_engine.certificate_facts(pem))


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key, both in PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The contents of the three files that a node's credentials are."""

    certificate: bytes
    key: bytes
    authority: bytes

    def load(self) -> Credentials:
        """Return credentials, once they are sure to be of use.

        Raises:
            ConsensusError: The key is another certificate's, or the certificate is
                another authority's, has expired, or is for another use.
        """
        with as_consensus_error():
            return Credentials(self.certificate, self.key, self.authority)

    def replace(self, credentials: Credentials) -> None:
        """Have them used from now on; what is of no use changes nothing.

        Raises:
            ConsensusError: As `load`.
        """
        with as_consensus_error():
            credentials.replace(self.certificate, self.key, self.authority)


class Authority:
    """Signs certificates of nodes."""

    def __init__(self, native: _engine.Authority) -> None:
        self._native = native

    @classmethod
    def of_secret(cls, secret: bytes) -> "Authority":
        """Return the authority that follows from the cluster's secret.

        Takes some 50 ms of a processor, on purpose.
        """
        seed = hashlib.pbkdf2_hmac("sha256", secret, _STRETCH_SALT, STRETCH_ROUNDS)
        return cls(_engine.Authority.of_seed(seed))

    @classmethod
    def generate(cls, name: str, days: int) -> "Authority":
        """Make a new one of its own key."""
        return cls(_engine.Authority.generate(name, days))

    @classmethod
    def read(cls, certificate: str, key: str) -> "Authority":
        """Read one from the contents of its two files.

        Raises:
            ConsensusError: They are none.
        """
        with as_consensus_error():
            return cls(_engine.Authority.from_pem(certificate, key))

    @property
    def certificate(self) -> str:
        """Its certificate in PEM."""
        return self._native.certificate()

    @property
    def key(self) -> str:
        """Its key in PEM."""
        return self._native.key()

    def issue(self, name: str, places: Sequence[str], days: int) -> Issued:
        """Make a key, and sign a certificate of it for these addresses and names.

        Raises:
            ConsensusError: One of the places is neither address nor host name.
        """
        with as_consensus_error():
            certificate, key = self._native.issue(name, list(places), days)
        return Issued(certificate=certificate, key=key)
