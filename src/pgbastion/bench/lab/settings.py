"""The files that a node of the laboratory is started with."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from pgbastion.bench.lab.servers import SUPERUSER, os_user

PRIMARY_PORT: Final = 5432
REPLICA_PORT: Final = 5433
POSTGRES_PORT: Final = 5442
API_PORT: Final = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a cluster of the laboratory is made of.

    ``version`` is a major version of PostgreSQL, "newest" or "oldest". ``own_disk``
    names nodes whose files lie on a file system of their own, which can be frozen or
    filled. ``clock_off_s`` names nodes whose clocks can be set, and by how many seconds
    their wall clock is wrong at first.
    ``bootstrap`` names the nodes whose file says so, default the first;
    ``environment`` is given to every daemon; ``vip`` is the section of that name, the
    same on every node, empty for none; ``proxy_bind`` where proxies listen;
    ``families`` are the versions of IP that hosts speak, of which the nodes use the
    first; ``sections`` are further keys by section, the same on every node.
    """

    postgres_nodes: int = 3
    witnesses: int = 0
    profile: str = "normal"
    version: str = "newest"
    namespaces: bool = True
    mode: str = "quorum"
    sync_count: int | str = "auto"
    own_disk: frozenset[str] = frozenset()
    parameters: Mapping[str, str | int] = field(default_factory=dict)
    clock_off_s: Mapping[str, int] = field(default_factory=dict)
    bootstrap: frozenset[str] = frozenset({"n1"})
    environment: Mapping[str, str] = field(default_factory=dict)
    vip: Mapping[str, Any] = field(default_factory=dict)
    proxy_bind: str = ""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: tuple[int, ...] = (4,)

    @property
    def names(self) -> list[str]:
        """The nodes' names; the witnesses come last."""
        return [f"n{n}" for n in range(1, self.postgres_nodes + self.witnesses + 1)]

    def is_witness(self, name: str) -> bool:
        """Tell whether the node has no PostgreSQL."""
        return self.names.index(name) >= self.postgres_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What the nodes and the clients of one laboratory prove themselves with."""

    directory: Path
    join: str
    token: str
    password: str

    @classmethod
    def write(cls, directory: Path) -> "Secrets":
        """Draw them and write the files that the configuration names."""
        made = cls(
            directory=directory,
            join=secrets.token_hex(16),
            token=secrets.token_hex(16),
            password=secrets.token_hex(8),
        )
        roles = ("postgres", "replicator", "rewinder")
        lines = "".join(f"{role}:{made.password}\n" for role in roles)
        _write_private(directory / "secret", made.join + "\n")
        _write_private(directory / "token", made.token + "\n")
        _write_private(directory / "passwords", lines)
        return made


def render(
    plan: Plan, name: str, addresses: Mapping[str, str], bin_dir: Path, directory: Path
) -> str:
    """Return the configuration file of node ``name`` in YAML.

    ``directory`` is the laboratory's; the node's own files go below ``directory/name``.
    """
    address = addresses[name]
    own = directory / name
    document: dict[str, Any] = {
        "node": {"name": name, "address": address},
        "cluster": {
            "name": "lab",
            "peers": [_host(addresses[each]) for each in plan.names],
            "secret_file": str(directory / "secret"),
        },
        "raft": {
            "data_dir": str(own / "raft"),
            "bootstrap": name in plan.bootstrap,
            "tls_enabled": False,
        },
        "failover": {"profile": plan.profile},
        "replication": {
            "mode": plan.mode,
            "sync_count": plan.sync_count,
            "strict": False,
        },
        "api": {"auth_token_file": str(directory / "token")},
    }
    if plan.vip:
        document["vip"] = dict(plan.vip)
    if plan.proxy_bind:
        document["proxy"] = {"bind_address": plan.proxy_bind}
    if 4 not in plan.families:
        document["proxy"] = {"bind_address": "::"}
        document["metrics"] = {"bind_address": "::"}
        document["api"]["bind_address"] = "::"
    if not plan.is_witness(name):
        document["postgresql"] = {
            "bin_dir": str(bin_dir),
            "data_dir": str(own / "pg"),
            "password_file": str(directory / "passwords"),
            "parameters": dict(plan.parameters) or {"shared_buffers": "128MB"},
        }
        if os_user() != SUPERUSER:
            # Unprivileged, or a machine without that user; else the default has to do.
            document["postgresql"]["os_user"] = os_user()
    if not plan.namespaces:
        # Without namespaces every address of the machine is every node's.
        document["api"]["bind_address"] = address
        document["proxy"] = {"bind_address": address}
        document["metrics"] = {"bind_address": address}
    for section, keys in plan.sections.items():
        document[section] = {**document.get(section, {}), **keys}
    text = StringIO()
    YAML().dump(document, text)
    return text.getvalue()


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
