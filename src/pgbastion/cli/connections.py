"""Shows what a node's proxy carries."""

from collections.abc import Mapping
from typing import Any

from pgbastion.cli.tables import render_table
from pgbastion.config.units import render_duration

_BACKENDS = ("port", "node", "sessions", "sent", "received", "failures")
_SESSIONS = (
    "port",
    "client",
    "user",
    "database",
    "application",
    "node",
    "state",
    "age",
    "path",
    "tls",
)


def render_connections(answer: Mapping[str, Any]) -> str:
    """Return the answer of ``GET /connections`` as tables."""
    head = (
        f"{answer['node']}: {answer['connections']} connections, {answer['held']} "
        f"waiting, {answer['opening']} opening; data path: {answer['data_path']} "
        f"({answer['data_path_reason']})"
    )
    lines = [head]
    if answer["draining"]:
        lines.append(f"draining: sessions may go on for {answer['drain_left_s']} s")
    backends = [
        (
            row["port"],
            row["node"],
            row["sessions"],
            row["bytes_to_server"],
            row["bytes_to_client"],
            row["failures_total"],
        )
        for row in answer["backends"]
    ]
    if backends:
        lines += ["", render_table(_BACKENDS, backends, right=_BACKENDS[2:])]
    sessions = [
        (
            row["port"],
            row["client"],
            row["user"],
            row["database"],
            row["application"],
            row["node"],
            row["state"],
            render_duration(round(row["age_s"]) * 1_000),
            row["path"],
            row["encryption"],
        )
        for row in answer["sessions"]
    ]
    if sessions:
        lines += ["", render_table(_SESSIONS, sessions, right=("age",))]
    if answer["sessions_left_out"]:
        lines.append(f"and {answer['sessions_left_out']} more")
    return "\n".join(lines)
