"""Judges ``postgresql.parameters``. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from pgbastion.config.problems import Problem

KEY: Final = "postgresql.parameters"

# Settings that are ours, and where to say the same.
OWNED: Final = {
    "listen_addresses": "write postgresql.listen",
    "port": "write postgresql.port",
    "unix_socket_directories": "write postgresql.socket_dir",
    "data_directory": "write postgresql.data_dir",
    "config_file": "write postgresql.config_dir",
    "hba_file": "write postgresql.hba",
    "primary_conninfo": "remove it: pgbastion says whom a standby follows",
    "primary_slot_name": "remove it: every standby has a slot of its own",
    "recovery_target_timeline": "remove it: a standby follows the newest timeline",
    "synchronous_standby_names": "write replication.mode and replication.sync_count",
    "cluster_name": "remove it: it carries the node's name",
    "hot_standby": "remove it: standbys answer reads",
    "restart_after_crash": "remove it: pgbastion judges what follows a crash",
    "wal_log_hints": "remove it: rewinding needs it on",
}
# Values with which an acknowledged commit could be lost, and why.
UNSAFE: Final = {
    "fsync": "a crash of the machine would lose acknowledged commits",
    "full_page_writes": "a crash of the machine could damage the data",
}
# Levels of synchronous_commit that wait for the standbys' disks or more.
WAITING: Final = frozenset({"on", "true", "yes", "1", "remote_apply"})
OFF: Final = frozenset({"off", "false", "no", "0"})


def check_settings(settings: Mapping[str, str], *, waits: bool) -> Iterator[Problem]:
    """Yield settings that are not the user's to make, or that lose commits.

    Args:
        settings: Names in lower case and values as PostgreSQL reads them.
        waits: Commits wait for standbys (``sync`` or ``quorum``).
    """
    for name, value in settings.items():
        if name in OWNED:
            yield _problem(name, "pgbastion sets it itself", OWNED[name])
        elif name in UNSAFE and value.lower() in OFF:
            yield _problem(name, f"{value}: {UNSAFE[name]}", "remove it")
        elif name == "wal_level" and value.lower() == "minimal":
            yield _problem(name, "minimal: standbys could not follow", "remove it")
        elif waits and name == "synchronous_commit" and value.lower() not in WAITING:
            yield _problem(
                name,
                f"{value}: commits would not wait for the standbys that "
                "replication.mode promises",
                "remove it, and let single sessions that may lose commits set it",
            )


def _problem(name: str, problem: str, remedy: str) -> Problem:
    return Problem(key=f"{KEY}.{name}", problem=problem, remedy=remedy)
