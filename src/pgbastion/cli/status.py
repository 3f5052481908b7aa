"""Asks a node who is what, and shows the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pgbastion.cli.client import Client
from pgbastion.cli.problems import UnreachableError
from pgbastion.cli.tables import render_table

PRIMARY_ROLE: Final = "leader"
# The API says Patroni's words where its tools read; people get PostgreSQL's.
ROLE_WORDS: Final = {
    "leader": "primary",
    "replica": "standby",
    "sync_standby": "sync standby",
    "quorum_standby": "quorum standby",
}
HEADINGS: Final = ("node", "role", "state", "address", "timeline", "lag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node said."""

    url: str
    health: Mapping[str, Any]
    cluster: Mapping[str, Any]

    @property
    def has_primary(self) -> bool:
        """Whether the cluster has a primary that runs."""
        return any(
            member.get("role") == PRIMARY_ROLE and member.get("state") == "running"
            for member in self.cluster.get("members", [])
        )


def ask(client: Client) -> Answer:
    """Return a node's answers.

    Raises:
        UnreachableError: No node answers, or not as an API of pgbastion does.
    """
    cluster = client.get("/cluster")
    health = client.ask("GET", "/health").body
    if not isinstance(cluster, dict) or not isinstance(health, dict):
        raise UnreachableError(f"{client.url} does not answer as pgbastion does")
    return Answer(url=client.url, health=health, cluster=cluster)


def render_members(cluster: Mapping[str, Any]) -> str:
    """Return the members as a table, and the switchover that is scheduled next."""
    rows = [member_row(member) for member in cluster.get("members", [])]
    table = render_table(HEADINGS, rows, right=("timeline", "lag"))
    planned = cluster.get("scheduled_switchover")
    if not planned:
        return table
    to = planned.get("to") or "the best standby"
    return f"{table}\nscheduled: switchover to {to} at {planned.get('at')}"


def render_status(answer: Answer) -> str:
    """Return the members as a table, and what this node says of itself."""
    cluster, health = answer.cluster, answer.health
    lines = [f"cluster {cluster.get('scope')}", render_members(cluster)]
    for member in cluster.get("members", []):
        lines += [f"{member.get('name')}: {w}" for w in _restart_warnings(member)]
    if voting := cluster.get("voting"):
        lines.append(f"votes: {voting}")
    lines += [f"warning: {warning}" for warning in health.get("warnings", ())]
    paused = ", paused" if health.get("paused") else ""
    lines.append(
        f"primary {cluster.get('primary') or 'none'}, epoch {cluster.get('epoch')}, "
        f"asked {health.get('node')} ({health.get('role')}, {health.get('state')})"
        f"{paused}"
    )
    return "\n".join(lines)


def _restart_warnings(member: Mapping[str, Any]) -> list[str]:
    warnings = []
    if settings := member.get("pending_restart_settings"):
        warnings.append(f"settings that wait for a restart: {', '.join(settings)}")
    if member.get("taken_over"):
        warnings.append(
            "its PostgreSQL was found running: until its next restart it survives a "
            "death of daemon and guard together"
        )
    return warnings


def member_row(member: Mapping[str, Any]) -> list[object]:
    """Return a member's values, one a heading."""
    host, port = member.get("host"), member.get("port")
    role, lag = str(member.get("role")), member.get("lag")
    return [
        member.get("name"),
        ROLE_WORDS.get(role, role) + (", fenced" if member.get("fenced") else ""),
        member.get("state"),
        f"{host}:{port}" if host and port else None,
        member.get("timeline"),
        f"{lag} B" if isinstance(lag, int) else lag,
    ]
