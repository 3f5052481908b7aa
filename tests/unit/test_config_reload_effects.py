"""Each key that a reload applies: where its effect is tested; none is without one."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from pgbastion.config.model import Config, File
from pgbastion.config.parse import section_at
from pgbastion.config.proxy import ProxySection
from pgbastion.config.reload import APPLIED
from pgbastion.node.proxying import binding_of, limits_of, tls_of
from support.configs import understood

TESTS: Final = Path(__file__).parents[1]
KEYS: Final = "component/test_daemon_reload_keys.py"
EFFECTS: Final = "postgres/test_daemon_reload_effects.py"
COMMANDS: Final = "component/test_api_client_certificates.py"
TERMINATED: Final = {
    "mode": "terminate",
    "cert_file": "/etc/proxy.crt",
    "key_file": "/etc/proxy.key",
}

# Changed in a running daemon, and seen from outside. Those of KEYS are its cases.
SEEN: Final[Mapping[str, str]] = {
    "postgresql.parameters": f"{EFFECTS}::test_a_setting_of_the_nodes_own_file"
    "_counts_after_a_reload",
    "postgresql.hba": f"{EFFECTS}::test_a_line_of_access_counts_after_a_reload",
    "postgresql.member_slots_ttl": f"{EFFECTS}::test_no_wal_is_kept_for_a_silent_node"
    "_after_a_reload",
    "postgresql.password_file": "postgres/test_daemon_reload.py::test_a_standby_may"
    "_read_a_changed_password_before_the_primary",
    "failover.stop_timeout": f"{EFFECTS}::test_a_stop_has_less_time_after_a_reload",
    "failover.max_lag_threshold": f"{EFFECTS}::test_a_standby_may_lag_more"
    "_after_a_reload",
    "failover.primary_restart_timeout": f"{EFFECTS}::test_a_primary_is_restarted"
    "_in_place_after_a_reload",
    "failover.fence_command": f"{EFFECTS}::test_a_fencing_program_counts"
    "_after_a_reload",
    "failover.fence_timeout": f"{EFFECTS}::test_a_fencing_program_counts"
    "_after_a_reload",
    "callbacks.on_role_change": f"{EFFECTS}::test_a_callback_is_called_after_a_reload",
    "callbacks.timeout": f"{EFFECTS}::test_a_callback_has_less_time_after_a_reload",
    "tracing.endpoint": "component/test_tracing.py::test_another_collector_is_told"
    "_after_a_reload",
    **{
        f"tags.{tag}": f"{EFFECTS}::test_a_tag_counts_after_a_reload"
        for tag in (
            "nofailover",
            "failover_priority",
            "nosync",
            "noloadbalance",
            "replica_weight",
        )
    },
    # Nothing to take over: whoever runs a command reads them.
    **{
        f"api.{key}": f"{COMMANDS}::test_a_command_may_show_a_certificate_instead_of"
        "_a_token"
        for key in ("tls_ca", "client_cert", "client_key")
    },
}
# `check` says of it that it has no effect.
WITHOUT: Final = {"tags.clonefrom"}

# Bounds of the proxy: all go to its one object, whose effects have tests of their own.
PROXY: Final[Mapping[str, Any]] = {
    "bind_address": "10.0.1.9",
    "primary_port": 5532,
    "replica_port": 5533,
    "any_port": 5534,
    "drain_timeout": "1s",
    "hold_timeout": "1s",
    "max_hold": 3,
    "max_connections": 3,
    "max_connections_per_address": 3,
    "allow": ["10.9.9.0/24"],
    "max_replica_lag": "1MiB",
    "replica_fallback": "primary",
    "connect_timeout": "1s",
    "first_packet_timeout": "1s",
    "keepalive_idle": "5s",
    "keepalive_interval": "5s",
    "keepalive_probes": 9,
    "user_timeout": "5s",
    "proxy_protocol_from": ["10.9.9.0/24"],
    "proxy_protocol_to_servers": True,
    "tls": TERMINATED,
}
PROXY_TLS: Final[Mapping[str, Any]] = {
    "mode": "passthrough",
    "cert_file": "/etc/other.crt",
    "key_file": "/etc/other.key",
    "required": True,
    "verify": "require",
    "ca_file": "/etc/ca.crt",
}


def applied() -> set[str]:
    """Return every key that is applied, those of whole sections one by one."""
    found = set()
    for key in APPLIED:
        section = section_at([key]) if key in File.model_fields else None
        names = section.model_fields if section is not None else ()
        found |= {f"{key}.{name}" for name in names} or {key}
    return found


def cases() -> set[str]:
    """Return the keys that the cases of `KEYS` change."""
    tree = ast.parse((TESTS / KEYS).read_text(encoding="utf-8"))
    return {
        str(ast.literal_eval(node.args[0]))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Case"
    }


def functions(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_no_applied_key_is_without_a_test_of_its_effect() -> None:
    proxied = {f"proxy.{key}" for key in PROXY}

    assert applied() == {*SEEN, *WITHOUT, *cases(), *proxied}


@pytest.mark.parametrize("key", sorted(SEEN))
def test_a_test_that_is_named_is_there(key: str) -> None:
    path, _, name = SEEN[key].partition("::")

    assert name in functions(path)


def proxy_has(config: Config) -> tuple[object, ...]:
    """Return all that a reload gives to the proxy, and to who decides on readers."""
    proxy = config.proxy
    readers = (proxy.max_replica_lag, proxy.replica_fallback)
    return binding_of(proxy), limits_of(proxy), tls_of(proxy), readers


@pytest.mark.parametrize("key", sorted(PROXY))
def test_each_key_of_the_proxy_changes_what_it_is_given(key: str) -> None:
    changed = understood(proxy={key: PROXY[key]})

    assert proxy_has(changed) != proxy_has(understood())


@pytest.mark.parametrize("key", sorted(PROXY_TLS))
def test_each_key_of_its_tls_changes_what_it_is_given(key: str) -> None:
    before = understood(proxy={"tls": TERMINATED})
    changed = understood(proxy={"tls": {**TERMINATED, key: PROXY_TLS[key]}})

    assert proxy_has(changed) != proxy_has(before)


def test_every_key_of_the_proxy_is_tried() -> None:
    assert set(PROXY) == set(ProxySection.model_fields) - {"data_path"}
    tls = ProxySection.model_fields["tls"].annotation
    assert set(PROXY_TLS) == set(getattr(tls, "model_fields", {}))
