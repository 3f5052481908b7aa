"""What a changed file means for a running daemon. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from pgbastion.config.model import Config
from pgbastion.config.proxy import ProxySection
from pgbastion.config.section import Section

# What a running daemon takes over at once; a section's name stands for all its keys.
APPLIED: Final = frozenset(
    {
        "log.level",
        "log.format",
        "tags",
        "failover.stop_timeout",
        "failover.max_lag_threshold",
        "failover.primary_restart_timeout",
        "failover.fence_command",
        "failover.fence_timeout",
        "postgresql.parameters",
        "postgresql.hba",
        "postgresql.member_slots_ttl",
        "postgresql.password_file",
        "api.requests_per_second",
        "api.auth_token_file",
        "api.read_token_file",
        # Commands read them, each time anew.
        "api.tls_ca",
        "api.client_cert",
        "api.client_key",
        "events",
        "callbacks",
        "tracing",
        "metrics.patroni_names",
        *(f"proxy.{key}" for key in ProxySection.model_fields if key != "data_path"),
    }
)
# What the cluster has agreed on: the file counts when a cluster is founded only.
HELD_BY_CLUSTER: Final = frozenset(
    {
        "cluster.name",
        "failover.profile",
        "replication.mode",
        "replication.sync_count",
        "replication.strict",
    }
)

# What a daemon takes at its start only, and why; all keys of a section, or one.
NEEDS_RESTART: Final[Mapping[str, str]] = {
    "node": "other nodes know this one by it",
    "cluster.peers": "asked for when a node joins",
    "cluster.auto_join": "asked for when a node joins",
    "cluster.secret_file": "sessions between the nodes rest on it",
    "raft": "the engine and its port are made with it",
    "memberlist": "the gossip's port is made with it",
    "proxy.data_path": "open sessions are moved by it",
    "postgresql.bin_dir": "the server is started from it",
    "postgresql.data_dir": "the server runs in it",
    "postgresql.config_dir": "the server was started with it",
    "postgresql.port": "the server listens there, and the others know it",
    "postgresql.listen": "the server listens there",
    "postgresql.socket_dir": "the server listens there",
    "postgresql.os_user": "the server runs as it",
    "postgresql.superuser": "the daemon's sessions are its",
    "postgresql.replication_user": "standbys stream as it",
    "postgresql.rewind_user": "pg_rewind logs in as it",
    "postgresql.connect_dsn": "the daemon's sessions are made with it",
    "vip": "the addresses are held by the guard too",
    "api.bind_address": "the port is opened at the start",
    "api.port": "the port is opened at the start, and the others know it",
    "api.tls_cert": "whether the ports speak TLS is told to the others; a changed file "
    "is read again",
    "api.tls_key": "as api.tls_cert",
    "api.tls_client_ca": "as api.tls_cert",
    "metrics.bind_address": "the port is opened at the start",
    "metrics.port": "the port is opened at the start",
    "watchdog": "the device is opened at the start",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Keys that differ between two configurations, by what becomes of them."""

    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    held_by_cluster: tuple[str, ...] = ()


def what_changes(old: Config, new: Config) -> Changes:
    """Return which keys differ, and what a running daemon makes of each."""
    changed = _changed_keys(old, new)
    return Changes(
        applied=tuple(k for k in changed if _covered(k, APPLIED)),
        needs_restart=tuple(
            k for k in changed if not _covered(k, APPLIED | HELD_BY_CLUSTER)
        ),
        held_by_cluster=tuple(k for k in changed if _covered(k, HELD_BY_CLUSTER)),
    )


def _changed_keys(old: Config, new: Config) -> list[str]:
    changed: list[str] = []
    for part in fields(Config):
        before, after = getattr(old, part.name), getattr(new, part.name)
        if isinstance(before, Section) and isinstance(after, Section):
            changed += [
                f"{part.name}.{key}"
                for key in type(before).model_fields
                if getattr(before, key) != getattr(after, key)
            ]
        elif before != after and part.name in ("postgresql", "vip"):
            changed.append(part.name)
    return changed


def _covered(key: str, keys: frozenset[str]) -> bool:
    return key in keys or key.partition(".")[0] in keys
