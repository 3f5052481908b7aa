"""The profile that the cluster goes by: told, and changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbastion.cli.target import reader, writer


def ask(config: Path, url: str | None) -> Any:
    """Return the profile as a node tells it; None: there is no cluster yet."""
    return reader(config, url).get("/cluster/state")["policy"]


def change(config: Path, url: str | None, profile: str, *, dry_run: bool) -> Any:
    """Order a change and return what comes of it, or would.

    Raises:
        CommandError: It was refused, or nobody can tell.
    """
    body = {"profile": profile}
    return writer(config, url).order("/cluster/profile", body, dry_run=dry_run)


def render_change(said: Mapping[str, Any], *, dry_run: bool) -> str:
    """Return a change in a line."""
    lease_s = said["lease_ms"] / 1_000
    if not said["changed"]:
        return f"{said['profile']} already, with leases of {lease_s:g} s"
    would = "it would become " if dry_run else "it becomes "
    return f"{would}{said['profile']}, with leases of {lease_s:g} s"


def render(policy: Mapping[str, Any] | None) -> str:
    """Return the profile, its lease, and who does not go by it yet, in a line."""
    if policy is None:
        return "there is no cluster yet"
    granted_s, longest_s = policy["granted_ms"] / 1_000, policy["longest_ms"] / 1_000
    line = f"{policy['profile'] or 'each by its own file'}, leases of {granted_s:g} s"
    if longest_s > granted_s:
        line += f"; a failover still waits for those of {longest_s:g} s"
    if policy["not_adopted"]:
        line += f"; not followed yet by {', '.join(policy['not_adopted'])}"
    return line
