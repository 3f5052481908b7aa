"""The cluster's secret, and what is derived from it: token and passwords.

Secrets come from files or the environment, are never logged and never stand in a
process's arguments. `Secrets` hides its values from ``repr``.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pgbastion.config.machine import SECRET_BYTES_MIN, SECRET_VARIABLE
from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.directories import PASSABLE, make_directory
from pgbastion.errors import ConfigError

TOKEN_VARIABLE: Final = "PGBASTION_TOKEN"  # noqa: S105 - the variable's name
PASSWORD_VARIABLE: Final = "PGBASTION_PASSWORD_"  # noqa: S105 - the variable's prefix
SECRET_BYTES_MADE: Final = 32
SECRET_FILE_BYTES_MAX: Final = 64 << 10
DERIVED_BYTES: Final = 32
TOKEN_FILE_NAME: Final = "api-token"  # noqa: S105 - the file's name
_HASH: Final = hashlib.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Everything secret that a daemon works with."""

    cluster: bytes = field(repr=False)
    """What nodes prove to each other."""
    write_token: str = field(repr=False)
    """What changing something through the API needs."""
    read_token: str | None = field(repr=False)
    """What reading through the API needs; None: reading is open."""
    passwords: Mapping[str, str] = field(repr=False)
    """Passwords by role: the three that the daemon uses, and the file's others."""


def load_secrets(config: Config, environment: Mapping[str, str]) -> Secrets:
    """Read or derive every secret; make what this node has to make.

    The secret's file is made where it is missing and this node bootstraps; the file of
    the derived token is written for people and programs on this machine.

    Raises:
        ConfigError: A secret is missing, too short or cannot be read or written.
    """
    cluster = load_cluster_secret(config, environment)
    section = config.postgresql
    return Secrets(
        cluster=cluster,
        write_token=_write_token(config, cluster, environment),
        read_token=_one_line(config.api.read_token_file),
        passwords=load_passwords(section, cluster, environment) if section else {},
    )


def load_cluster_secret(
    config: Config, environment: Mapping[str, str], *, makes: bool = True
) -> bytes:
    """Return the secret that nodes prove to each other.

    Args:
        config: Says where it is.
        environment: May have it instead.
        makes: Whether a bootstrapping node makes one that is missing.

    Raises:
        ConfigError: It is missing on a node that does not bootstrap, shorter than
            `SECRET_BYTES_MIN`, or its file cannot be read or made.
    """
    path = config.cluster.secret_file
    given = environment.get(SECRET_VARIABLE)
    if given is not None:
        secret, source = strip_line_end(given.encode()), SECRET_VARIABLE
    else:
        if makes and config.raft.bootstrap:
            _make_secret_file(path)
        secret, source = strip_line_end(_read(path)), str(path)
    if len(secret) < SECRET_BYTES_MIN:
        raise ConfigError(
            f"{source}: the secret has {len(secret)} bytes, it needs at least "
            f"{SECRET_BYTES_MIN}"
        )
    return secret


def load_passwords(
    section: PostgresqlSection, secret: bytes, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return passwords by role: of the environment, else the file, else derived.

    Raises:
        ConfigError: The password file cannot be read, or a line of it is wrong.
    """
    passwords = {}
    if section.password_file is not None:
        text = _read(section.password_file).decode(errors="surrogateescape")
        try:
            passwords = parse_passwords(text)
        except ValueError as exc:
            raise ConfigError(f"{section.password_file}: {exc}") from exc
    for role in (section.superuser, section.replication_user, section.rewind_user):
        given = environment.get(password_variable(role))
        if given:
            passwords[role] = given
        elif role not in passwords:
            passwords[role] = derive(secret, f"pg:{role}")
    return passwords


def parse_passwords(text: str) -> dict[str, str]:
    """Return the passwords of lines ``ROLE:PASSWORD``; the first colon separates.

    Empty lines and lines that begin with ``#`` are skipped.

    Raises:
        ValueError: A line has no colon, no role or no password, or repeats a role; the
            message has its number and nothing of its content.
    """
    passwords: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        role, colon, password = line.partition(":")
        role = role.strip()
        if not colon or not role or not password:
            raise ValueError(f"line {number} is not ROLE:PASSWORD")
        if role in passwords:
            raise ValueError(f"line {number} gives a password to a role again")
        if not password.isprintable():
            raise ValueError(f"line {number} holds a control character")
        passwords[role] = password
    return passwords


def derive(secret: bytes, purpose: str) -> str:
    """Return what ``secret`` gives for ``purpose``: 64 hexadecimal digits.

    HKDF with SHA-256, no salt, 32 bytes. Purposes are ``api-token`` and ``pg:ROLE``.

    Source:
        RFC 5869, sections 2.2 and 2.3.
    """
    return hkdf(secret, purpose.encode(), DERIVED_BYTES).hex()


def hkdf(key: bytes, info: bytes, length: int, salt: bytes = b"") -> bytes:
    """Return ``length`` bytes (at most 8160) derived from ``key`` by HKDF-SHA256."""
    digest_size = _HASH().digest_size
    extracted = hmac.digest(salt or bytes(digest_size), key, "sha256")
    block, output = b"", b""
    for counter in range(1, -(-length // digest_size) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def password_variable(role: str) -> str:
    """Return the environment variable that may hold the password of ``role``."""
    return PASSWORD_VARIABLE + re.sub(r"[^A-Z0-9]", "_", role.upper())


def strip_line_end(content: bytes) -> bytes:
    """Return ``content`` without line ends at its end."""
    return content.rstrip(b"\r\n")


def _write_token(config: Config, secret: bytes, environment: Mapping[str, str]) -> str:
    given = environment.get(TOKEN_VARIABLE) or _one_line(config.api.auth_token_file)
    if given:
        return given
    token = derive(secret, "api-token")
    _write_token_file(config.raft.data_dir, token)
    return token


def _one_line(path: Path | None) -> str | None:
    if path is None:
        return None
    text = strip_line_end(_read(path)).decode(errors="replace")
    if not text or not text.isprintable() or not text.isascii() or " " in text:
        raise ConfigError(f"{path}: has to hold one line of ASCII without spaces")
    return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > SECRET_FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {SECRET_FILE_BYTES_MAX} bytes")
    return content


def _make_secret_file(path: Path) -> None:
    """Make the secret's file with mode 0600 unless it is there.

    It is written under another name first and then linked to its own: nobody ever
    reads half a secret, and of two who make it at once one wins.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make_directory(path.parent, PASSABLE)
        _write_durably(temporary, secrets.token_hex(SECRET_BYTES_MADE) + "\n")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except OSError as exc:
        raise ConfigError(f"cannot make the secret {path}: {exc.strerror}") from exc


def _write_token_file(raft_dir: Path, token: str) -> None:
    path = raft_dir / TOKEN_FILE_NAME
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make_directory(raft_dir, 0o700)
        _write_durably(temporary, token + "\n")
        temporary.replace(path)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def _write_durably(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
