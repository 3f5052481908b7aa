"""Asks a node's API who is what, and shows the answer."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from pgbastion.cli.exits import Exit
from pgbastion.config.load import examine
from pgbastion.config.model import Config
from pgbastion.config.secrets import TOKEN_VARIABLE, strip_line_end
from pgbastion.config.types import Peer
from pgbastion.errors import ConfigError

TIMEOUT_S: Final = 5.0
PRIMARY_ROLE: Final = "leader"
# The API says Patroni's words where its tools read; people get PostgreSQL's.
ROLE_WORDS: Final = {
    "leader": "primary",
    "replica": "standby",
    "sync_standby": "sync standby",
    "quorum_standby": "quorum standby",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to ask, and with which token."""

    url: str
    token: str | None


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


def target_of(config: Path, url: str | None, environment: Mapping[str, str]) -> Target:
    """Return where to ask: at ``url``, else at the API of the node of ``config``.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood.
    """
    token = environment.get(TOKEN_VARIABLE)
    if url is not None:
        return Target(url=url.rstrip("/"), token=token)
    report = examine(config, environment, world=False)
    if report.config is None:
        raise ConfigError(report.render(report.errors))
    return Target(url=_api_url(report.config), token=token or _token(report.config))


def ask(target: Target) -> Answer:
    """Return the node's answers.

    Raises:
        typer.Exit: It does not answer, or not as an API of pgbastion does; a message
            was printed.
    """
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    try:
        with httpx.Client(
            base_url=target.url, headers=headers, timeout=TIMEOUT_S, trust_env=False
        ) as client:
            health = client.get("/health")
            cluster = client.get("/cluster").raise_for_status()
        return Answer(url=target.url, health=health.json(), cluster=cluster.json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        typer.echo(f"pgbastion: {target.url} does not answer: {exc}", err=True)
        raise typer.Exit(Exit.UNREACHABLE) from exc


def render_status(answer: Answer, console: Console | None = None) -> None:
    """Print the members as a table, and what this node says of itself."""
    out = console or Console()
    cluster, health = answer.cluster, answer.health
    table = Table(title=f"cluster {cluster.get('scope')}", title_justify="left")
    for heading in ("node", "role", "state", "address", "timeline", "lag"):
        table.add_column(heading, justify="right" if heading == "lag" else "left")
    for member in cluster.get("members", []):
        table.add_row(*_row(member))
    out.print(table)
    for member in cluster.get("members", []):
        for warning in _restart_warnings(member):
            out.print(f"{member.get('name')}: {warning}", highlight=False)
    primary = cluster.get("primary")
    out.print(
        f"primary {primary or 'none'}, epoch {cluster.get('epoch')}, asked "
        f"{health.get('node')} ({health.get('role')}, {health.get('state')})"
        + (", paused" if health.get("paused") else ""),
        highlight=False,
    )


def _restart_warnings(member: Mapping[str, Any]) -> list[str]:
    warnings = []
    if settings := member.get("pending_restart_settings"):
        warnings.append(f"settings that wait for a restart: {', '.join(settings)}")
    if member.get("taken_over"):
        warnings.append(
            "its PostgreSQL was found running: until its next restart it outlives a "
            "death of daemon and guard together"
        )
    return warnings


def _row(member: Mapping[str, Any]) -> list[str]:
    host, port = member.get("host"), member.get("port")
    role = str(member.get("role"))
    return [
        str(member.get("name")),
        ROLE_WORDS.get(role, role),
        str(member.get("state")),
        f"{host}:{port}" if host and port else "-",
        _or_dash(member.get("timeline")),
        _lag(member.get("lag")),
    ]


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _lag(value: object) -> str:
    if isinstance(value, int):
        return f"{value} B"
    return _or_dash(value)


def _api_url(config: Config) -> str:
    address = ipaddress.ip_address(config.api.bind_address)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    peer = Peer(str(address), config.api.port)
    host = f"[{peer.host}]" if address.version == 6 else peer.host
    return f"http://{host}:{peer.port}"


def _token(config: Config) -> str | None:
    """Return the token for reading where one is needed and this user may read it."""
    path = config.api.read_token_file
    if path is None:
        return None
    try:
        return strip_line_end(path.read_bytes()).decode(errors="replace")
    except OSError:
        return None
