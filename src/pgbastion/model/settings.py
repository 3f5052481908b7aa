"""Settings of PostgreSQL that the cluster has agreed on, and what nodes say of them."""

from dataclasses import dataclass
from typing import Final

# What a standby must not have less of than its primary; a restart changes them.
# Source: PostgreSQL, "Hot Standby", administrator's overview.
STANDBY_LIMITS: Final = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)

Parameters = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsVersion:
    """One version of the cluster's settings, whole."""

    version: int
    parameters: Parameters
    by: str
    at: str
    """Wall-clock time of the proposer, for people only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What a node's server runs with, beside what was agreed on."""

    version: int
    """The newest version that is in its files."""
    limits: tuple[tuple[str, int], ...] = ()
    """What it runs with of `STANDBY_LIMITS`."""
    overrides: Parameters = ()
    """Settings of its own file that count instead of the cluster's."""
    waiting: tuple[str, ...] = ()
    """Raised limits that a primary does not take before its standbys run with them."""
