"""Which settings are ours, which may be chosen, and what a server needs. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pgbastion.postgres.layout import PgIdentity
from pgbastion.postgres.parse import FLOORS

Value = str | int | float | bool

# Ours, with the reason that a refusal shows. Everything under these names that
# somebody else set in a file we own is removed.
VOLATILE: Final[Mapping[str, str]] = {
    "primary_conninfo": "the cluster's state decides whom a standby follows",
    "primary_slot_name": "each standby has a slot that carries its node's name",
    "synchronous_standby_names": "it is derived from replication.mode and sync_count",
    "synchronized_standby_slots": "logical consumers wait for whom commits wait for",
}
_PLACES: Final[Mapping[str, str]] = {
    "listen_addresses": "set postgresql.listen",
    "port": "set postgresql.port",
    "unix_socket_directories": "set postgresql.socket_dir",
    "data_directory": "set postgresql.data_dir",
    "config_file": "set postgresql.config_dir",
    "hba_file": "set postgresql.config_dir",
    "external_pid_file": "the guard watches the postmaster by a pidfd",
}
_SAFETY: Final[Mapping[str, str]] = {
    "fsync": "without it an acknowledged commit can be lost",
    "full_page_writes": "pg_rewind and crash recovery need it",
    "wal_log_hints": "pg_rewind needs it",
    "hot_standby": "standbys are asked for their state by SQL",
    "restart_after_crash": "the daemon restarts the server, under its lease",
    "recovery_target_timeline": "standbys follow the newest timeline",
    "recovery_target": "a standby that stops replaying cannot be promoted",
    "recovery_target_lsn": "a standby that stops replaying cannot be promoted",
    "recovery_target_name": "a standby that stops replaying cannot be promoted",
    "recovery_target_time": "a standby that stops replaying cannot be promoted",
    "recovery_target_xid": "a standby that stops replaying cannot be promoted",
    "promote_trigger_file": "only a decision promotes",
    "wal_receiver_create_temp_slot": "each standby has a slot of its own",
}
OWNED: Final[Mapping[str, str]] = {**VOLATILE, **_PLACES, **_SAFETY}

# A standby must not have less than its primary (safety rule 43).
FLOOR_NAMES: Final = tuple(FLOORS)

_DEFAULTS: Final[Mapping[str, Value]] = {
    "wal_level": "replica",
    "max_wal_senders": 16,
    "max_replication_slots": 16,
    "wal_keep_size": "128MB",
    "hot_standby_feedback": False,
    # Whatever postgresql.conf had before this cluster: below it, no set holds.
    "synchronous_commit": "on",
    "data_sync_retry": False,
    "password_encryption": "scram-sha-256",
    # A cut standby asks again this soon, or a failover costs the default of 5 s.
    "wal_retrieve_retry_interval": "50ms",
    # An idle standby shows that it lives this often; whole seconds is all there is.
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "10s",
    "wal_sender_timeout": "10s",
    "log_destination": "stderr",
    "logging_collector": False,
}
# Settings that may be chosen, but not any value: name -> (allowed, reason).
_CHOICES: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "wal_level": (
        frozenset({"replica", "logical"}),
        "standbys need replica or logical",
    ),
    "synchronous_commit": (
        frozenset({"on", "remote_apply", "true", "yes", "1"}),
        "below 'on' a failover loses acknowledged commits; a session may set it",
    ),
    "data_sync_retry": (
        frozenset({"off", "false", "no", "0"}),
        "a disk that failed to write may say at the next try that it has",
    ),
}
_LEAST: Final[Mapping[str, tuple[int, str]]] = {
    "max_wal_senders": (8, "each standby needs one, and a copy two"),
    "max_replication_slots": (8, "each node has a slot"),
}
_NAME: Final = re.compile(r"[a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)*")
_MILLISECONDS: Final = re.compile(r"(\d+)\s*(ms|s)?")
_RETRY_MAX_MS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A parameter that cannot be used, and why."""

    name: str
    reason: str


def undermines(name: str, value: str) -> bool:
    """Tell whether a setting that somebody made on a server overrides or weakens ours.

    Args:
        name: In lower case.
        value: Without quotes.
    """
    chosen = _CHOICES.get(name)
    return name in OWNED or (chosen is not None and value.lower() not in chosen[0])


def endangers(name: str, value: str) -> bool:
    """Tell whether a running server must not go on with a setting that somebody made.

    Whom it follows and whom commits wait for is the cluster's state: a change of those
    is noticed by what the server says, and the promise is taken back before all else.
    """
    return name not in VOLATILE and undermines(name, value)


def check_parameters(parameters: Mapping[str, Value]) -> tuple[Problem, ...]:
    """Return what is wrong with ``postgresql.parameters``; nothing for a usable one."""
    problems = []
    for name, value in parameters.items():
        reason = _refusal(name.lower(), value)
        if reason is not None:
            problems.append(Problem(name=name, reason=reason))
    return tuple(problems)


def _refusal(name: str, value: Value) -> str | None:
    text = _text(value)
    if not _NAME.fullmatch(name):
        return "not a name of a setting"
    if "\n" in text or "\0" in text:
        return "a value is a single line"
    if name in OWNED:
        return f"pgbastion sets it: {OWNED[name]}"
    if name in _CHOICES and text.lower() not in _CHOICES[name][0]:
        return _CHOICES[name][1]
    if name in _LEAST and (not text.isdecimal() or int(text) < _LEAST[name][0]):
        return f"at least {_LEAST[name][0]}: {_LEAST[name][1]}"
    if name in FLOORS and not text.isdecimal():
        return "a whole number is needed"
    if name == "wal_retrieve_retry_interval" and not _is_short(text):
        return "at most 1s: every failover waits for it"
    return None


def _is_short(text: str) -> bool:
    match = _MILLISECONDS.fullmatch(text.strip())
    if match is None:
        return False
    return int(match[1]) * (1000 if match[2] == "s" else 1) <= _RETRY_MAX_MS


def static_settings(
    identity: PgIdentity,
    socket_dir: str,
    parameters: Mapping[str, Value],
    floors: Mapping[str, int],
) -> dict[str, Value]:
    """Return the settings of ``pgbastion.conf``, names to values.

    Args:
        identity: The server's addresses.
        socket_dir: Where its Unix socket is.
        parameters: Chosen by the user, already checked.
        floors: What pg_control says that the primary had, for a standby; else empty.
    """
    chosen = {name.lower(): value for name, value in parameters.items()}
    settings: dict[str, Value] = {
        **_DEFAULTS,
        **chosen,
        "listen_addresses": ",".join(identity.listen),
        "port": identity.port,
        "unix_socket_directories": socket_dir,
        "fsync": True,
        "full_page_writes": True,
        "wal_log_hints": True,
        "hot_standby": True,
        "restart_after_crash": False,
        "recovery_target_timeline": "latest",
    }
    for name, least in floors.items():
        current = settings.get(name)
        if current is None or int(current) < least:
            settings[name] = least
    return settings


def limits(settings: Mapping[str, Value]) -> dict[str, int]:
    """Return those of the settings that a standby must not undercut."""
    return {name: int(settings[name]) for name in FLOOR_NAMES if name in settings}


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
