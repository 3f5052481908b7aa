"""The files of a demonstration: its directory, its secrets, each node's settings."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

PREFIX: Final = "pgbastion-demo-"
NAMES: Final = ("n1", "n2", "n3")
SUPERUSER: Final = "postgres"
_ROLES: Final = (SUPERUSER, "replicator", "rewinder")
# Three servers share a small machine, and nobody waits for a large write to end.
_PARAMETERS: Final = {"shared_buffers": "64MB", "max_wal_size": "256MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the nodes' settings are made of."""

    directory: Path
    addresses: Mapping[str, str]
    bin_dir: Path
    os_user: str
    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What clients of a demonstration prove themselves with."""

    password: str = field(repr=False)
    token_file: Path


def make_directory() -> Path:
    """Make the directory that all files of a demonstration are in."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    # PostgreSQL's user has to get through to its data.
    directory.chmod(0o755)
    return directory


def write_keys(directory: Path) -> Keys:
    """Draw secret, token and password, and write the files that the settings name."""
    password = secrets.token_hex(8)
    _write_private(directory / "secret", secrets.token_hex(16) + "\n")
    _write_private(directory / "token", secrets.token_hex(16) + "\n")
    lines = "".join(f"{role}:{password}\n" for role in _ROLES)
    _write_private(directory / "passwords", lines)
    return Keys(password=password, token_file=directory / "token")


def write_settings(plan: Plan) -> None:
    """Write every node's configuration file and make its directory."""
    for name in NAMES:
        (plan.directory / name).mkdir(mode=0o755)
        (plan.directory / name).chmod(0o755)
        text = StringIO()
        YAML().dump(_settings(plan, name), text)
        (plan.directory / f"{name}.yaml").write_text(text.getvalue())


def remove_directory(directory: Path) -> None:
    """Remove the directory and what the servers' user has in it."""
    shutil.rmtree(directory, ignore_errors=True)


def _settings(plan: Plan, name: str) -> dict[str, Any]:
    directory, address = plan.directory, plan.addresses[name]
    # On loopback every address is every node's: each is bound to its own.
    own = {"bind_address": address}
    return {
        "node": {"name": name, "address": address},
        "cluster": {
            "name": "demo",
            "peers": [plan.addresses[each] for each in NAMES],
            "secret_file": str(directory / "secret"),
        },
        "raft": {
            "data_dir": str(directory / name / "raft"),
            "bootstrap": name == NAMES[0],
        },
        "failover": {"profile": plan.profile},
        "postgresql": {
            "bin_dir": str(plan.bin_dir),
            "data_dir": str(directory / name / "pg"),
            "password_file": str(directory / "passwords"),
            "os_user": plan.os_user,
            "parameters": dict(_PARAMETERS),
        },
        "proxy": dict(own),
        "api": {**own, "auth_token_file": str(directory / "token")},
        "metrics": dict(own),
    }


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
