"""What a person who helps needs to know, in one file, with nothing secret in it."""

import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pgbastion.cli.client import Client
from pgbastion.cli.problems import CommandError
from pgbastion.config.load import examine
from pgbastion.config.machine import SECRET_VARIABLE
from pgbastion.config.reading import understand
from pgbastion.config.secrets import (
    PASSWORD_VARIABLE,
    TOKEN_FILE_NAME,
    TOKEN_VARIABLE,
    derive,
)
from pgbastion.errors import ConfigError
from pgbastion.version import versions

ENDPOINTS: Final = (
    "/cluster/explain", "/health", "/cluster", "/cluster/state", "/cluster/replication",
    "/raft/state", "/raft/peers", "/raft/directives", "/connections", "/history",
    "/debug/decisions", "/metrics",
)  # fmt: skip
HIDDEN: Final = "(hidden)"
SHORTEST: Final = 6
"""A shorter word is found where no secret is."""
TELLING: Final = "pass|secret|token|credential|api_?key|sslkey"
# NAME = value, NAME: value, "NAME": "value"; the rest of the line goes, however long.
_NAMED: Final = re.compile(
    rf"(?i)([\w.-]*(?:{TELLING})[\w.-]*[\"']?\s*[=:]\s*)(?!\s*[\[{{]\s*$).+"
)
# The user information of an address, and the header that proves who asks.
_ADDRESS: Final = re.compile(r"(\w+://)[^/\s@]+@")
_BEARER: Final = re.compile(r"(?i)(bearer\s+)\S+")
# Files that hold secrets are named, never their content.
_FILE_KEY: Final = re.compile(r"(?i)^\s*[\w.-]*(_file|_cert|_ca|_key)\s*:\s*/\S+\s*$")


def redact(text: str) -> str:
    """Return a text without what could be a secret; rather too much than too little."""
    return "\n".join(_redact_line(line) for line in text.split("\n"))


def _redact_line(line: str) -> str:
    if _FILE_KEY.match(line):
        return line
    line = _ADDRESS.sub(rf"\1{HIDDEN}@", line)
    line = _BEARER.sub(rf"\1{HIDDEN}", line)
    return _NAMED.sub(rf"\1{HIDDEN}", line)


def redact_values(value: Any, *, secret: bool = False) -> Any:
    """Return values of JSON without what could be a secret."""
    if isinstance(value, Mapping):
        return {
            key: redact_values(item, secret=secret or _names_a_secret(str(key)))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redact_values(item, secret=secret) for item in value]
    if isinstance(value, str):
        return HIDDEN if secret else redact(value)
    return value


def _names_a_secret(key: str) -> bool:
    return re.search(rf"(?i){TELLING}", key) is not None


def known_secrets(config: Path, environment: Mapping[str, str]) -> list[str]:
    """Return what this user can read of the node's secrets, to be left out by value."""
    found = [
        v for k, v in environment.items() if k in (SECRET_VARIABLE, TOKEN_VARIABLE)
    ]
    found += [v for k, v in environment.items() if k.startswith(PASSWORD_VARIABLE)]
    try:
        known = understand(config)
    except ConfigError:
        return found
    api, section = known.api, known.postgresql
    token_file = known.raft.data_dir / TOKEN_FILE_NAME
    for path in (api.auth_token_file, api.read_token_file, token_file):
        found += _lines_of(path)
    secrets = _lines_of(known.cluster.secret_file)
    found += secrets
    if section is not None:
        passwords = _lines_of(section.password_file)
        found += [line.partition(":")[2] for line in passwords]
        roles = (section.superuser, section.replication_user, section.rewind_user)
        found += [derive(s.encode(), f"pg:{role}") for s in secrets for role in roles]
    return [secret for secret in found if len(secret) >= SHORTEST]


def _lines_of(path: Path | None) -> list[str]:
    try:
        return [] if path is None else path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def write_bundle(path: Path, client: Client, config: Path) -> list[str]:
    """Write the bundle with mode 0600; return what could not be had.

    Raises:
        CommandError: The file is there, or cannot be written.
    """
    missing: list[str] = []
    secrets = known_secrets(config, os.environ)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, text in _parts(client, config, missing):
                for secret in secrets:
                    text = text.replace(secret, HIDDEN)  # noqa: PLW2901 - it shrinks
                _add(archive, name, text)
    except OSError as exc:
        raise CommandError(f"cannot write {path}: {exc.strerror}") from exc
    return missing


def _parts(
    client: Client, config: Path, missing: list[str]
) -> Iterator[tuple[str, str]]:
    yield "versions.json", json.dumps({**versions(), "system": platform.platform()})
    for endpoint in ENDPOINTS:
        name = endpoint.strip("/").replace("/", "-")
        try:
            answer = client.fetch(endpoint)
        except CommandError as exc:
            missing.append(f"{endpoint}: {exc}")
            continue
        if isinstance(answer, str):
            yield f"{name}.txt", redact(answer)
        else:
            yield f"{name}.json", json.dumps(redact_values(answer), indent=1)
    try:
        yield "pgbastion.yaml", redact(config.read_text(encoding="utf-8"))
        yield "check.txt", redact(examine(config, os.environ).render())
    except (OSError, UnicodeDecodeError) as exc:
        missing.append(f"{config}: {exc}")


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    raw = text.encode()
    entry = tarfile.TarInfo(f"pgbastion-bundle/{name}")
    entry.size, entry.mtime, entry.mode = len(raw), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(raw))
