"""SCRAM-SHA-256 verifiers of passwords. Pure.

A role is made with its verifier, so that no password reaches the server's log, its
statistics or a program's arguments (RFC 5802, RFC 7677; PostgreSQL, "pg_authid").
"""

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata
from typing import Final

ITERATIONS: Final = 4096
SALT_BYTES: Final = 16
_SCHEME: Final = "SCRAM-SHA-256"


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Return what ``pg_authid.rolpassword`` holds for ``password``.

    Args:
        password: In clear.
        salt: ``SALT_BYTES`` random bytes.
        iterations: Rounds of the key derivation.
    """
    salted = hashlib.pbkdf2_hmac(
        "sha256", _prepare(password).encode(), salt, iterations
    )
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client_key).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"{_SCHEME}${iterations}:{_base64(salt)}${_base64(stored)}:{_base64(server)}"


def verifies(stored: str, password: str) -> bool | None:
    """Tell whether ``password`` is the one of a verifier; None: it has another form."""
    try:
        scheme, parameters, _ = stored.split("$")
        iterations, salt = parameters.split(":")
        raw_salt = base64.b64decode(salt, validate=True)
        rounds = int(iterations)
    except (ValueError, binascii.Error):
        return None
    if scheme != _SCHEME or rounds < 1:
        return None
    return hmac.compare_digest(stored, verifier(password, raw_salt, rounds))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _prepare(password: str) -> str:
    """Normalise as SASLprep does (RFC 4013); what it forbids is used as it is.

    PostgreSQL does the same on both sides (pg_saslprep), so they agree.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not normal or any(_forbidden(char) for char in normal) or _mixed(normal):
        return password
    return normal


def _forbidden(char: str) -> bool:
    return any(
        table(char)
        for table in (
            stringprep.in_table_a1,
            stringprep.in_table_c12,
            stringprep.in_table_c21_c22,
            stringprep.in_table_c3,
            stringprep.in_table_c4,
            stringprep.in_table_c5,
            stringprep.in_table_c6,
            stringprep.in_table_c7,
            stringprep.in_table_c8,
            stringprep.in_table_c9,
        )
    )


def _mixed(text: str) -> bool:
    """Tell whether directions of writing are mixed as RFC 3454, section 6, forbids."""
    if not any(stringprep.in_table_d1(char) for char in text):
        return False
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends or any(stringprep.in_table_d2(char) for char in text)
